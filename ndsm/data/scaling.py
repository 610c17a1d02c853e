"""Scaling between original and model units, one chunk of rows at a time.

original -> transformed: each column by its transform, if there are any (`ndsm.data.column_transforms`); transformed ->
standardised: each dimension shifted and divided by its scale; standardised -> model: whitened by a matrix, if data.whiten says so,
else the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import DTypeLike

from ndsm.core.symmetry import Symmetry, mean_image
from ndsm.data.column_transforms import ColumnTransforms
from ndsm.errors import InputError

CHUNK_VALUES = 1 << 18
"""Numbers converted to float64 at once: 2 MB, whatever the dimension."""
LEAST_STEPS = 20.0
"""Least ratio of a column's standard deviation to the spacing of floating-point numbers there."""


@dataclass(frozen=True, eq=False)
class Whitening:
    """The map standardised = model @ colour; the matrix is (d, d) float64, symmetric and positive definite."""

    colour: np.ndarray
    _inverse: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_inverse", np.linalg.inv(self.colour))

    def apply_(self, x: np.ndarray) -> np.ndarray:
        """Convert standardised rows (n, d) to model units in place; returns the same array."""
        for start, stop in chunk_bounds(x):
            x[start:stop] = x[start:stop].astype(np.float64) @ self._inverse
        return x

    def invert(self, x: np.ndarray) -> np.ndarray:
        """Convert rows (n, d) from model to standardised units; a new array of the same precision."""
        out = np.empty_like(x)
        for start, stop in chunk_bounds(x):
            out[start:stop] = self.invert_chunk(x[start:stop])
        return out

    def invert_chunk(self, x: np.ndarray) -> np.ndarray:
        """As `invert` for one chunk of rows, in float64."""
        return x.astype(np.float64) @ self.colour


