"""The U-Net of the diffusers library as the score network of rows that are square grey images.

Two residual blocks to a level and, unlike the paper's, resizing by powers of two only. The library is optional
(`pip install ndsm[diffusers]`) and imported when such a network is built.
"""

from importlib.util import find_spec

from torch import Tensor, nn

from ndsm.errors import InputError
from ndsm.networks.unet import GROUP_CHANNELS, image_side

TIMESTEPS = 1000.0
"""Range of times for which the library's sinusoidal embedding is designed."""


def divisible_side(dimension: int, width: int, depth: int) -> int:
    """Pixels a side of rows that such a U-Net of this width and depth can take.

    Raises:
        InputError: the library is not installed, or the rows, the width or the depth do not fit, see `image_side`.
    """
    if find_spec("diffusers") is None:
        raise InputError(
            "network.kind 'diffusers': expected the diffusers package, found none; pip install 'ndsm[diffusers]'"
        )
    side = image_side(dimension, width, depth)
    if side % 2 ** (depth - 1):
        raise InputError(
            f"network.depth: expected one at which {side} pixels a side can be halved depth - 1 times for network.kind "
            f"'diffusers', found {depth}"
        )
    return side


class DiffusersUNet(nn.Module):
    """`diffusers.UNet2DModel` without attention: (B, d) and time features (B, e) → (B, d).

    Args:
        dimension: d, the square of the side.
        time_width: e, of which the first feature, log t scaled to [-1, 1], is used.
        width: channels of the first level, a multiple of 8; each level has twice the channels of the one above.
        depth: levels; the side must divide by 2 to the depth - 1.

    Raises:
        InputError: see `divisible_side`.
    """

    def __init__(self, dimension: int, time_width: int, width: int = 32, depth: int = 3) -> None:
        super().__init__()
        self.side = divisible_side(dimension, width, depth)
        from diffusers import UNet2DModel

        self.unet = UNet2DModel(
            sample_size=self.side,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=tuple(width * 2**k for k in range(depth)),
            down_block_types=("DownBlock2D",) * depth,
            up_block_types=("UpBlock2D",) * depth,
            norm_num_groups=GROUP_CHANNELS,
            add_attention=False,
        )
        # As in our own networks, training starts at the stationary score.
        for p in self.unet.conv_out.parameters():
            nn.init.zeros_(p)

    def forward(self, y: Tensor, time: Tensor) -> Tensor:
        """(B, d), (B, e) → (B, d)."""
        images = y.reshape(-1, 1, self.side, self.side)
        out: Tensor = self.unet(images, TIMESTEPS / 2 * (time[:, 0] + 1)).sample
        return out.reshape(y.shape)
