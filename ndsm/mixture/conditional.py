"""The conditional law of a Gaussian mixture given some of a row's numbers."""

from collections.abc import Sequence

import torch
from torch import Tensor

JITTER = 1e-6
"""Relative jitter on the observed block."""


def sample_given(
    weights: Tensor,
    means: Tensor,
    covariances: Sequence[Tensor],
    y: Tensor,
    known: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Draws of a mixture given known numbers, see `GaussianMixture.sample_given`.

    Args:
        weights, means: (K,) and (K, d) float64.
        covariances: of each component, (d,) if it is diagonal, else (d, d).
    """
    known_, x = known.cpu(), torch.where(known, y, 0.0).cpu().double()
    z = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    # Factors belong to a pattern of known numbers, of which there may be far fewer than rows.
    patterns, of_row = known_.unique(dim=0, return_inverse=True)
    posterior = _posterior(weights, means, covariances, x, known_, patterns, of_row)
    component = torch.multinomial(posterior, 1, generator=generator)[:, 0]
    drawn = torch.empty_like(x)
    for i in component.unique().tolist():
        rows = (component == i).nonzero()[:, 0]
        covariance, mean = covariances[i], means[i]
        if covariance.ndim == 1:
            drawn[rows] = mean + z[rows] * covariance.sqrt()
            continue
        free = z[rows] @ torch.linalg.cholesky(covariance).T
        off = torch.where(known_[rows], x[rows] - mean, 0.0) - free
        used, pattern = of_row[rows].unique(return_inverse=True)
        for u, matrix in enumerate(regression(covariance, patterns[used])):
            # Correct a free draw of the component by the regression on its error in the known numbers.
            free[pattern == u] += off[pattern == u] @ matrix.T
        drawn[rows] = mean + free
    return torch.where(known, y, drawn.to(y))


def responsibilities_given(
    weights: Tensor, means: Tensor, covariances: Sequence[Tensor], y: Tensor, known: Tensor
) -> Tensor:
    """Probabilities of the components given the known numbers of each row, (B, K) float64; arguments as of `sample_given`."""
    known_, x = known.cpu(), torch.where(known, y, 0.0).cpu().double()
    patterns, of_row = known_.unique(dim=0, return_inverse=True)
    return _posterior(weights, means, covariances, x, known_, patterns, of_row)


def _posterior(
    weights: Tensor,
    means: Tensor,
    covariances: Sequence[Tensor],
    x: Tensor,
    known: Tensor,
    patterns: Tensor,
    of_row: Tensor,
) -> Tensor:
    """(B, K); arguments as of `sample_given` and `_log_prob_of_known`."""
    log_p = [
        _log_prob_of_known(mean, covariance, x, known, patterns, of_row)
        for mean, covariance in zip(means, covariances, strict=True)
    ]
    return (torch.stack(log_p, 1) + weights.log()).softmax(1)


def _log_prob_of_known(
    mean: Tensor, covariance: Tensor, x: Tensor, known: Tensor, patterns: Tensor, of_row: Tensor
) -> Tensor:
    """log N of each row's known numbers in a component, up to a constant of the row, (B,) float64.

    Args:
        x, known: (B, d).
        patterns, of_row: the different rows of `known`, and which one each row has.
    """
    off = torch.where(known, x - mean, 0.0)
    if covariance.ndim == 1:
        return -0.5 * (known * (off**2 / covariance + covariance.log())).sum(1)
    log_prob = torch.empty(len(x), dtype=torch.float64)
    for u, root in enumerate(torch.linalg.cholesky(known_block(covariance, patterns))):
        half = torch.linalg.solve_triangular(root, off[of_row == u].T, upper=False)
        log_prob[of_row == u] = -0.5 * half.square().sum(0) - root.diagonal().log().sum()
    return log_prob


def known_block(covariance: Tensor, known: Tensor) -> Tensor:
    """Covariance of each row's known numbers, the identity on the others; (d, d), (B, d) → (B, d, d)."""
    k = known.to(covariance)
    # Keeps the block invertible when columns are copies of one another.
    loading = JITTER * covariance.diagonal().mean() * k
    return covariance * k[:, :, None] * k[:, None, :] + torch.diag_embed(1 - k + loading)


def regression(covariance: Tensor, known: Tensor) -> Tensor:
    """R of each row with E[v | v's known numbers] = R v for v ~ N(0, Σ); (d, d), (B, d) → (B, d, d)."""
    cross = covariance * known.to(covariance)[:, None, :]
    return torch.linalg.solve(known_block(covariance, known), cross, left=False)
