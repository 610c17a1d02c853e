"""Rows that come in batches of float64, brought to standardised float32 rows without a float64 copy of all of them."""

from collections.abc import Callable, Iterator

import numpy as np

from ndsm.data.scaling import Moments, Scaling

Read = Callable[[], Iterator[np.ndarray]]
"""One pass over all rows, in batches (b, d) float64 and in the same order each time."""


def standardised_rows(
    read: Read,
    position: np.ndarray,
    cut: int,
    out: np.ndarray,
    names: list[str],
    source: str,
    known: Scaling | None = None,
    noise: bool = False,
    adjust: Callable[[Scaling], Scaling] = lambda scaling: scaling,
) -> Scaling:
    """Fill `out` with rows in standardised units; their scaling, fitted on the first `cut` rows of `out`.

    The rows are read once, and a second time if float32 does not hold all of their numbers.

    Args:
        read: the rows in original units.
        position: place (rows,) of each row in `out`; those from len(out) on are left out.
        out: (n, d) float32.
        names: the d dimensions' names, for error messages.
        source: where the rows come from, for error messages.
        known: the scaling to use in place of a fit.
        noise: whether `out` holds what is to be added to the rows before they are scaled.
        adjust: what is to be made of a fitted scaling.

    Raises:
        InputError: as `Scaling.fit`.
    """

    def placed() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Places in `out` and rows of each batch."""
        start = 0
        for batch in read():
            at = position[start : start + len(batch)]
            start += len(batch)
            used = at < len(out)
            at, rows = at[used], batch[used]
            yield at, rows + out[at] if noise else rows

    scaling = known
    if scaling is None:
        moments, exact = Moments(), not noise
        for at, rows in placed():
            moments.add(rows[at < cut])
            if exact:
                with np.errstate(over="ignore"):
                    out[at] = rows
                exact = bool((out[at] == rows).all())
        if exact:
            scaling = adjust(Scaling.fit(out[:cut], names, source, precision=np.float64))
            scaling.standardise_(out)
            return scaling
        scaling = adjust(Scaling.of_moments(moments, names, source))
    for at, rows in placed():
        out[at] = scaling.standardise(rows)
    return scaling
