"""Types that many packages share."""

from typing import Protocol

from torch import Tensor


class Score(Protocol):
    """A score: rows (B, d) and times (B,) → (B, d).

    One that knows labels takes them as a third argument `label`, (B,), where -1 is no label; without it no row has one.
    """

    def __call__(self, y: Tensor, t: Tensor, /) -> Tensor:
        """s(y, t)."""
        ...
