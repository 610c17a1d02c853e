"""Columns of a table as numbers that are easy to learn, and back to exactly what the columns can hold.

original -> transformed: a value with a grid is spread over its cell by a uniform number u (dequantisation), then mapped by the
column's transform: none (`standard`), a logarithm, or normal quantiles. Back, numbers are mapped, put into the column's bounds
and snapped to its grid. Shift and scale are those of `ndsm.data.scaling`, which holds these transforms.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ndsm.data.column_grids import Grid, grid_from_json
from ndsm.data.column_quantiles import Quantiles
from ndsm.errors import InputError

Kind = Literal["standard", "log", "quantile", "constant"]
MAX_EXPONENT = 690.0
"""Largest logarithm that is taken back: float64 has no room for e^710."""


@dataclass(frozen=True, eq=False)
class ColumnTransform:
    """The transform of one column."""

    name: str
    kind: Kind = "standard"
    grid: Grid | None = None
    """The values that its cells can have; None for any number."""
    low: float | None = None
    high: float | None = None
    declared: bool = False
    """Whether the bounds were declared: rows beyond them are an error then."""
    jitter: bool = True
    """Whether values with a grid are spread over their cells; not where float32 could not tell neighbours apart."""
    origin: float = 0.0
    """What lies at minus infinity of a logarithm."""
    quantiles: Quantiles | None = None

    @property
    def is_constant(self) -> bool:
        """Whether all cells are `low`: such a column is no dimension of the model."""
        return self.kind == "constant"

    @property
    def is_plain(self) -> bool:
        """Whether it leaves all numbers as they are."""
        return self.kind == "standard" and self.grid is None and self.low is None and self.high is None

    def forward(self, x: np.ndarray, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Transformed values (n,), and log-volumes (n,): what the log-density of a transformed value grows by.

        With a grid the latter make a probability of a density, otherwise a density in the column's unit. A value beyond the
        bounds has -inf, and is transformed as the bound is. NaN stays.

        Args:
            x: values (n,) float64.
            u: places in their cells and point masses, in [0, 1).
        """
        inside = np.clip(x, self.low, self.high) if self.low is not None or self.high is not None else x
        log_volume = np.zeros(len(x))
        v = inside
        if self.grid is not None:
            v, width = self.grid.spread(inside, u)
            log_volume += np.log(width)
            v = v if self.jitter else inside
        if self.kind == "log":
            v = np.log(np.maximum(v - self.origin, np.exp(-MAX_EXPONENT)))
            log_volume -= v
        elif self.quantiles is not None:
            v, log_slope, at_mass = self.quantiles.forward(v, u)
            # A point mass has no cell.
            log_volume = np.where(at_mass, 0.0, log_volume) + log_slope
        return v, np.where((inside == x) | np.isnan(x), log_volume, -np.inf)

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """The values (n,) that transformed ones stand for, float64."""
        v = np.asarray(y, dtype=np.float64)
        if self.kind == "log":
            v = np.exp(np.clip(v, -MAX_EXPONENT, MAX_EXPONENT)) + self.origin
        elif self.quantiles is not None:
            v = self.quantiles.inverse(v)
        if self.grid is not None:
            return np.clip(self.grid.snap(v, self.low, self.high), self.low, self.high)
        if self.low is None and self.high is None:
            return v
        if self.kind == "standard":
            # Folded at a bound, what a smooth model puts beyond it makes no point mass there.
            v = np.where(v < self.low, 2 * self.low - v, v) if self.low is not None else v
            v = np.where(v > self.high, 2 * self.high - v, v) if self.high is not None else v
        return np.clip(v, self.low, self.high)

    def to_json(self) -> dict[str, Any]:
        """A plain dict for JSON."""
        return {
            **{key: value for key, value in vars(self).items() if key not in ("grid", "quantiles")},
            "grid": self.grid and self.grid.to_json(),
            "quantiles": self.quantiles and self.quantiles.to_json(),
        }

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "ColumnTransform":
        """The transform that `to_json` wrote."""
        grid, quantiles = grid_from_json(tree["grid"]), tree["quantiles"]
        return cls(**{**tree, "grid": grid, "quantiles": quantiles and Quantiles.from_json(quantiles)})

    def __str__(self) -> str:
        """Type and transform, such as "int[18,90] log"."""
        if self.is_constant:
            return f"constant {self.low:.6g}"
        whole = self.grid is not None and self.grid.width >= 1 and float(self.grid.width).is_integer()
        cells = "float" if self.grid is None else "int" if whole else f"step {self.grid.width:.4g}"
        bounds = [f"{bound:.6g}" if bound is not None else "" for bound in (self.low, self.high)]
        return f"{cells}[{','.join(bounds)}] {self.kind}" if any(bounds) else f"{cells} {self.kind}"


