"""The sliced Wasserstein-2 distance between two sets of rows.

    SW2(x, y)² = E_θ W2(θ·x, θ·y)²,    θ uniform on the unit sphere,

after Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures" (2015), eq. 9. In one dimension
W2² is the integral over u in (0, 1) of the squared difference of the two quantile functions, which for
samples are steps: sorting gives it exactly, and only the mean over directions is an estimate.
"""

import numpy as np
import torch

from ndsm.core.rng import torch_stream
from ndsm.errors import InputError

_PROJECTIONS_AT_ONCE = 8
_ROWS_AT_ONCE = 8192


def sliced_wasserstein(
    x: np.ndarray | torch.Tensor, y: np.ndarray | torch.Tensor, n_projections: int = 128, seed: int = 0
) -> float:
    """Sliced Wasserstein-2 distance of two sets of rows, in the rows' unit.

    The mean over directions is an average of `n_projections` draws; the same seed draws the same directions,
    so that distances to one reference can be compared. Time O(n_projections · (n d + n log n)); memory beyond
    the rows is a few columns of float64.

    Args:
        x: (n, d) rows.
        y: (m, d) rows; n and m may differ.
        n_projections: random directions.
        seed: seed of the directions.

    Raises:
        InputError: x or y is not a matrix, is empty, or their numbers of columns differ.
    """
    a, b = torch.as_tensor(x), torch.as_tensor(y)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or not len(a) or not len(b):
        raise InputError(
            "sliced_wasserstein expects non-empty rows (n, d) and (m, d), "
            f"found shapes {tuple(a.shape)} and {tuple(b.shape)}"
        )
    directions = _directions(n_projections, a.shape[1], seed).to(a.device)
    b = b.to(a.device)
    total = 0.0
    for few in directions.split(_PROJECTIONS_AT_ONCE):
        total += _squared_wasserstein(_project(a, few), _project(b, few)).sum().item()
    return float(np.sqrt(total / n_projections))


def resampled_distances(
    x: np.ndarray,
    y: np.ndarray,
    x_rows: np.ndarray,
    y_rows: np.ndarray,
    n_projections: int = 128,
    seed: int = 0,
) -> np.ndarray:
    """Sliced Wasserstein-2 distances of resampled rows, (B,), which are projected once for all.

    Args:
        x, y: (n, d) and (m, d) rows.
        x_rows, y_rows: (B, n) and (B, m) numbers of the rows in each resample.
    """
    directions = _directions(n_projections, x.shape[1], seed)
    a, b = (_project(torch.as_tensor(rows), directions) for rows in (x, y))
    found = [
        _squared_wasserstein(a[:, torch.from_numpy(i)], b[:, torch.from_numpy(j)]).mean().sqrt().item()
        for i, j in zip(x_rows, y_rows, strict=True)
    ]
    return np.array(found)


def _directions(n: int, d: int, seed: int) -> torch.Tensor:
    """(n, d) float64 unit vectors."""
    directions = torch.randn(n, d, generator=torch_stream(seed, "sliced-wasserstein"), dtype=torch.float64)
    return directions / directions.norm(dim=1, keepdim=True)


def _project(rows: torch.Tensor, directions: torch.Tensor) -> torch.Tensor:
    """(k, n) float64 projections of (n, d) rows on (k, d) directions."""
    # float64, so that rows far out do not overflow; by blocks, so that the rows are never copied whole.
    return torch.cat([directions @ block.double().T for block in rows.split(_ROWS_AT_ONCE)], dim=1)


def _squared_wasserstein(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """(k,) exact squared W2 of the one-dimensional samples a (k, n) and b (k, m)."""
    a, b = a.sort(dim=1).values, b.sort(dim=1).values
    n, m = a.shape[1], b.shape[1]
    if n == m:
        return (a - b).square().mean(dim=1)
    # Levels i/n and j/m where a quantile function jumps, as integers over n·m: equal ones must be seen equal.
    steps_a = torch.arange(1, n + 1, device=a.device) * m
    steps_b = torch.arange(1, m + 1, device=a.device) * n
    levels = torch.cat([steps_a, steps_b]).unique()
    lengths = torch.diff(levels, prepend=levels.new_zeros(1)).double() / (n * m)
    difference = a[:, (levels - 1) // m] - b[:, (levels - 1) // n]
    return difference.square() @ lengths
