"""Column by column and pair by pair: generated rows of a table beside held-out ones.

Where SDMetrics (the metrics of the Synthetic Data Vault) has a measure, `sdmetrics_scores` gives it under its name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ndsm.data import TableSchema
from ndsm.data.cells import to_cells, to_floats, type_of_name
from ndsm.metrics.resampling import Estimate

MAX_LEVELS = 10
"""Numbers of at most so many different values are compared value by value."""
MAX_DECIMALS = 6
ROUNDING = 2e-7
"""Rounding of model units, which are float32, relative to a value's distance from the mean."""


@dataclass(frozen=True, eq=False)
class Column:
    """What the data say about a column."""

    name: str
    levels: np.ndarray | None
    """(K,) its values, if it is compared value by value; else None."""
    low: float
    high: float
    """Range of the training rows."""
    decimals: int | None
    """Fewest decimals that write all of the data's numbers; None if more than `MAX_DECIMALS`, or unknown."""
    mean: float = 0.0
    std: float = 0.0
    """Of the data; both say how coarse the rounding of model units is."""

    @property
    def kind(self) -> str:
        """`ks` or `tv`: the distance that is measured."""
        return "ks" if self.levels is None else "tv"

    @classmethod
    def of(cls, name: str, kind: str, values: np.ndarray, low: float, high: float) -> "Column":
        """Describe a column.

        Args:
            kind: name of its Arrow type.
            values: known values of training and held-out rows, (n,).
            low, high: range of all training rows.
        """
        mean, std = (float(values.mean()), float(values.std())) if len(values) else (0.0, 0.0)
        column = cls(name, None, low, high, None, mean, std)
        # A grid as fine as the rounding says nothing.
        finest = [k for k in range(MAX_DECIMALS + 1) if 10.0**-k > 10 * ROUNDING * std]
        decimals = next((k for k in finest if len(values) and column.on_grid(values, k).all()), None)
        column = replace(column, decimals=decimals)
        levels = np.unique(column.snapped(values))
        few = 0 < len(levels) <= min(MAX_LEVELS, len(values) // 5)
        listed = few or (len(levels) > 0 and (kind == "bool" or kind.startswith("dictionary")))
        return replace(column, levels=levels) if listed else column

    def slack(self, values: np.ndarray) -> np.ndarray:
        """Return the differences, (n,), up to which values (n,) are the same but for rounding."""
        return np.asarray(ROUNDING * (self.std + np.abs(values - self.mean)))

    def on_grid(self, values: np.ndarray, decimals: int) -> np.ndarray:
        """Return whether values (n,) have no more than so many decimals, (n,)."""
        return np.asarray(np.abs(values - np.round(values, decimals)) <= self.slack(values))

    def snapped(self, values: np.ndarray) -> np.ndarray:
        """Return values (n,) without the rounding of model units: numbers next to one with the data's decimals become it."""
        if self.decimals is None:
            return values
        return np.where(self.on_grid(values, self.decimals), np.round(values, self.decimals), values)

    def codes(self, values: np.ndarray) -> np.ndarray:
        """Return the place of each of the values (n,) among the levels; K for values that are none of them."""
        assert self.levels is not None
        nearest = np.searchsorted((self.levels[1:] + self.levels[:-1]) / 2, values)
        return np.where(
            np.abs(self.levels[nearest] - values) <= self.slack(values), nearest, len(self.levels)
        )


def as_written(rows: np.ndarray, schema: TableSchema) -> np.ndarray:
    """Return rows (n, d) in original units as a table would hold them, (n, d) float64: rounded to the columns' types."""
    out = rows.astype(np.float64)
    for j, (_, name) in enumerate(schema.flat().columns):
        kind = type_of_name(name)
        if name not in ("float", "double", "halffloat"):
            out[:, j] = to_floats(to_cells(out[:, j], kind))
    return out


def describe_columns(
    schema: TableSchema, known: np.ndarray, low: np.ndarray, high: np.ndarray
) -> list[Column]:
    """Describe the columns of a table.

    Args:
        known: rows of the data as written, (n, d); NaN is missing.
        low, high: range of all training rows, (d,).
    """
    return [
        Column.of(name, kind, values[~np.isnan(values)], lowest, highest)
        for (name, kind), values, lowest, highest in zip(
            schema.flat().columns, known.T, low.tolist(), high.tolist(), strict=True
        )
    ]


def column_distance(
    column: Column, rows: np.ndarray, held_out: np.ndarray, weights: np.ndarray, held_out_weights: np.ndarray
) -> Estimate:
    """Return the distance of two columns (n,) and (m,): Kolmogorov-Smirnov, or total variation over levels; both in [0, 1].

    Missing values are left out, except that columns of which one has no value at all are at distance 1.

    Args:
        weights, held_out_weights: bootstrap weights, (B, n) and (B, m).
    """
    known = [~np.isnan(x) for x in (rows, held_out)]
    a, b = (column.snapped(x[k]) for x, k in zip((rows, held_out), known, strict=True))
    if not len(a) or not len(b):
        return Estimate(float(len(a) != len(b)), np.full(len(weights), float(len(a) != len(b))))
    w = [
        np.vstack([np.ones(k.sum()), x[:, k]])
        for x, k in zip((weights, held_out_weights), known, strict=True)
    ]
    if column.levels is None:
        steps = [
            _distribution(x, own, np.unique(np.concatenate([a, b]))) for x, own in zip((a, b), w, strict=True)
        ]
        found = np.abs(steps[0] - steps[1]).max(1)
    else:
        shares = [
            _shares(column.codes(x), own, len(column.levels) + 1) for x, own in zip((a, b), w, strict=True)
        ]
        found = 0.5 * np.abs(shares[0] - shares[1]).sum(1)
    return Estimate(float(found[0]), found[1:])


def _distribution(values: np.ndarray, weights: np.ndarray, at: np.ndarray) -> np.ndarray:
    """(B, k) empirical distribution functions of weighted values (n,), (B, n), at sorted points (k,)."""
    order = values.argsort()
    total = np.cumsum(weights[:, order], 1)
    below = np.pad(total, ((0, 0), (1, 0)))[:, values[order].searchsorted(at, "right")]
    return np.asarray(below / np.maximum(total[:, -1:], 1.0))


def _shares(codes: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """(B, k) shares of codes (n,) under weights (B, n)."""
    counts = weights @ (codes[:, None] == np.arange(k)).astype(np.float64)
    return np.asarray(counts / np.maximum(counts.sum(1, keepdims=True), 1.0))


def exactness(column: Column, values: np.ndarray) -> dict[str, float | None]:
    """Return shares of values (n,): `out_of_range` of the training rows, `exact`, `zeros` and `missing`.

    `exact` counts values with no more decimals than the data have, or, of a column of few values, those that are one of them; it is
    None of a column whose data have more than 6 decimals. Shares are of the values that are not missing, None if there are none.
    """
    known = values[~np.isnan(values)]
    missing = float(np.isnan(values).mean())
    if not len(known):
        return {"out_of_range": None, "exact": None, "zeros": None, "missing": missing}
    slack = column.slack(known)
    outside = (known < column.low - slack) | (known > column.high + slack)
    if column.levels is not None:
        exact = column.codes(column.snapped(known)) < len(column.levels)
    elif column.decimals is not None:
        exact = column.on_grid(known, column.decimals)
    else:
        exact = None
    return {
        "out_of_range": float(outside.mean()),
        "exact": None if exact is None else float(exact.mean()),
        "zeros": float((np.abs(known) <= slack).mean()),
        "missing": missing,
    }


Dependence = Callable[[np.ndarray], np.ndarray]
"""(d, d) dependence of the columns of rows (n, d)."""


def dependence(columns: Sequence[Column]) -> Dependence:
    """Return the measure of dependence between columns.

    It is Spearman's correlation of two columns of numbers, and Cramér's V with columns of few values; numbers beside these are cut
    into five parts of about equal size. NaN where a column does not vary.
    """
    listed = np.array([c.levels is not None for c in columns])

    def measure(rows: np.ndarray) -> np.ndarray:
        from scipy.stats import rankdata

        ranks = rankdata(rows, axis=0, nan_policy="omit")
        # A missing value has the mean rank: it tells nothing of the other columns.
        ranks = np.where(np.isnan(ranks), np.nanmean(ranks, 0) if len(rows) else 0.0, ranks)
        centred = ranks - ranks.mean(0)
        scale = np.sqrt((centred**2).sum(0))
        scale[scale == 0] = np.nan
        found = centred.T @ centred / np.outer(scale, scale)
        if not listed.any():
            return found
        codes = [
            c.codes(c.snapped(x))
            if c.levels is not None
            else (5 * (r - 0.5) / len(rows)).astype(int).clip(0, 4)
            for c, x, r in zip(columns, rows.T, ranks.T, strict=True)
        ]
        parts = [(code[:, None] == np.unique(code)).astype(np.float64) for code in codes]
        bounds = np.cumsum([0, *(p.shape[1] for p in parts)])
        whole = np.concatenate(parts, 1)
        share = whole.mean(0)
        joint = (whole.T @ whole / len(rows)) ** 2 / np.outer(share, share)
        # χ²/n = Σ p_ij² / (p_i p_j) - 1, summed over the parts of each pair of columns.
        chi = np.add.reduceat(np.add.reduceat(joint, bounds[:-1], 0), bounds[:-1], 1) - 1
        kinds = np.diff(bounds) - 1.0
        kinds[kinds == 0] = np.nan
        v = np.sqrt(np.maximum(chi, 0) / np.minimum(kinds[:, None], kinds[None, :]))
        return np.where(listed[:, None] | listed[None, :], v, found)

    return measure


PAIR_ROWS, PAIR_REPLICATES = 1000, 10


def pair_differences(
    columns: Sequence[Column], rows: np.ndarray, held_out: np.ndarray, rng: np.random.Generator
) -> dict[str, Any] | None:
    """Return how far the dependence of columns is from that of held-out rows; None with fewer than two columns that vary.

    Returns:
        mean, largest: absolute difference over pairs; pair: the names of the largest one's; se: of the mean, by bootstrap.
    """
    measure = dependence(columns)
    above = np.triu_indices(len(columns), 1)
    a, b = rows[:PAIR_ROWS], held_out[:PAIR_ROWS]

    def differences(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return np.asarray(np.abs(measure(x) - measure(y))[above])

    found = differences(a, b)
    if not np.isfinite(found).any():
        return None
    drawn = [
        differences(*(x[rng.integers(len(x), size=len(x))] for x in (a, b))) for _ in range(PAIR_REPLICATES)
    ]
    means = [np.nanmean(d) for d in drawn if np.isfinite(d).any()]
    i, j = (index[int(np.nanargmax(found))] for index in above)
    return {
        "mean": float(np.nanmean(found)),
        "se": float(np.std(means, ddof=1)) if len(means) > 1 else None,
        "largest": float(np.nanmax(found)),
        "pair": [columns[i].name, columns[j].name],
    }


def sdmetrics_scores(columns: dict[str, dict[str, Any]], pairs: dict[str, Any] | None) -> dict[str, float]:
    """Return the means over columns, or pairs, of SDMetrics' scores, by its names; 1 is best.

    Its CorrelationSimilarity is 1 - |difference of correlations| / 2, here also over pairs by Cramér's V.
    """

    def mean(values: list[float]) -> float | None:
        return float(np.mean(values)) if values else None

    each = list(columns.values())
    found = {
        "KSComplement": mean([1 - c["ks"] for c in each if "ks" in c]),
        "TVComplement": mean([1 - c["tv"] for c in each if "tv" in c]),
        "BoundaryAdherence": mean(
            [1 - c["out_of_range"] for c in each if "ks" in c and c["out_of_range"] is not None]
        ),
        "CategoryAdherence": mean([c["exact"] for c in each if "tv" in c and c["exact"] is not None]),
        "MissingValueSimilarity": mean([1 - abs(c["missing"] - c["missing_data"]) for c in each]),
        "CorrelationSimilarity": None if pairs is None else 1 - pairs["mean"] / 2,
    }
    return {name: value for name, value in found.items() if value is not None}
