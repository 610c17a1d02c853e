"""Scaling between original and model units, one chunk of rows at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndsm.errors import InputError

CHUNK_VALUES = 1 << 18
"""Numbers converted to float64 at once: 2 MB, whatever the dimension."""


@dataclass(frozen=True, eq=False)
class Scaling:
    """The map original = model * scale + mean, per dimension; both are (d,) float64 and scale > 0."""

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def identity(cls, dimensions: int) -> "Scaling":
        """The scaling that changes nothing, for rows (n, dimensions)."""
        return cls(np.zeros(dimensions), np.ones(dimensions))

    @classmethod
    def fit(
        cls, x: np.ndarray, names: Sequence[str] | None = None, source: str = "data", one_scale: bool = False
    ) -> "Scaling":
        """The scaling to mean 0 and variance 1 of rows (n, d), by two passes in float64.

        Args:
            x: rows (n, d), n >= 2.
            names: the d dimensions' names, for the error message.
            source: where the rows come from, for the error message.
            one_scale: divide all dimensions by the root of their mean variance instead of each by its own.
                It suits images: their contrast between pixels is kept, and constant pixels are no problem.

        Raises:
            InputError: a dimension is constant (with one_scale: all of them are).
        """
        n, dimensions = x.shape
        # float32 sums of 1e7 rows lose the mean's digits, and sum(x^2) - mean^2 cancels even in float64.
        mean = sum((c.sum(axis=0) for c in _chunks(x)), np.zeros(dimensions)) / n
        variance = sum((((c - mean) ** 2).sum(axis=0) for c in _chunks(x)), np.zeros(dimensions)) / n
        # Compared with the first row, because rounding of the mean leaves a constant a tiny variance.
        varies = np.zeros(dimensions, dtype=bool)
        for start, stop in _bounds(x):
            varies |= (x[start:stop] != x[0]).any(axis=0)
        if not (varies.any() if one_scale else varies.all()):
            j = int(np.argmin(varies))
            name = names[j] if names else f"dimension {j}"
            raise InputError(
                f"{source}: column {name!r} is constant ({x[0, j]:g} in all {n} training rows, as float32) "
                "and has no variance to standardise; leave it out with data.columns or set "
                "data.standardize to false"
            )
        scale = np.full(dimensions, np.sqrt(variance.mean())) if one_scale else np.sqrt(variance)
        return cls(mean, scale)

    def apply_(self, x: np.ndarray) -> np.ndarray:
        """The same array (n, d), overwritten with its rows in model units."""
        for start, stop in _bounds(x):
            x[start:stop] = (x[start:stop] - self.mean) / self.scale
        return x

    def invert(self, x: np.ndarray) -> np.ndarray:
        """A new array (n, d) in original units, float32 for float32 rows and else float64."""
        out = np.empty(x.shape, dtype=np.float32 if x.dtype == np.float32 else np.float64)
        for start, stop in _bounds(x):
            out[start:stop] = x[start:stop] * self.scale + self.mean
        return out

    def to_json(self) -> dict[str, Any]:
        """{"mean": [...], "scale": [...]}, exact in float64."""
        return {"mean": self.mean.tolist(), "scale": self.scale.tolist()}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "Scaling":
        """The scaling that `to_json` wrote."""
        return cls(np.array(tree["mean"], dtype=np.float64), np.array(tree["scale"], dtype=np.float64))


def _bounds(x: np.ndarray) -> Iterator[tuple[int, int]]:
    step = max(1, CHUNK_VALUES // max(1, x.shape[1]))
    for start in range(0, len(x), step):
        yield start, min(start + step, len(x))


def _chunks(x: np.ndarray) -> Iterator[np.ndarray]:
    for start, stop in _bounds(x):
        yield x[start:stop].astype(np.float64)
