"""The values that a column's cells can have: whole steps, or a list of levels. Dequantisation spreads a value over its cell."""

from dataclasses import dataclass
from typing import Any

import numpy as np

MAX_DIGITS = 6
"""Most digits after the point that decimals are looked for with."""


@dataclass(frozen=True)
class Steps:
    """The numbers (first + k step) / 10^digits for whole k; the cell of a value reaches half a step to either side."""

    first: int
    step: int
    digits: int

    @property
    def width(self) -> float:
        """The step."""
        return self.step / 10.0**self.digits

    def spread(self, x: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The point at the share u of the cell of each value x, and the cells' widths; all (n,)."""
        return x + self.width * (u - 0.5), np.full(len(x), self.width)

    def edges(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper edge of the cell of each value x, (n,) each."""
        return x - self.width / 2, x + self.width / 2

    def snap(self, v: np.ndarray, low: float | None, high: float | None) -> np.ndarray:
        """The value nearest to v, (n,), between the bounds; exactly what a decimal literal stands for."""
        size = 10.0**self.digits
        k = np.rint((v * size - self.first) / self.step)
        if low is not None:
            k = np.maximum(k, np.ceil((low * size - self.first) / self.step - 1e-6))
        if high is not None:
            k = np.minimum(k, np.floor((high * size - self.first) / self.step + 1e-6))
        return np.asarray((self.first + k * self.step) / size)

    def to_json(self) -> dict[str, Any]:
        """A plain dict for JSON."""
        return vars(self).copy()


@dataclass(frozen=True, eq=False)
class Levels:
    """The numbers of a list; the cell of a level reaches half of the way to the next ones."""

    values: np.ndarray
    """(L,) in ascending order, L >= 2."""

    @property
    def _edges(self) -> np.ndarray:
        v = self.values
        middle = v[:-1] + (v[1:] - v[:-1]) / 2
        return np.concatenate([[v[0] - (middle[0] - v[0])], middle, [v[-1] + (v[-1] - middle[-1])]])

    @property
    def width(self) -> float:
        """The least width of a cell."""
        return float(np.diff(self._edges).min())

    def _place(self, v: np.ndarray) -> np.ndarray:
        return np.clip(np.searchsorted(self._edges, v, "right") - 1, 0, len(self.values) - 1)

    def spread(self, x: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The point at the share u of the cell of each value x, and the cells' widths; all (n,)."""
        low, high = self.edges(x)
        return low + (high - low) * u, high - low

    def edges(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lower and upper edge of the cell of each value x, (n,) each."""
        edges, place = self._edges, self._place(x)
        return edges[place], edges[place + 1]

    def snap(self, v: np.ndarray, low: float | None, high: float | None) -> np.ndarray:
        """The level in whose cell v lies, (n,)."""
        return np.asarray(self.values[self._place(v)])

    def to_json(self) -> dict[str, Any]:
        """A plain dict for JSON."""
        return {"values": self.values.tolist()}


Grid = Steps | Levels


def grid_from_json(tree: dict[str, Any] | None) -> Grid | None:
    """The grid that `to_json` wrote."""
    if tree is None:
        return None
    return Levels(np.array(tree["values"], dtype=np.float64)) if "values" in tree else Steps(**tree)
