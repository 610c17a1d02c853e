"""The image classifier behind FID, inception score and class shares: torchvision's ResNet18 for one grey channel."""

import math

import torch
from torch import Tensor, nn

FEATURES = 512
"""Numbers that ResNet18 knows an image by, before its last layer."""


class ImageClassifier(nn.Module):
    """ResNet18 on rows that are square grey images, (B, d) in [0, 1]."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        # Slow to import, and only evaluations of images need it.
        from torchvision.models import resnet18

        self.trunk = resnet18(num_classes=classes)
        self.trunk.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        self.head = self.trunk.fc
        self.trunk.fc = nn.Identity()
        self.to(memory_format=torch.channels_last)

    def features(self, images: Tensor) -> Tensor:
        """(B, d) → (B, 512)."""
        side = math.isqrt(images.shape[1])
        # Ink and paper at about -1 and 1.
        squares = (2 * images - 1).reshape(-1, 1, side, side).contiguous(memory_format=torch.channels_last)
        out: Tensor = self.trunk(squares)
        return out

    def forward(self, images: Tensor) -> Tensor:
        """(B, d) → (B, classes), logits."""
        out: Tensor = self.head(self.features(images))
        return out