@dataclass(frozen=True, eq=False)
class Scaling:
    """The map transformed = standardised * scale + mean, per dimension; both are (d,) float64 and scale > 0.

    Original numbers are the transformed ones where there are no `columns`.

    Model units are the standardised ones, or those of a whitening. Original numbers are centred and scaled in float64:
    float32 has no room for the seconds of a Unix time.
    """

    mean: np.ndarray
    scale: np.ndarray
    whitening: Whitening | None = None
    rounded: bool = False
    """Whether original numbers are rounded to float32 before they are centred, as in runs of earlier versions: their rows
    have to stay the same to the last bit."""
    columns: ColumnTransforms | None = None
    """The columns' transforms."""

    @property
    def dimensions(self) -> int:
        """d."""
        return len(self.mean)

    @property
    def original_dimensions(self) -> int:
        """Columns of original rows: more than d if some are constant."""
        return len(self.mean) if self.columns is None else len(self.columns.columns)

    @property
    def log_volume(self) -> float:
        """log |det| of the map from model to transformed units: log-densities in these are less by it."""
        colour = 0.0 if self.whitening is None else float(np.linalg.slogdet(self.whitening.colour)[1])
        return float(np.log(self.scale).sum()) + colour

    @classmethod
    def identity(cls, dimensions: int) -> "Scaling":
        """The identity scaling of rows (n, dimensions)."""
        return cls(np.zeros(dimensions), np.ones(dimensions))

    @classmethod
    def fit(
        cls,
        x: np.ndarray,
        names: Sequence[str] | None = None,
        source: str = "data",
        one_scale: bool = False,
        precision: DTypeLike | None = None,
    ) -> "Scaling":
        """The scaling to mean 0 and variance 1 of rows (n, d), by two passes in float64.

        Args:
            x: rows (n, d), n >= 2.
            names: the d dimensions' names, for the error message.
            source: where the rows come from, for the error message.
            one_scale: divide all dimensions by the root of their mean variance instead of each by its own.
                It suits images: their contrast between pixels is kept, and constant pixels are no problem.
            precision: the floating-point type that the rows' numbers are known in, that of x if None.

        Raises:
            InputError: a dimension is constant (with one_scale: all of them are), varies too little beside its size, or has
                numbers too large for their variance.
        """
        n = len(x)
        mean, variance = mean_and_variance(x)
        return cls._checked(
            mean, variance, varying(x), x[0], n, names, source, one_scale, precision or x.dtype
        )

    @classmethod
    def of_columns(cls, columns: ColumnTransforms, rows: np.ndarray, u: np.ndarray, source: str) -> "Scaling":
        """The scaling to mean 0 and variance 1 of original rows (n, c) after the columns' transforms.

        Args:
            u: as of `apply`.
            source: where the rows come from, for the error message.

        Raises:
            InputError: as `fit`.
        """
        # Before noise gives what hardly varies a variance.
        own = rows[:, columns.varying]
        fitted = cls._checked(
            *mean_and_variance(own), varying(own), own[0], len(rows), columns.names, source, False, np.float64
        )
        mean, variance = mean_and_variance(columns.forward(rows, u))
        return replace(fitted, mean=mean, scale=np.sqrt(variance), columns=columns)

    @classmethod
    def of_moments(
        cls, moments: "Moments", names: Sequence[str] | None = None, source: str = "data"
    ) -> "Scaling":
        """As `fit`, from the moments of float64 rows."""
        m = moments
        assert m.first is not None
        return cls._checked(m.mean, m.variance, m.varies, m.first, m.n, names, source, False, np.float64)

    @classmethod
    def _checked(
        cls,
        mean: np.ndarray,
        variance: np.ndarray,
        varies: np.ndarray,
        first: np.ndarray,
        n: int,
        names: Sequence[str] | None,
        source: str,
        one_scale: bool,
        precision: DTypeLike,
    ) -> "Scaling":
        """The scaling of n rows, of which `first` is one and `varies` (d,) says in which dimensions others differ from it."""
        if not (varies.any() if one_scale else varies.all()):
            j = int(np.argmin(varies))
            step = np.spacing(abs(float(first[j])))
            rounded = f", in float64, whose steps there are {step:g}" if step > 1 else ""
            raise InputError(
                f"{source}: column {_name(names, j)!r} is constant ({first[j]:g} in all {n} training rows{rounded}) "
                "and has no variance to standardise; leave it out with data.columns or set "
                "data.standardize to false"
            )
        scale = np.full(len(mean), np.sqrt(variance.mean())) if one_scale else np.sqrt(variance)
        if not np.isfinite(scale).all():
            j = int(np.argmin(np.isfinite(scale)))
            raise InputError(
                f"{source}: column {_name(names, j)!r} has numbers as large as {abs(mean[j]):.3g}, whose variance no float64 holds; "
                "divide them by a number first"
            )
        if (variance < np.finfo(np.float64).tiny).any() and not one_scale:
            j = int(np.argmin(variance))
            raise InputError(
                f"{source}: column {_name(names, j)!r} has numbers around {mean[j]:.3g}, whose variance is too small for float64; "
                "multiply them by a number first"
            )
        _check_steps(mean, scale, np.dtype(precision), names, source, "subtract a number near its mean first")
        return cls(mean, scale)

    def log_volumes(self, x: np.ndarray, u: np.ndarray | None = None) -> np.ndarray | float:
        """What log-densities of original rows (n, d) are less by than those in model units: (n,), or a number for all.

        Args:
            u: as of `apply`.
        """
        if self.columns is None:
            return self.log_volume
        return self.log_volume - self.columns.log_volume(x, u)

    def linear(self, purpose: str) -> "Scaling":
        """The scaling without cells and bounds of the columns.

        Raises:
            InputError: a column has another transform than `standard`, whose map is not linear.
        """
        if self.columns is None or self.columns.is_linear:
            return replace(self, columns=None)
        bent = next(column for column in self.columns.columns if column.kind != "standard")
        raise InputError(
            f"{purpose}: expected columns that are shifted and scaled alone, found {bent.name!r} with the transform {bent.kind}; "
            "train with data.transform standard"
        )

    def symmetrised(self, group: Sequence[Symmetry]) -> "Scaling":
        """The scaling that commutes with permutations of the dimensions: the mean's and the variances' mean over them."""
        mean, variance = mean_image(group, torch.from_numpy(np.stack([self.mean, self.scale**2]))).numpy()
        return Scaling(mean, np.sqrt(variance))

    def standardise(self, x: np.ndarray, u: np.ndarray | None = None) -> np.ndarray:
        """Convert rows (n, d) from original to standardised units; new, float32, NaN stays.

        Args:
            u: as of `apply`.
        """
        out = np.empty((len(x), self.dimensions), dtype=np.float32)
        for start, stop in chunk_bounds(x):
            chunk = x[start:stop].astype(np.float32) if self.rounded else x[start:stop]
            if self.columns is not None:
                chunk = self.columns.forward(chunk, None if u is None else u[start:stop])
            with np.errstate(over="ignore"):
                out[start:stop] = (chunk - self.mean) / self.scale
        return out

    def standardise_(self, x: np.ndarray) -> np.ndarray:
        """Convert rows (n, d) from transformed to standardised units in place; returns the same array."""
        for start, stop in chunk_bounds(x):
            x[start:stop] = (x[start:stop] - self.mean) / self.scale
        return x

    def apply(self, x: np.ndarray, u: np.ndarray | None = None) -> np.ndarray:
        """Convert rows (n, d) from original to model units; new, float32, NaN stays.

        Args:
            u: uniform numbers (n, d) that values of columns with a grid are spread over their cells by, the cells' middle if None.

        Raises:
            InputError: a finite number lies so far from the data that float32 has no room for it.
        """
        out = self.standardise(x, u)
        if len(far := np.argwhere(np.isinf(out))):
            i, k = far[0]
            j = k if self.columns is None else self.columns.varying[k]
            raise InputError(
                f"column {j + 1}: expected numbers within 1e38 standard deviations of the training rows' mean {self.mean[k]:g}, "
                f"found {x[i, j]:g}"
            )
        return out if self.whitening is None else self.whitening.apply_(out)

    def standardised(self, x: np.ndarray) -> np.ndarray:
        """Convert rows (n, d) from model to standardised units; the same array if there is no whitening."""
        return x if self.whitening is None else self.whitening.invert(x)

    def invert(self, x: np.ndarray) -> np.ndarray:
        """Convert rows (n, d) from model to original units; a new float64 array, with the constant columns."""
        out = np.empty((len(x), self.original_dimensions))
        for start, stop in chunk_bounds(x):
            chunk = x[start:stop]
            if self.whitening is not None:
                chunk = self.whitening.invert_chunk(chunk)
            chunk = chunk * self.scale + self.mean
            out[start:stop] = chunk if self.columns is None else self.columns.inverse(chunk)
        return out

    def to_json(self) -> dict[str, Any]:
        """{"mean": [...], "scale": [...]} and, of whitened rows, "colour": [[...], ...]; exact in float64.

        "columns" are the columns' transforms, if there are any. "precision" is "float64" but for rows that are rounded to float32 first.
        """
        tree: dict[str, Any] = {"mean": self.mean.tolist(), "scale": self.scale.tolist()}
        if not self.rounded:
            tree["precision"] = "float64"
        if self.columns is not None:
            tree["columns"] = self.columns.to_json()
        return tree if self.whitening is None else {**tree, "colour": self.whitening.colour.tolist()}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "Scaling":
        """The scaling that `to_json` wrote."""
        mean, scale = (np.array(tree[key], dtype=np.float64) for key in ("mean", "scale"))
        colour = tree.get("colour")
        whitening = None if colour is None else Whitening(np.array(colour, dtype=np.float64))
        columns = None if "columns" not in tree else ColumnTransforms.from_json(tree["columns"])
        return cls(mean, scale, whitening, rounded="precision" not in tree, columns=columns)


