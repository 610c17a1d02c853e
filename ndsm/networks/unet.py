"""The paper's U-Net (section 5) for rows that are square grey images: (B, d) and time features (B, e) → (B, d).

Level k = 0, 1, ... sees the image at about side / 2ᵏ through width · 2ᵏ channels. A block is a 3x3 convolution,
the time's projection added to each channel, group normalisation and swish. On the way down the blocks' convolutions
halve the side; on the way up transposed ones restore it, exactly the size of the level above, and
what that level saw on the way down is put beside. The last convolution makes the image.

Where the image is large enough the convolutions do not pad it (28 goes to 26, 12, 5, 2 and back), which halves the work on
28x28 pixels; a smaller one is padded (8 goes to 8, 4, 2, 1).
"""

import math

import torch
from torch import Tensor, nn

from ndsm.errors import InputError

TIME_UNITS = 256
"""Units that carry the time to the blocks."""

GROUP_CHANNELS = 8
"""Channels of a normalisation group."""

SMALLEST_SIDE = 8
"""Pixels a side of the smallest image that is accepted."""

SMALLEST_LEVEL = 2
"""Smallest number of pixels a side of the deepest level without padding; below, convolutions pad."""


def image_side(dimension: int, width: int, depth: int) -> int:
    """Pixels a side of rows that a U-Net of this width and depth can take.

    Raises:
        InputError: the rows are no square images, or width or depth do not fit them.
    """
    side = math.isqrt(dimension)
    if side * side != dimension or side < SMALLEST_SIDE:
        raise InputError(
            f"network.kind 'unet' or 'diffusers': expected rows that are square images of at least {SMALLEST_SIDE}x{SMALLEST_SIDE} "
            f"pixels, found {dimension} columns"
        )
    deepest = int(math.log2(side)) + 1
    if not 2 <= depth <= deepest:
        raise InputError(
            f"network.depth: expected 2 to {deepest} levels of a U-Net on {side}x{side} images, found {depth}"
        )
    if width % GROUP_CHANNELS:
        raise InputError(f"network.width: expected a multiple of {GROUP_CHANNELS} for a U-Net, found {width}")
    return side


def level_sides(side: int, depth: int, pad: int) -> list[int]:
    """Pixels a side of each level, for convolutions that pad by this many pixels (0 or 1)."""
    sides = [side + 2 * pad - 2]
    for _ in range(1, depth):
        sides.append((sides[-1] + 2 * pad - 3) // 2 + 1)
    return sides


class Block(nn.Module):
    """swish(norm(convolution(h) + W time)).

    Args:
        convolution: without a bias, which the time's projection has.
        channels: that it makes.
        time_width: units of the time's embedding.
    """

    def __init__(self, convolution: nn.Module, channels: int, time_width: int) -> None:
        super().__init__()
        self.convolution = convolution
        self.time = nn.Linear(time_width, channels)
        self.norm = nn.GroupNorm(channels // GROUP_CHANNELS, channels)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        """(B, c, s, s), (B, time_width) → (B, channels, s', s')."""
        convolved: Tensor = self.convolution(h)
        full = self.norm.weight.dtype
        # Only convolutions gain from reduced precision: the sums of a normalisation lose by it, and on a CPU are slower.
        with torch.autocast(h.device.type, enabled=False):
            inner = convolved.to(full) + self.time(time.to(full))[:, :, None, None]
            out = nn.functional.silu(self.norm(inner))
        return out.to(convolved.dtype)


class UNet(nn.Module):
    """Blocks down and up with skip connections; 1.05 million weights at the paper's size.

    Cost: one evaluation of a 28x28 row at width 32 and depth 4 is 16 million multiplications, and a training step
    three times that.

    Args:
        dimension: d, the square of the side.
        time_width: e.
        width: channels of the first level, a multiple of 8; each level has twice the channels of the one above.
        depth: levels.

    Raises:
        InputError: the sizes do not fit, see `image_side`.
    """

    def __init__(self, dimension: int, time_width: int, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        self.side = image_side(dimension, width, depth)
        pad = int(level_sides(self.side, depth, 0)[-1] < SMALLEST_LEVEL)
        sides = level_sides(self.side, depth, pad)
        channels = [width * 2**k for k in range(depth)]
        self.time = nn.Sequential(nn.Linear(time_width, TIME_UNITS), nn.SiLU())
        first = nn.Conv2d(1, width, 3, padding=pad, bias=False)
        self.down = nn.ModuleList([Block(first, width, TIME_UNITS)])
        self.up = nn.ModuleList()
        for k in range(1, depth):
            halve = nn.Conv2d(channels[k - 1], channels[k], 3, stride=2, padding=pad, bias=False)
            self.down.append(Block(halve, channels[k], TIME_UNITS))
            # Every level but the deepest is concatenated with its features on the way down.
            entering = channels[k] if k == depth - 1 else 2 * channels[k]
            double = nn.ConvTranspose2d(
                entering, channels[k - 1], 3, stride=2, padding=pad, bias=False,
                output_padding=sides[k - 1] - (2 * sides[k] + 1 - 2 * pad),
            )  # fmt: skip
            self.up.insert(0, Block(double, channels[k - 1], TIME_UNITS))
        # For a single channel a transposed convolution is faster on a CPU.
        self.leave = nn.ConvTranspose2d(2 * width, 1, 3, padding=pad)
        for p in self.leave.parameters():
            nn.init.zeros_(p)
        # On a CPU a step takes a tenth less time with the channels innermost.
        self.to(memory_format=torch.channels_last)

    def forward(self, y: Tensor, time: Tensor) -> Tensor:
        """(B, d), (B, e) → (B, d)."""
        e = self.time(time)
        h = y.reshape(-1, 1, self.side, self.side)
        levels = []
        for block in self.down:
            h = block(h, e)
            levels.append(h)
        h = levels.pop()
        for block in self.up:
            h = torch.cat([block(h, e), levels.pop()], 1)
        out: Tensor = self.leave(h)
        return out.reshape(y.shape)
