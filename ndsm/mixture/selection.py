"""How many components a mixture has, and the shape of their covariances, by the likelihood of held-out rows."""

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ndsm.errors import InputError
from ndsm.mixture.gaussian_mixture import CovarianceType, GaussianMixture

COUNTS = (1, 2, 3, 5, 8, 12, 20, 32, 50, 80)
"""Numbers of components that are tried, in this order until the held-out likelihood falls."""
KINDS: tuple[CovarianceType, ...] = ("spherical", "tied", "diag", "full")
"""Shapes of covariances that are tried."""
ROWS_PER_COMPONENT = 10
"""Rows of a fit for each component, at least."""
HELD_OUT = 0.2
"""Share of the rows that judge the fits."""

Fit = Callable[[np.ndarray, int, CovarianceType], GaussianMixture]
"""A mixture fitted to rows, given the number of components and the shape of their covariances."""


def select(
    rows: np.ndarray, counts: Sequence[int], kinds: Sequence[CovarianceType], fit: Fit, seed: int
) -> tuple[int, CovarianceType]:
    """The number of components and the shape whose fit to most of the rows, (n, d), makes the others likeliest.

    Args:
        counts, kinds: choices. Counts of more components than the rows support are left out, but not the first.
        seed: of the choice of the rows that are held out.
    """
    order = np.random.default_rng(seed).permutation(len(rows))
    held = max(1, round(HELD_OUT * len(rows)))
    judged, fitted = rows[np.sort(order[:held])], rows[np.sort(order[held:])]
    best = (-np.inf, counts[0], kinds[0])
    for kind in kinds:
        before = -np.inf
        for count in counts:
            if count > counts[0] and count * ROWS_PER_COMPONENT > len(fitted):
                break
            try:
                mixture = fit(fitted, count, kind)
            except InputError:
                # A covariance collapsed: more components do so too.
                break
            likelihood = float(mixture.log_prob(torch.from_numpy(judged).to(mixture.dtype)).double().mean())
            best = max(best, (likelihood, count, kind), key=lambda choice: choice[0])
            if likelihood < before:
                break
            before = likelihood
    return best[1], best[2]
