"""Likelihood weighting and importance-sampled times (dissertation, 9.4 and 9.5)."""

import numpy as np
import pytest
import torch

from ndsm.mixture import GaussianMixture
from ndsm.objectives import DSM
from ndsm.processes import OU, VE, VP, Langevin, forward_grid
from ndsm.simulation import RolloutSpec, RowLayout, rollout
from ndsm.training.weighting import time_weight

pytestmark = pytest.mark.statistical

MIXTURE = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([0.7]))
PROCESSES = {
    "vp": VP(1.0),
    "ve": VE(1.0, 0.05, 3.0),
    "ou": OU(1.5),
    "langevin": Langevin(MIXTURE, horizon=1.5),
}


@pytest.mark.parametrize("name", PROCESSES)
def test_on_the_importance_grid_the_likelihoods_weight_is_the_variance(name):
    """Equation 9.12; up to the discretisation of the grid."""
    process = PROCESSES[name]
    times = forward_grid(process, "importance", 400, 1e-3, "exponential")
    weight = time_weight("likelihood", process, times)
    t = torch.from_numpy(0.5 * (times[1:-1] + times[2:])).float()
    torch.testing.assert_close(weight(t), process.variance(t), rtol=0.02, atol=0)


@pytest.mark.parametrize("kind", ["uniform", "geometric", "importance"])
def test_the_weighted_mean_is_the_same_integral_on_every_grid(kind, mean_within):
    """∫ g² E|s + Z/σ|²/2 dt over ∫ g²/V dt by rows of each grid, within 4 standard errors of quadrature: the score s is
    off by a constant vector, whose loss is known."""
    process = VP(1.0).for_dimension(2)
    times = forward_grid(process, kind, 200, 1e-2)
    layout = RowLayout(DSM.records, 2)
    spec = RolloutSpec(process, times, 1e-2, 5, 8000, layout, 0, rows_from="kernel")
    rows = layout.split(torch.from_numpy(rollout(spec, np.zeros((10, 2), dtype=np.float32), 0)))
    off = torch.tensor([1.0, -2.0])

    def score(y, t):
        return -y / process.std(t)[:, None] ** 2 + off

    losses = DSM()(score, rows).base * time_weight("likelihood", process, times)(rows["t"])
    grid = np.geomspace(float(times[1]), 1.0, 20_000)
    g2 = np.array([process.diffusion(t) ** 2 for t in grid])
    variance = process.variance(torch.from_numpy(grid)).numpy()
    expected = np.trapezoid(2.5 * g2, grid) / np.trapezoid(g2 / variance, grid)
    # The first interval's times are all at or above last_dt, and g² is a step function there: 1 % at 200 steps.
    mean_within(losses, expected, 0.01 * expected)
