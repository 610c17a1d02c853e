"""Networks for rows: (B, d) and time features (B, e) → (B, d)."""

from itertools import pairwise

import torch
from torch import Tensor, nn

TIME_UNITS = 64
"""Units that carry the time to the blocks of a `ResidualMLP`."""


def zero_linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer that starts as zero."""
    layer = nn.Linear(inputs, outputs)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


class MLP(nn.Module):
    """Fully connected layers with GELU; the paper's has 7 of 32 units (section 4).

    Args:
        dimension: d.
        time_width: e.
        width, depth: units per hidden layer, hidden layers.
        outputs: numbers it returns for each row, d if None.
    """

    def __init__(
        self, dimension: int, time_width: int, width: int = 32, depth: int = 7, outputs: int | None = None
    ) -> None:
        super().__init__()
        sizes = [dimension + time_width] + [width] * depth
        hidden = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.GELU())]
        self.layers = nn.Sequential(*hidden, zero_linear(width, outputs or dimension))

    def forward(self, y: Tensor, time: Tensor) -> Tensor:
        """(B, d), (B, e) → (B, outputs)."""
        out: Tensor = self.layers(torch.cat([y, time], 1))
        return out


class ResidualBlock(nn.Module):
    """h + W2 gelu(W1 norm(h) (1 + a(time)) + b(time))."""

    def __init__(self, width: int, time_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.modulation = nn.Linear(time_width, 2 * width)
        # Each block starts as the identity: depth costs nothing at the start of training.
        self.second = zero_linear(width, width)

    def forward(self, h: Tensor, time: Tensor) -> Tensor:
        """(B, width), (B, e) → (B, width)."""
        gain, bias = self.modulation(time).chunk(2, 1)
        inner = torch.addcmul(bias, self.first(self.norm(h)), 1 + gain)
        out: Tensor = h + self.second(nn.functional.gelu(inner))
        return out


class ResidualMLP(nn.Module):
    """Residual blocks whose hidden units are scaled and shifted by the time: for d in the tens and above.

    Args:
        dimension: d.
        time_width: e.
        width, depth: units per layer, residual blocks.
    """

    def __init__(self, dimension: int, time_width: int, width: int = 256, depth: int = 3) -> None:
        super().__init__()
        # Through many units the modulations would have as many weights as the rest.
        self.time = nn.Sequential(nn.Linear(time_width, TIME_UNITS), nn.SiLU())
        self.enter = nn.Linear(dimension, width)
        self.blocks = nn.ModuleList(ResidualBlock(width, TIME_UNITS) for _ in range(depth))
        self.leave = nn.Sequential(nn.LayerNorm(width), zero_linear(width, dimension))

    def forward(self, y: Tensor, time: Tensor) -> Tensor:
        """(B, d), (B, e) → (B, d)."""
        e = self.time(time)
        h = self.enter(y)
        for block in self.blocks:
            h = block(h, e)
        out: Tensor = self.leave(h)
        return out
