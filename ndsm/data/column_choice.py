"""The choice of each column's transform from its numbers.

One pass over all rows finds exact things (range, steps, levels), and a sample of the training rows the rest:

- whole numbers and decimals, or numbers of few different values, have a grid, and are dequantised;
- 0 is a bound if all numbers are on one side of it, and 1 of numbers between 0 and 1; so is an end with a share of the rows, and the
  ends of a few whole numbers;
- numbers with point masses, heavy tails or outliers go to normal quantiles, or to their logarithm if that is nearly normal; all
  others are shifted and scaled, which keeps apart what is apart (rare kinds, modes).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ndsm.config.column_types import ColumnType
from ndsm.data.column_grids import MAX_DIGITS, Grid, Levels, Steps
from ndsm.data.column_quantiles import Quantiles
from ndsm.data.column_transforms import ColumnTransform, ColumnTransforms, Kind, check_bounds
from ndsm.errors import InputError

SAMPLE_VALUES, LEAST_SAMPLE = 1 << 22, 2_000
"""Numbers of the sample of training rows: 32 MB; and least number of its rows where there are as many."""
MAX_LEVELS, ROWS_PER_LEVEL = 256, 4
"""Most different values that are levels, and least mean number of rows of each."""
POINT_MASS = 0.05
"""Least share of the rows of a point mass among numbers without a grid, and of a spike among those with one."""
SPIKE = 4.0
"""How many times more rows a spike has than a normal column of the same standard deviation has in its densest cell, and than the
most frequent values beside `MASSES` of them."""
MASSES = 4
MAX_CODES = 32
"""Most values of a range with hardly a gap whose ends are bounds however rare they are."""
END_SHARE, END_ROWS = 0.01, 3
"""Least share and number of rows at an end that is a bound."""
HEAVY = 6.0
"""Excess kurtosis from which tails are heavy: that of an exponential law."""
FINEST = 2.0**-16
"""Least width of a cell, in standard deviations, that values are spread over: float32 tells 64 places in it apart."""
LEAST_SHARE_OF_MASS = 0.01
"""Least share of a point mass in a column that goes to quantiles anyway."""
LARGEST_WHOLE = 2.0**53
_LEFT = ColumnType("float", transform="standard")
"""Of a column that is shifted and scaled alone."""


@dataclass
class _Exact:
    """What a pass over all numbers of a column finds."""

    precision: type
    low: float = np.inf
    high: float = -np.inf
    digits: int | None = 0
    """Digits after the point that all numbers have at most; None for more than `MAX_DIGITS`."""
    first: int = 0
    step: int = 0
    """Greatest common divisor of the differences from `first`, in 10^-digits."""
    levels: np.ndarray | None = field(default_factory=lambda: np.empty(0))
    """Different values, None if there are too many."""
    begun: bool = False

    def add(self, x: np.ndarray) -> None:
        """Take in numbers (n,)."""
        if not len(x):
            return
        self.low, self.high = min(self.low, float(x.min())), max(self.high, float(x.max()))
        if self.levels is not None:
            self.levels = np.union1d(self.levels, x)
            if len(self.levels) > MAX_LEVELS:
                self.levels = None
        if self.digits is None:
            return
        found = _digits(x, self.precision, self.digits)
        if found is None:
            self.digits = None
            return
        raised = 10 ** (found - self.digits)
        self.first, self.step, self.digits = self.first * raised, self.step * raised, found
        whole = np.rint(x * 10.0**found).astype(np.int64)
        if not self.begun:
            self.first, self.begun = int(whole[0]), True
        self.step = int(np.gcd(self.step, np.gcd.reduce(whole - self.first)))

    @property
    def steps(self) -> Steps | None:
        """The steps of the numbers, None if they have none."""
        if self.digits is None or not self.step:
            return None
        return Steps(self.first % self.step, self.step, self.digits)


def _digits(x: np.ndarray, precision: type, least: int) -> int | None:
    """Digits after the point with which all numbers (n,) are decimals, at least `least`; None for more than `MAX_DIGITS`."""
    for digits in range(least, MAX_DIGITS + 1):
        if np.abs(x).max() * 10.0**digits >= LARGEST_WHOLE:
            return None
        rounded = np.rint(x * 10.0**digits) / 10.0**digits
        if (rounded.astype(precision) == x.astype(precision)).all():
            return digits
    return None


class ColumnSurvey:
    """What batches of rows (b, d) tell about their columns.

    Args:
        names: of the d columns.
        declared: types by column name.
        precisions: floating-point type that each column's numbers are known in.
        rows: number of training rows.
        source: where the rows come from, for error messages.
        auto: whether columns that are not declared have transforms, too.
        where: what a row of the source is called in them.

    Raises:
        InputError: a declared column does not exist.
    """

    def __init__(
        self,
        names: Sequence[str],
        declared: Mapping[str, str],
        precisions: Sequence[type],
        rows: int,
        source: str,
        auto: bool = True,
        where: Callable[[int], str] = lambda row: f"row {row + 1}",
    ) -> None:
        for name in declared:
            if name not in names:
                raise InputError(
                    f"data.column_types: expected columns of {source}, found {name!r}; it has {', '.join(names[:20])}"
                )
        self.names, self.source, self._where = names, source, where
        left = ColumnType() if auto else _LEFT
        self._declared = [ColumnType.parse(declared[name]) if name in declared else left for name in names]
        self._exact = [_Exact(precision) for precision in precisions]
        size = max(LEAST_SAMPLE, SAMPLE_VALUES // max(1, len(names)))
        self.sample = np.empty((min(rows, size), len(names)))
        """Training rows of the first places, which are filled in."""

    def add(self, rows: np.ndarray, place: np.ndarray, numbers: np.ndarray) -> None:
        """Take in rows (b, d).

        Args:
            place: of each row in the sample, (b,); those of its length and more are not in it.
            numbers: of the rows in the source, from 0, (b,).

        Raises:
            InputError: a number breaks what is declared of its column.
        """
        used = place < len(self.sample)
        self.sample[place[used]] = rows[used]
        for j, (name, declared) in enumerate(zip(self.names, self._declared, strict=True)):
            x = rows[:, j]
            check_bounds(
                x, name, declared.low, declared.high, self.source, lambda i: self._where(int(numbers[i]))
            )
            if declared.cells == "int" and (broken := x != np.rint(x)).any():
                i = int(broken.argmax())
                raise InputError(
                    f"{self.source}: expected whole numbers in column {name!r}, as data.column_types declares, found {x[i]:g} in "
                    f"{self._where(int(numbers[i]))}"
                )
            self._exact[j].add(x)

    def transforms(self) -> ColumnTransforms:
        """The transforms of the columns.

        Raises:
            InputError: a logarithm was declared of numbers that have none, or all columns are constant.
        """
        found = ColumnTransforms(tuple(self._choose(j) for j in range(len(self.names))))
        if not found.dimensions:
            raise InputError(f"{self.source}: expected a column that is not constant, found none")
        return found

    def _choose(self, j: int) -> ColumnTransform:
        """The transform of a column."""
        declared, exact, x = self._declared[j], self._exact[j], self.sample[:, j]
        if declared == _LEFT:
            return ColumnTransform(self.names[j])
        if exact.low == exact.high:
            return ColumnTransform(self.names[j], "constant", low=exact.low, high=exact.high)
        values, counts = np.unique(x, return_counts=True)
        grid = self._grid(declared, exact, len(values))
        low, high = self._bounds(declared, exact, grid, values, counts)
        width = 0.0 if grid is None else grid.width
        spread = float(np.sqrt(x.var() + width**2 / 12))
        kind: Kind = "standard"
        if declared.transform != "auto":
            kind = declared.transform
        elif len(values) > 2 and _has_spike(counts, width, spread):
            kind = "quantile"
        elif len(values) > 2 and _kurtosis(x, width) > HEAVY:
            origin = _origin(grid, low)
            has_log = origin is not None and (x > origin).all() and _is_nearly_normal(np.log(x - origin))
            kind = "log" if has_log else "quantile"
        base = ColumnTransform(
            self.names[j], kind, grid, low, high,
            declared=declared.low is not None or declared.high is not None,
            jitter=grid is not None and width >= FINEST * spread,
        )  # fmt: skip
        if kind == "log":
            origin = _origin(grid, low)
            origin = 0.0 if origin is None else origin
            if exact.low <= origin:
                raise InputError(
                    f"{self.source}: expected numbers above {origin:g} in column {self.names[j]!r} for the transform log, found "
                    f"{exact.low:g}; declare a lower bound in data.column_types, or quantile"
                )
            return replace(base, origin=origin)
        if kind == "quantile":
            return replace(base, quantiles=_quantiles(base, values, counts))
        return base

    def _grid(self, declared: ColumnType, exact: _Exact, different: int) -> Grid | None:
        if declared.cells == "float":
            return None
        if exact.steps is not None:
            return exact.steps
        levels = exact.levels
        if levels is not None and len(levels) >= 2 and len(self.sample) >= ROWS_PER_LEVEL * len(levels):
            return Levels(levels)
        return None

    def _bounds(
        self,
        declared: ColumnType,
        exact: _Exact,
        grid: Grid | None,
        values: np.ndarray,
        counts: np.ndarray,
    ) -> tuple[float | None, float | None]:
        """Bounds: what is declared, else what the data keep."""
        least = max(END_ROWS, END_SHARE * counts.sum())
        low = 0.0 if exact.low >= 0 else None
        high = 0.0 if exact.high <= 0 else 1.0 if exact.low >= 0 and exact.high <= 1 else None
        # Codes and ratings, of which hardly any in the range is missing.
        span = np.inf if grid is None else (exact.high - exact.low) / grid.width
        few = span < MAX_CODES and len(values) > span / 2
        if few or (values[0] == exact.low and counts[0] >= least):
            low = exact.low
        if few or (values[-1] == exact.high and counts[-1] >= least):
            high = exact.high
        return (low if declared.low is None else declared.low), (
            high if declared.high is None else declared.high
        )


def _origin(grid: Grid | None, low: float | None) -> float | None:
    """What is subtracted before the logarithm: the lower bound, or what lies a cell below it; None without a bound."""
    return None if low is None else low if grid is None else low - grid.width


def _has_spike(counts: np.ndarray, width: float, spread: float) -> bool:
    """Whether one value has a share of the rows that stands out.

    Args:
        counts: rows of each different value.
        width: of the cells, 0 without a grid.
        spread: standard deviation of the column.
    """
    share = float(counts.max() / counts.sum())
    # Values that are rounded have many rows, too, but so have their neighbours; a few masses stand out together.
    ordinary = float(np.sort(counts)[-MASSES - 1]) / counts.sum() if len(counts) > MASSES else 0.0
    # A normal law has at most 0.4 width / spread in a cell.
    return share >= POINT_MASS and share > SPIKE * max(ordinary, 0.4 * width / spread)


def _kurtosis(x: np.ndarray, width: float) -> float:
    """Excess kurtosis of numbers (n,) with uniform noise of a cell's width."""
    off, noise = x - x.mean(), width**2 / 12
    variance = float(x.var())
    fourth = float((off**4).mean()) + 6 * variance * noise + width**4 / 80
    return fourth / max((variance + noise) ** 2, 1e-300) - 3


def _is_nearly_normal(x: np.ndarray) -> bool:
    """Whether skewness and excess kurtosis of numbers (n,) are small."""
    z = (x - x.mean()) / max(x.std(), 1e-300)
    return abs(float((z**3).mean())) < 1 and float((z**4).mean()) - 3 < 3


def _quantiles(column: ColumnTransform, values: np.ndarray, counts: np.ndarray) -> Quantiles:
    """The quantile map of a column's different values (m,) and their counts."""
    grid = column.grid
    if grid is not None and column.jitter and len(values) <= MAX_LEVELS:
        bounded = (
            isinstance(grid, Levels) or column.low == values[0],
            isinstance(grid, Levels) or column.high == values[-1],
        )
        return Quantiles.of_cells(grid.edges(values), counts, bounded)
    masses = counts >= max(2, LEAST_SHARE_OF_MASS * counts.sum())
    if grid is None or not column.jitter:
        return Quantiles.of_numbers(values, counts, masses, column.low, column.high)
    edges = grid.edges(values)
    fine = Quantiles.of_cells(edges, counts, (column.low == values[0], column.high == values[-1]))
    return fine.thinned(np.isin(fine.v, np.concatenate([edge[masses] for edge in edges])))
