"""Whether generated rows are copies of training rows."""

from dataclasses import dataclass

import numpy as np

from ndsm.core.rng import numpy_stream

MAX_GENERATED, MAX_KNOWN = 2000, 5000


@dataclass(frozen=True)
class Copies:
    """Result of `copies`."""

    share: float
    """Share of generated rows whose nearest row among as many training and held-out rows is a training row; 0.5 is right."""
    se: float
    n: int
    """Rows of each kind that are searched."""


def copies(
    generated: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray,
    seed: int,
    most: tuple[int, int] = (MAX_GENERATED, MAX_KNOWN),
) -> Copies:
    """Return the share of generated rows nearer to training than to as many held-out rows; equally near ones count half.

    If generated rows know nothing of single training rows, training and held-out rows may change places. Under these permutations
    of m + m rows, of which row i is nearest to the share w_i of the generated rows, the share has mean ½ and variance
    ¼ · 2m / (2m - 1) · Σ (w_i - 1/2m)²: exact, also where many generated rows have one nearest row.

    Args:
        generated, train, held_out: (n, d), (N, d), (M, d) in standardised units; NaN is taken for the mean, 0.
        most: generated rows, and training or held-out ones, that are looked at.
    """
    # Slow to import, and only evaluations need it.
    from sklearn.neighbors import NearestNeighbors

    m = min(len(train), len(held_out), most[1])
    chosen = numpy_stream(seed, "copies").permutation(len(train))[:m]
    rows, *known = (np.nan_to_num(x, nan=0.0) for x in (generated[: most[0]], train[chosen], held_out[:m]))
    (near, first), (far, second) = (
        (distance[:, 0], index[:, 0])
        for distance, index in (NearestNeighbors(n_neighbors=1).fit(x).kneighbors(rows) for x in known)
    )
    # The distances of equal rows differ by rounding where they come from scalar products.
    of_train = np.where(np.isclose(near, far, rtol=1e-6, atol=1e-6), 0.5, near < far)
    weight = np.zeros(2 * m)
    np.add.at(weight, first, of_train / len(rows))
    np.add.at(weight, m + second, (1 - of_train) / len(rows))
    variance = 0.25 * 2 * m / (2 * m - 1) * np.sum((weight - 1 / (2 * m)) ** 2)
    return Copies(float(of_train.mean()), float(np.sqrt(variance)), m)
