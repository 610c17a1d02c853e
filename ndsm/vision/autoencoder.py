"""The paper's autoencoder of MNIST (section 5.1): 784 pixels in [0, 1] to 4 numbers and back."""

from torch import Tensor, nn

SIDE = 28
LATENT = 4
"""Numbers in a code."""


class Autoencoder(nn.Module):
    """Three 3x3 convolutions of stride 2, 1 → 8 → 16 → 32 channels, then 288 → 128 → 4; the decoder mirrors it.

    All layers but the code's own and the last have a ReLU; with one on the code, a quarter of the space would hold all
    of it. Batch normalisation stands between the convolutions; the last layer is a sigmoid.
    """

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Unflatten(1, (1, SIDE, SIDE)),
            nn.Conv2d(1, 8, 3, stride=2, padding=1),  # 14 pixels a side
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 16, 3, stride=2, padding=1),  # 7
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2),  # 3
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(288, 128),
            nn.ReLU(),
            nn.Linear(128, LATENT),
        )
        self.decoder = nn.Sequential(
            nn.Linear(LATENT, 128),
            nn.ReLU(),
            nn.Linear(128, 288),
            nn.ReLU(),
            nn.Unflatten(1, (32, 3, 3)),
            nn.ConvTranspose2d(32, 16, 3, stride=2),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 1, 3, stride=2, padding=1, output_padding=1),
            nn.Sigmoid(),
            nn.Flatten(),
        )

    def encode(self, images: Tensor) -> Tensor:
        """(B, 784) → (B, 4)."""
        out: Tensor = self.encoder(images)
        return out

    def decode(self, code: Tensor) -> Tensor:
        """(B, 4) → (B, 784)."""
        out: Tensor = self.decoder(code)
        return out

    def forward(self, images: Tensor) -> Tensor:
        """The image that the code of each image stands for, (B, 784) → (B, 784)."""
        return self.decode(self.encode(images))
