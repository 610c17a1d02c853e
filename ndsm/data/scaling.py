"""Scaling between original and model units, one chunk of rows at a time.

original -> standardised: each dimension shifted and divided by its scale; standardised -> model: whitened by a
matrix, if data.whiten says so, else the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ndsm.errors import InputError
from ndsm.symmetry import Symmetry, mean_image

CHUNK_VALUES = 1 << 18
"""Numbers converted to float64 at once: 2 MB, whatever the dimension."""
LEAST_STEPS = 20.0
"""Of float32 in a column's standard deviation."""


@dataclass(frozen=True, eq=False)
class Whitening:
    """The map standardised = model @ colour; the matrix is (d, d) float64, symmetric and positive definite."""

    colour: np.ndarray
    _inverse: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_inverse", np.linalg.inv(self.colour))

    def apply_(self, x: np.ndarray) -> np.ndarray:
        """The same array (n, d), overwritten with its standardised rows in model units."""
        for start, stop in chunk_bounds(x):
            x[start:stop] = x[start:stop].astype(np.float64) @ self._inverse
        return x

    def invert(self, x: np.ndarray) -> np.ndarray:
        """A new array (n, d) of rows in standardised units, in the rows' own precision."""
        out = np.empty_like(x)
        for start, stop in chunk_bounds(x):
            out[start:stop] = self.invert_chunk(x[start:stop])
        return out

    def invert_chunk(self, x: np.ndarray) -> np.ndarray:
        """A new float64 array of rows (n, d) in standardised units, few enough to be converted at once."""
        return x.astype(np.float64) @ self.colour


@dataclass(frozen=True, eq=False)
class Scaling:
    """The map original = standardised * scale + mean, per dimension; both are (d,) float64 and scale > 0.

    Model units are the standardised ones, or those of a whitening.
    """

    mean: np.ndarray
    scale: np.ndarray
    whitening: Whitening | None = None

    @property
    def dimensions(self) -> int:
        """d."""
        return len(self.mean)

    @property
    def log_volume(self) -> float:
        """log |det| of the map from model to original units: log-densities in original units are less by it."""
        colour = 0.0 if self.whitening is None else float(np.linalg.slogdet(self.whitening.colour)[1])
        return float(np.log(self.scale).sum()) + colour

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
            InputError: a dimension is constant (with one_scale: all of them are), or varies too little beside its size.
        """
        n, dimensions = x.shape
        # float32 sums of 1e7 rows lose the mean's digits, and sum(x^2) - mean^2 cancels even in float64.
        mean = sum((c.sum(axis=0) for c in chunks(x)), np.zeros(dimensions)) / n
        variance = sum((((c - mean) ** 2).sum(axis=0) for c in chunks(x)), np.zeros(dimensions)) / n
        # Compared with the first row, because rounding of the mean leaves a constant a tiny variance.
        varies = np.zeros(dimensions, dtype=bool)
        for start, stop in chunk_bounds(x):
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
        spacing = np.spacing(np.abs(mean).astype(np.float32))
        if x.dtype == np.float32 and (coarse := scale < LEAST_STEPS * spacing).any():
            j = int(np.argmax(coarse))
            name = names[j] if names else f"dimension {j}"
            raise InputError(
                f"{source}: column {name!r} lies around {mean[j]:g} with a standard deviation of {scale[j]:.3g}, which float32's "
                f"steps of {spacing[j]:.3g} there are too coarse for; subtract a number near its mean first"
            )
        return cls(mean, scale)

    def symmetrised(self, group: Sequence[Symmetry]) -> "Scaling":
        """The scaling that commutes with permutations of the dimensions: the mean's and the variances' mean over them."""
        mean, variance = mean_image(group, torch.from_numpy(np.stack([self.mean, self.scale**2]))).numpy()
        return Scaling(mean, np.sqrt(variance))

    def standardise_(self, x: np.ndarray) -> np.ndarray:
        """The same array (n, d), overwritten with its rows in standardised units."""
        for start, stop in chunk_bounds(x):
            x[start:stop] = (x[start:stop] - self.mean) / self.scale
        return x

    def apply_(self, x: np.ndarray) -> np.ndarray:
        """The same array (n, d), overwritten with its rows in model units."""
        self.standardise_(x)
        return x if self.whitening is None else self.whitening.apply_(x)

    def standardised(self, x: np.ndarray) -> np.ndarray:
        """Rows (n, d) from model to standardised units; the same array if the two are the same."""
        return x if self.whitening is None else self.whitening.invert(x)

    def invert(self, x: np.ndarray) -> np.ndarray:
        """A new array (n, d) in original units, float32 for float32 rows and else float64."""
        out = np.empty(x.shape, dtype=np.float32 if x.dtype == np.float32 else np.float64)
        for start, stop in chunk_bounds(x):
            chunk = x[start:stop]
            if self.whitening is not None:
                chunk = self.whitening.invert_chunk(chunk)
            out[start:stop] = chunk * self.scale + self.mean
        return out

    def to_json(self) -> dict[str, Any]:
        """{"mean": [...], "scale": [...]} and, of whitened rows, "colour": [[...], ...]; exact in float64."""
        tree = {"mean": self.mean.tolist(), "scale": self.scale.tolist()}
        return tree if self.whitening is None else {**tree, "colour": self.whitening.colour.tolist()}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "Scaling":
        """The scaling that `to_json` wrote."""
        mean, scale = (np.array(tree[key], dtype=np.float64) for key in ("mean", "scale"))
        # Runs of before there was whitening have no matrix either.
        colour = tree.get("colour")
        return cls(mean, scale, None if colour is None else Whitening(np.array(colour, dtype=np.float64)))


def chunk_bounds(x: np.ndarray) -> Iterator[tuple[int, int]]:
    """Start and stop of consecutive chunks of rows (n, d), each of at most CHUNK_VALUES numbers."""
    step = max(1, CHUNK_VALUES // max(1, x.shape[1]))
    for start in range(0, len(x), step):
        yield start, min(start + step, len(x))


def chunks(x: np.ndarray) -> Iterator[np.ndarray]:
    """Consecutive chunks of rows (n, d) in float64."""
    for start, stop in chunk_bounds(x):
        yield x[start:stop].astype(np.float64)
