"""Columns whose standard deviation is that of a few outliers, beside which all other numbers look alike."""

from collections.abc import Sequence

import numpy as np

SAMPLE = 10_000
"""Rows whose quantiles are taken, about."""
NARROW, FAR = 0.1, 5.0
"""Standard deviations between the 1 % and the 99 % quantile, at most, and of the farthest number from the mean, at least."""


def outlier_notice(rows: np.ndarray, names: Sequence[str]) -> str | None:
    """What has to be said of such columns, None if there are none.

    Args:
        rows: (n, d) in standardised units.
        names: of the d columns.
    """
    low, high = np.quantile(rows[:: max(1, len(rows) // SAMPLE)], (0.01, 0.99), axis=0)
    width, far = high - low, np.maximum(rows.max(0), -rows.min(0))
    # A number that nearly all rows share is learned as it is.
    found = np.flatnonzero((width > 0) & (width < NARROW) & (far > FAR))
    if not len(found):
        return None
    j = int(found[0])
    others = f", and {len(found) - 1} more columns alike" if len(found) > 1 else ""
    return (
        f"98 % of the numbers in column {names[j]!r} lie within {width[j]:.2g} of its standard deviation, which outliers up to "
        f"{far[j]:.3g} of them from the mean make large{others}: a model sees hardly any difference between the former; leave out "
        "the outliers, or map the column to normal quantiles first"
    )
