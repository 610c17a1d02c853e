"""Within-mode whitening: the linear map after which the modes of a data set are as round as one map can make them.

The within covariance W is that of rows about the centre of their own mode, pooled over modes. k-means tells the modes
apart, but in the distance that W itself defines (the criterion is det W, Friedman and Rubin 1967): the plain distance
cuts long modes across and joins thin ones.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ndsm.core.rng import numpy_stream, stream_seed
from ndsm.data.scaling import Whitening, chunks
from ndsm.errors import InputError

STARTS = 5
"""Initial k-means divisions in each of two metrics."""
ROUNDS = 10
"""Largest number of rounds of k-means and pooling from each start."""
MAX_DIMENSIONS = 1024
"""Largest dimension: the matrix in data.json takes 20 MB there."""
FLAT = 1e-10
"""Variance of standardised rows below which they count as constant."""
LEAST_SHRINKAGE = 1e-6
"""Lower bound of the shrinkage, because Ledoit and Wolf's can be 0 where W is singular."""


def fit_whitening(
    x: np.ndarray, components: int, most: int, names: Sequence[str], source: str, seed: int
) -> Whitening:
    """The whitening of standardised rows (n, d): model = standardised @ c W^-½, with the symmetric root.

    W is shrunk towards a multiple of the identity, as Ledoit and Wolf (2004) do. The factor c makes the mean variance
    of all rows 1, as standardising does, so that times keep their unit; within the modes the variance is c² ≤ 1.

    Args:
        x: standardised training rows (n, d).
        components: modes to tell apart.
        most: W is fitted on at most as many rows, drawn at random.
        names: the d dimensions' names, for the error message.
        source: where the rows come from, for the error message.
        seed: of the rows and k-means.

    Raises:
        InputError: no more rows than components, more than 1,024 dimensions, or a dimension that varies, but not
            within the modes.
    """
    n, dimensions = min(len(x), most), x.shape[1]
    if dimensions > MAX_DIMENSIONS:
        raise InputError(
            f"data.whiten 'within-mode': expected at most {MAX_DIMENSIONS} dimensions, found {dimensions} in {source}"
        )
    if n <= components:
        raise InputError(
            f"data.whiten_components: expected fewer than the {n} training rows of {source} that the whitening is "
            f"fitted on, found {components}"
        )
    rows = x[np.sort(numpy_stream(seed, "whiten").choice(len(x), n, replace=False))] if n < len(x) else x
    rows = rows.astype(np.float64)
    residuals = _best_division(rows, components, stream_seed(seed, "whiten k-means") % 2**31).residuals
    # Dimensions that never vary stay 0, whatever the map; images have such pixels.
    flat = (residuals.var(axis=0) < FLAT) & (rows.var(axis=0) >= FLAT)
    if flat.any():
        raise InputError(
            f"{source}: column {names[int(np.argmax(flat))]!r} is constant within each of data.whiten_components "
            f"{components} modes and has no variance there to whiten by; leave it out with data.columns, use fewer "
            "modes or set data.whiten to none"
        )
    within = _shrunk(residuals)
    total = sum((c.T @ c for c in chunks(x)), np.zeros((dimensions, dimensions))) / len(x)
    # tr(W^-½ T W^-½) = tr(W^-1 T).
    variance = float(np.trace(np.linalg.solve(within, total))) / dimensions
    return Whitening(_power(within, 0.5) * variance**0.5)


@dataclass(frozen=True)
class _Division:
    """Rows divided into modes."""

    mode: np.ndarray
    """(n,) of each row."""
    residuals: np.ndarray
    """(n, d), rows less the centre of their mode."""
    within: np.ndarray
    """W, (d, d), shrunk."""

    @property
    def criterion(self) -> float:
        """log det W; the smaller, the better."""
        return float(np.linalg.slogdet(self.within)[1])


def _best_division(rows: np.ndarray, components: int, seed: int) -> _Division:
    """The division with the least log det W of those that several starts lead to; rows are (n, d)."""
    # Plain distances find round modes, those of all rows whitened find long ones that correlations hide.
    metrics = (np.eye(rows.shape[1]), _shrunk(rows - rows.mean(axis=0)))
    # One after the other: a division holds as many numbers as the rows.
    divisions = (_descend(rows, metric, components, seed + k) for metric in metrics for k in range(STARTS))
    return min(divisions, key=lambda division: division.criterion)


def _descend(rows: np.ndarray, metric: np.ndarray, components: int, seed: int) -> _Division:
    """Divide by k-means in the distance of W, pool W, and again, until W is no smaller; from the given W."""
    best = _divide(rows, metric, components, seed)
    for _ in range(ROUNDS):
        if best.residuals.var() < FLAT:
            # As many modes as different rows: there is no distance to go on with.
            break
        again = _divide(rows, best.within, components, seed, best.mode)
        if again.criterion > best.criterion - 1e-3:
            break
        best = again
    return best


def _divide(
    rows: np.ndarray, metric: np.ndarray, components: int, seed: int, start: np.ndarray | None = None
) -> _Division:
    """One k-means of rows (n, d) in the distance of the covariance `metric`, from the modes `start` (n,) if given."""
    # Here, because simulators import this package and never fit: scikit-learn takes seconds to import.
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    whitened = rows @ _power(metric, -0.5)
    first = "k-means++" if start is None else _centres(whitened, start, components)
    with warnings.catch_warnings():
        # Fewer distinct rows than components: the modes that are left empty do no harm.
        warnings.simplefilter("ignore", ConvergenceWarning)
        mode = KMeans(components, init=first, n_init=1, random_state=seed).fit(whitened).labels_
    residuals = rows - _centres(rows, mode, components)[mode]
    return _Division(mode, residuals, _shrunk(residuals))


def _centres(rows: np.ndarray, mode: np.ndarray, components: int) -> np.ndarray:
    """Mean row of each mode, (components, d); zeros for an empty one."""
    sums = np.zeros((components, rows.shape[1]))
    np.add.at(sums, mode, rows)
    return sums / np.maximum(np.bincount(mode, minlength=components), 1)[:, None]


def _shrunk(residuals: np.ndarray) -> np.ndarray:
    """Ledoit and Wolf's covariance of residuals (n, d), which is positive definite unless all of them are 0."""
    from sklearn.covariance import ledoit_wolf

    covariance, shrinkage = ledoit_wolf(residuals, assume_centered=True)
    mean = np.trace(covariance) / len(covariance)
    more = max(LEAST_SHRINKAGE - shrinkage, 0.0)
    return np.asarray((1 - more) * covariance + more * mean * np.eye(len(covariance)))


def _power(covariance: np.ndarray, exponent: float) -> np.ndarray:
    """A power of a positive definite matrix (d, d), symmetric."""
    variances, axes = np.linalg.eigh(covariance)
    return np.asarray((axes * variances**exponent) @ axes.T)