class Moments:
    """Mean and variance of float64 rows (n, d) that come in batches, merged as Chan, Golub and LeVeque (1983) do."""

    def __init__(self) -> None:
        self.n = 0
        self.first: np.ndarray | None = None
        """(d,) the first row."""

    @property
    def variance(self) -> np.ndarray:
        """(d,) mean squared distance from the mean."""
        return self._squares / self.n

    def add(self, x: np.ndarray) -> None:
        """Take in rows (b, d)."""
        if not len(x):
            return
        with np.errstate(over="ignore", invalid="ignore"):
            mean = x.mean(axis=0)
            squares = ((x - mean) ** 2).sum(axis=0)
            if self.first is None:
                self.first = x[0].copy()
                self.varies = (x != self.first).any(axis=0)
                self.n, self.mean, self._squares = len(x), mean, squares
                return
            self.varies |= (x != self.first).any(axis=0)
            step, total = mean - self.mean, self.n + len(x)
            self._squares += squares + step**2 * (self.n * len(x) / total)
            self.mean = self.mean + step * (len(x) / total)
            self.n = total


def mean_and_variance(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (d,) of rows (n, d), by two passes in float64."""
    # float32 sums of 1e7 rows lose the mean's digits, and sum(x^2) - mean^2 cancels even in float64.
    n, zeros = len(x), np.zeros(x.shape[1])
    mean = sum((c.sum(axis=0) for c in chunks(x)), zeros) / n
    return mean, sum((((c - mean) ** 2).sum(axis=0) for c in chunks(x)), zeros) / n


def varying(x: np.ndarray) -> np.ndarray:
    """Whether each dimension of rows (n, d) takes more than one value, (d,)."""
    # Compared with the first row, because rounding of the mean leaves a constant a tiny variance.
    varies = np.zeros(x.shape[1], dtype=bool)
    for start, stop in chunk_bounds(x):
        varies |= (x[start:stop] != x[0]).any(axis=0)
    return varies


def check_resolution(
    mean: np.ndarray, variance: np.ndarray, varies: np.ndarray, names: Sequence[str], source: str
) -> None:
    """Check that float32 resolves the variation of rows that are not standardised.

    Args:
        mean, variance: of each dimension, (d,).
        varies: whether the dimension takes more than one value, (d,).

    Raises:
        InputError: a dimension varies too little beside its size.
    """
    # A constant column has no variation to resolve.
    scale = np.where(varies, np.sqrt(variance), np.inf)
    _check_steps(mean, scale, np.dtype(np.float32), names, source, "set data.standardize to true")


def _check_steps(
    mean: np.ndarray, scale: np.ndarray, kind: np.dtype, names: Sequence[str] | None, source: str, advice: str
) -> None:
    """Raise InputError if a floating-point type's spacing around a mean (d,) is too coarse for its scale (d,)."""
    with np.errstate(over="ignore"):
        spacing = np.spacing(np.abs(mean).astype(kind)).astype(np.float64)
    if (coarse := scale < LEAST_STEPS * spacing).any():
        j = int(np.argmax(coarse))
        raise InputError(
            f"{source}: column {_name(names, j)!r} lies around {mean[j]:g} with a standard deviation of {scale[j]:.3g}, which "
            f"{kind}'s steps of {spacing[j]:.3g} there are too coarse for; {advice}"
        )


def _name(names: Sequence[str] | None, j: int) -> str:
    return names[j] if names else f"dimension {j}"


def chunk_bounds(x: np.ndarray) -> Iterator[tuple[int, int]]:
    """Start and stop of consecutive chunks of rows (n, d), each of at most CHUNK_VALUES numbers."""
    step = max(1, CHUNK_VALUES // max(1, x.shape[1]))
    for start in range(0, len(x), step):
        yield start, min(start + step, len(x))


def chunks(x: np.ndarray) -> Iterator[np.ndarray]:
    """Consecutive chunks of rows (n, d) in float64."""
    for start, stop in chunk_bounds(x):
        yield x[start:stop].astype(np.float64)
