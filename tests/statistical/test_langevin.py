"""The mixture is stationary under its own Langevin dynamics, up to the Euler-Maruyama step."""

import math

import numpy as np
import pytest
import torch

from ndsm.core.rng import torch_stream
from ndsm.mixture import GaussianMixture
from ndsm.processes import Langevin, uniform_grid
from ndsm.simulation import RolloutSpec, RowLayout, rollout

pytestmark = pytest.mark.statistical


def last_states(mixture, x, steps, horizon, paths, seed=0):
    """States at the horizon of the simulator's own chain; every path records every step."""
    layout = RowLayout(("mean", "noise", "t", "std"), mixture.dimension)
    times = uniform_grid(horizon, steps)
    spec = RolloutSpec(Langevin(mixture, horizon=horizon), times, None, steps, paths, layout, seed)
    rows = layout.split(torch.from_numpy(rollout(spec, x, 0)).double())
    at = (rows["t"] - horizon).abs() < 1e-6
    assert int(at.sum()) == paths
    return (rows["mean"] + rows["std"][:, None] * rows["noise"])[at]


@pytest.mark.parametrize("kind", ["spherical", "tied", "diag", "full"])
def test_mixture_is_stationary_under_langevin(kind, random_mixture, mean_within):
    """From η*, shares and moments stay η*'s, within 4 SE + O(h): variances grow by at most h/2/(1 - h/2v)."""
    precise = random_mixture(kind, 3, 2)
    mixture = precise.to(dtype=torch.float32)
    paths, steps, horizon = 8000, 40, 0.2
    h, v = horizon / steps, mixture.min_variance
    assert h / v < 0.05
    start = precise.sample(40_000, torch_stream(1, "stationary")).float().numpy()
    y = last_states(mixture, start, steps, horizon, paths)
    allowance = h / 2 / (1 - h / (2 * v))
    exact = precise.sample(400_000, torch_stream(2, "exact"))
    # E over η* in closed form where it has one, else by 50 times as many draws as are tested.
    mean_within(precise.responsibilities(y), precise.weights.numpy(), allowance)
    mean_within(y, (precise.weights @ precise.means).numpy(), allowance)
    mean_within(
        y**2, (exact**2).mean(0).numpy(), allowance + 4 * float((exact**2).std()) / math.sqrt(400_000)
    )


def test_simulated_covariance_follows_the_exact_recursion_for_one_component(mean_within):
    """For K = 1 the chain is C ← (I - hP) C (I - hP)ᵀ + 2h I, from any C."""
    sigma = torch.tensor([[0.5, 0.3, 0.0], [0.3, 0.6, -0.1], [0.0, -0.1, 0.4]], dtype=torch.float64)
    mixture = GaussianMixture(torch.ones(1), torch.zeros(1, 3), sigma[None], "full")
    paths, steps, horizon = 20_000, 8, 0.4
    h = horizon / steps
    x = torch.randn(100_000, 3, generator=torch_stream(3, "start"), dtype=torch.float64)
    c, a = x.T @ x / len(x), torch.eye(3, dtype=torch.float64) - h * torch.linalg.inv(sigma)
    for _ in range(steps):
        c = a @ c @ a.T + 2 * h * torch.eye(3)
    y = last_states(mixture, x.float().numpy(), steps, horizon, paths)
    mean_within((y[:, :, None] * y[:, None]).flatten(1), c.flatten().numpy())


def density(mixture, grid):
    return mixture.log_prob(torch.from_numpy(grid)[:, None]).exp().numpy()


def chain_law(mixture, p, grid, steps, h):
    """The density p carried through `steps` Euler-Maruyama steps, by quadrature on the grid."""
    mean = grid + h * mixture.score(torch.from_numpy(grid)[:, None]).numpy()[:, 0]
    kernel = np.exp(-((grid[:, None] - mean[None]) ** 2) / (4 * h)) / math.sqrt(4 * math.pi * h)
    dx = grid[1] - grid[0]
    for _ in range(steps):
        p = kernel @ p * dx
    return p


def test_simulated_states_follow_the_chains_exact_law_and_that_law_is_stationary_to_first_order(mean_within):
    """In one dimension the chain's law is a quadrature: the simulator meets it within 4 SE, with no allowance;
    its distance to η* halves with the step."""
    parts = torch.tensor([0.35, 0.65]), torch.tensor([[-0.8], [0.9]]), torch.tensor([0.15, 0.25])
    mixture = GaussianMixture(*parts, dtype=torch.float64)
    grid = np.linspace(-5, 5, 1501)
    dx, stationary = grid[1] - grid[0], density(mixture, grid)
    horizon, distances = 0.8, []
    for steps in (10, 20, 40):
        law = chain_law(mixture, stationary, grid, steps, horizon / steps)
        assert law.sum() * dx == pytest.approx(1.0, abs=1e-8)
        distances.append(np.abs(law - stationary).sum() * dx)
        if steps == 10:
            start = mixture.sample(200_000, torch_stream(5, "line")).float().numpy()
            y = last_states(mixture.to(dtype=torch.float32), start, steps, horizon, 20_000)[:, 0].numpy()
            for f in (np.sin, np.square, lambda u: np.exp(-4 * u**2), lambda u: 1.0 / (1 + np.exp(-20 * u))):
                mean_within(f(y), (f(grid) * law).sum() * dx)
    ratios = np.array(distances[:-1]) / np.array(distances[1:])
    assert ((ratios > 1.7) & (ratios < 2.6)).all()
