"""Rows given some of their numbers, where the law of the others is known exactly.

Data that are a mixture of Gaussians stay one under noising: stationary under its own Langevin process, with means α μ_i
and covariances α² Σ_i + σ² I under a linear one. Both scores are exact, and so is `GaussianMixture.sample_given`, which
is itself checked against the density.
"""

import numpy as np
import pytest
import torch

from ndsm.processes import VP, Langevin
from ndsm.reference import GaussianMixture
from ndsm.samplers.conditional import draw_given
from ndsm.samplers.conditional import noised as noised_path

pytestmark = pytest.mark.statistical

ROWS = 4000


def noised(mixture, process):
    """The exact score of the mixture's data noised by a linear process."""

    def score(y, t):
        time = t[:1].double()
        a, var = process.log_alpha(time).exp(), process.std(time) ** 2
        covariances = torch.stack([mixture.covariance(i) for i in range(mixture.n_components)])
        moved = GaussianMixture(
            mixture.weights,
            mixture.means * a,
            covariances * a**2 + var * torch.eye(mixture.dimension, dtype=torch.float64),
            "full",
        )
        return moved.score(y)

    return score


@pytest.mark.parametrize("covariance_type", ["spherical", "diag", "tied", "full"])
def test_draws_of_a_mixture_given_some_numbers_follow_its_density(
    random_mixture, mean_within, covariance_type
):
    """E[h(free) | known] by the density on a grid, for h = x, x² and the sign of x."""
    mixture = random_mixture(covariance_type, 3, 3)
    known = torch.tensor([True, False, True])
    row = torch.tensor([0.4, torch.nan, -0.3], dtype=torch.float64)
    drawn = mixture.sample_given(row.expand(ROWS, 3), known.expand(ROWS, 3), torch.Generator().manual_seed(0))
    assert (drawn[:, [0, 2]] == row[[0, 2]]).all()
    x = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    grid = row.repeat(len(x), 1)
    grid[:, 1] = x
    p = mixture.log_prob(grid).softmax(0)
    for h in (lambda v: v, lambda v: v**2, torch.sign):
        mean_within(h(drawn[:, 1]), float((p * h(x)).sum()))


@pytest.mark.parametrize("kind", ["spherical", "full", "vp"])
def test_missing_numbers_have_their_law_given_the_others(random_mixture, mean_within, kind):
    """Mean, square and share above the median of each missing number, for two rows with different ones missing, within
    4 standard errors and 6 % of a standard deviation for the steps' own error."""
    mixture = random_mixture("spherical" if kind == "spherical" else "full", 3, 4, torch.float32)
    process = VP(1.0).for_dimension(4) if kind == "vp" else Langevin(mixture, horizon=1.5)
    score = noised(mixture, process) if kind == "vp" else lambda y, t: mixture.score(y)
    nan = torch.nan
    for row in ([0.5, nan, nan, -1.0], [nan, 0.2, nan, 0.6]):
        rows = torch.tensor(row).expand(ROWS, 4)
        known = ~rows.isnan()
        x = draw_given(
            process, score, rows, 60 if kind != "vp" else 100, 1e-3, torch.Generator().manual_seed(3)
        )
        assert (x[known] == rows[known]).all()
        exact = mixture.sample_given(
            torch.tensor(row).expand(200_000, 4),
            known[:1].expand(200_000, 4),
            torch.Generator().manual_seed(4),
        )
        free = ~known[0]
        mean, std = exact[:, free].mean(0), exact[:, free].std(0)
        z, truth = (x[:, free] - mean) / std, (exact[:, free] - mean) / std
        for h in (lambda v: v, lambda v: v**2, lambda v: (v > 0).float()):
            mean_within(h(z), h(truth).mean(0).numpy(), 0.06)
        correlation = float(truth.prod(1).mean())
        mean_within(z.prod(1), correlation, 0.05)


def test_a_linear_processs_twin_has_its_law_after_any_steps(mean_within):
    process = VP(1.0).for_dimension(2)
    generator = torch.Generator().manual_seed(6)
    start = torch.full((ROWS, 2), 3.0)
    times = np.array([0.0, 0.01, 0.5, 1.0])
    path = noised_path(process, start, times, lambda: torch.randn(ROWS, 2, generator=generator))
    for t, y in zip(times[1:], path[1:], strict=True):
        mean, std = process.kernel(start, torch.tensor([t]))
        mean_within(y, mean[0].numpy())
        mean_within((y - mean) ** 2, float(std) ** 2)


def test_replacing_alone_is_not_enough(random_mixture):
    """Without Langevin steps the free numbers' regression on the known ones comes out too weak: what they are for."""
    covariance = torch.tensor([[1.0, 0.9], [0.9, 1.0]])
    mixture = GaussianMixture(torch.ones(1), torch.zeros(1, 2), covariance[None], "full")
    process = VP(1.0).for_dimension(2)
    score = noised(mixture, process)
    rows = torch.tensor([1.5, torch.nan]).expand(ROWS, 2)
    found = {}
    for corrections in (0, 5):
        x = draw_given(process, score, rows, 100, 1e-3, torch.Generator().manual_seed(5), corrections)
        found[corrections] = float(x[:, 1].mean())
    assert abs(found[5] - 1.35) < 0.05
    assert found[0] < 1.25
