"""Columns whose standard deviation comes from a few outliers, so that standardising squeezes all other numbers together."""

from collections.abc import Sequence

import numpy as np

SAMPLE = 10_000
"""Approximate number of rows that the quantiles are computed from."""
NARROW, FAR = 0.1, 5.0
"""In standard deviations: largest distance between the 1 % and 99 % quantiles, and least distance of an outlier from the mean."""


def outlier_notice(rows: np.ndarray, names: Sequence[str]) -> str | None:
    """Notice about columns that outliers squeeze, None if there are none.

    Args:
        rows: (n, d) in standardised units.
        names: of the d columns.
    """
    low, high = np.quantile(rows[:: max(1, len(rows) // SAMPLE)], (0.01, 0.99), axis=0)
    width, far = high - low, np.maximum(rows.max(0), -rows.min(0))
    # Width 0: nearly all rows share one number, which is learned exactly.
    squeezed = np.flatnonzero((width > 0) & (width < NARROW) & (far > FAR))
    if not len(squeezed):
        return None
    j = int(squeezed[0])
    others = f", and {len(squeezed) - 1} more columns alike" if len(squeezed) > 1 else ""
    return (
        f"98 % of the numbers in column {names[j]!r} lie within {width[j]:.2g} of its standard deviation, which outliers up to "
        f"{far[j]:.3g} of them from the mean make large{others}: a model sees hardly any difference between the former; leave out "
        "the outliers, or map the column to normal quantiles first"
    )
