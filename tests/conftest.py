"""What several tests share."""

import math

import numpy as np
import pytest
import torch

from ndsm.reference import GaussianMixture

# Test machines are shared, and every tensor here is small.
torch.set_num_threads(1)


def random_mixture(
    covariance_type: str,
    components: int,
    dimension: int,
    dtype: torch.dtype = torch.float64,
    offset: float = 0.0,
) -> GaussianMixture:
    """A mixture with uneven weights and overlapping components of unequal, tilted covariances."""
    rng = np.random.default_rng([components, dimension])
    k, d = components, dimension
    root = rng.normal(size=(k, d, d)) / math.sqrt(d)
    full = root @ root.transpose(0, 2, 1) + 0.3 * np.eye(d)
    covariances = {
        "spherical": 0.3 + rng.uniform(size=k),
        "diag": 0.3 + rng.uniform(size=(k, d)),
        "tied": full[0],
        "full": full,
    }[covariance_type]
    weights, means = rng.dirichlet(np.full(k, 5.0)), 1.5 * rng.normal(size=(k, d)) + offset
    tensors = (torch.from_numpy(np.asarray(a)) for a in (weights, means, covariances))
    return GaussianMixture(*tensors, covariance_type, dtype=dtype)  # type: ignore[arg-type]


def mean_within(
    values: np.ndarray | torch.Tensor, expected: float | np.ndarray, allowance: float = 0.0
) -> None:
    """Check that the mean over independent rows is `expected`, within 4 standard errors and an allowance."""
    v = np.asarray(values, dtype=np.float64)
    error = v.std(0, ddof=1) / math.sqrt(len(v))
    assert (error > 0).all()
    difference = np.abs(v.mean(0) - np.asarray(expected))
    assert (difference <= 4 * error + allowance).all(), f"off by {difference}, standard error {error}"


@pytest.fixture(name="random_mixture", scope="session")
def _random_mixture():
    return random_mixture


@pytest.fixture(name="mean_within", scope="session")
def _mean_within():
    return mean_within