@dataclass(frozen=True, eq=False)
class ColumnTransforms:
    """The transforms of the c columns of a table, of which the d that vary are the dimensions of the model."""

    columns: tuple[ColumnTransform, ...]

    @property
    def varying(self) -> list[int]:
        """The columns that are not constant, (d,)."""
        return [j for j, column in enumerate(self.columns) if not column.is_constant]

    @property
    def dimensions(self) -> int:
        """d."""
        return len(self.varying)

    @property
    def names(self) -> list[str]:
        """Names of the d dimensions."""
        return [self.columns[j].name for j in self.varying]

    @property
    def is_plain(self) -> bool:
        """Whether all columns are left as they are."""
        return all(column.is_plain for column in self.columns)

    @property
    def is_linear(self) -> bool:
        """Whether, but for cells and bounds, transformed numbers are the original ones."""
        return all(column.kind == "standard" for column in self.columns)

    def forward(self, x: np.ndarray, u: np.ndarray | None = None) -> np.ndarray:
        """Transformed rows (n, d) float64 of original ones (n, c).

        Args:
            u: (n, d) places in cells and point masses; their middles if None.
        """
        out = np.empty((len(x), self.dimensions))
        for k, j in enumerate(self.varying):
            out[:, k] = self.columns[j].forward(x[:, j].astype(np.float64), _places(x, u, k))[0]
        return out

    def log_volume(self, x: np.ndarray, u: np.ndarray | None = None) -> np.ndarray:
        """The sum over the columns (n,) of the log-volumes of `ColumnTransform.forward`; -inf off a constant."""
        out = np.zeros(len(x))
        for k, j in enumerate(self.varying):
            out += self.columns[j].forward(x[:, j].astype(np.float64), _places(x, u, k))[1]
        for j, column in enumerate(self.columns):
            if column.is_constant:
                out[(x[:, j] != column.low) & ~np.isnan(x[:, j])] = -np.inf
        return out

    def inverse(self, y: np.ndarray) -> np.ndarray:
        """Original rows (n, c) of transformed ones (n, d), float64."""
        out = np.empty((len(y), len(self.columns)))
        for j, column in enumerate(self.columns):
            if column.is_constant:
                out[:, j] = column.low
        for k, j in enumerate(self.varying):
            out[:, j] = self.columns[j].inverse(y[:, k])
        return out

    def check(self, x: np.ndarray, source: str = "the rows") -> None:
        """Check rows (n, d) against declared bounds.

        Raises:
            InputError: a number lies beyond them; column and row are named.
        """
        for j, column in enumerate(self.columns):
            if column.declared:
                check_bounds(x[:, j], column.name, column.low, column.high, source)

    def describe(self, most: int = 12) -> str:
        """Each column with its type and transform; of many columns how many have which."""
        if len(self.columns) <= most:
            return "columns: " + "; ".join(f"{column.name} {column}" for column in self.columns)
        groups: dict[str, list[str]] = {}
        for column in self.columns:
            groups.setdefault(str(column), []).append(column.name)
        parts = [
            f"{kind} ({', '.join(names[:3])})" if len(names) <= 3 else f"{len(names)} {kind}"
            for kind, names in sorted(groups.items(), key=lambda item: -len(item[1]))
        ]
        more = f"; and {len(parts) - most} kinds more" if len(parts) > most else ""
        return f"{len(self.columns)} columns: " + "; ".join(parts[:most]) + more

    def to_json(self) -> list[dict[str, Any]]:
        """A plain list for JSON."""
        return [column.to_json() for column in self.columns]

    @classmethod
    def from_json(cls, tree: Sequence[dict[str, Any]]) -> "ColumnTransforms":
        """The transforms that `to_json` wrote."""
        return cls(tuple(ColumnTransform.from_json(column) for column in tree))


def check_bounds(
    x: np.ndarray,
    name: str,
    low: float | None,
    high: float | None,
    source: str,
    where: Callable[[int], str] = lambda i: f"row {i + 1}",
) -> None:
    """Check a column (n,) against declared bounds.

    Raises:
        InputError: a number lies beyond them; column and row are named.
    """
    for bound, wrong, word in (
        (low, x < (-np.inf if low is None else low), "at least"),
        (high, x > (np.inf if high is None else high), "at most"),
    ):
        if wrong.any():
            i = int(wrong.argmax())
            raise InputError(
                f"{source}: expected {word} {bound:g} in column {name!r}, as data.column_types declares, found {x[i]:g} in "
                f"{where(i)}"
            )


def _places(x: np.ndarray, u: np.ndarray | None, j: int) -> np.ndarray:
    return np.full(len(x), 0.5) if u is None else u[:, j].astype(np.float64)
