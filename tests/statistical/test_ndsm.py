"""Theorem 3.1: the NDSM loss is unbiased for the simulated chain's score, its variance is bounded, and the true score minimises it."""

import math

import numpy as np
import pytest
import torch

from ndsm.core.rng import numpy_stream, torch_stream
from ndsm.mixture import GaussianMixture
from ndsm.objectives import NDSM
from ndsm.processes import Langevin, uniform_grid
from ndsm.simulation import RolloutSpec, RowLayout, rollout

pytestmark = pytest.mark.statistical


def simulate(mixture, x, times, last_dt, paths, per_path=1, index=0):
    """Recorded rows in float64; with one time per path they are independent."""
    layout = RowLayout(NDSM.records, mixture.dimension)
    process = Langevin(mixture, horizon=float(times[-1]))
    spec = RolloutSpec(process, times, last_dt, per_path, paths, layout, 11)
    return layout.split(torch.from_numpy(rollout(spec, x.astype(np.float32), index)).double())


def rows_at(rows, t):
    at = (rows["t"] - t).abs() < 1e-6
    return {name: value[at] for name, value in rows.items()}


def fixed_network(d):
    """A smooth score that is no one's gradient, with weights of order one."""
    generator = torch_stream(2, "network")
    a = torch.randn(d + 1, 16, generator=generator, dtype=torch.float64)
    b = torch.randn(16, d, generator=generator, dtype=torch.float64)
    return lambda y, t: torch.tanh(torch.cat([y, t[:, None]], 1) @ a) @ b / 2


def two_dimensional():
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
    mixture = GaussianMixture(torch.tensor([0.4, 0.6]), means, torch.tensor([0.3, 0.5]))
    return mixture, numpy_stream(3, "square").uniform(-1, 1, size=(5000, 2))


def cancelled(rows, score):
    return (rows["noise"] * score(rows["mean"], rows["t"])).sum(1) / rows["std"]


def test_control_variate_has_mean_zero(mean_within):
    """E[Z·s(μ)/σ] = 0: Z is independent of μ."""
    mixture, x = two_dimensional()
    for index, last_dt in enumerate((1e-2, 1e-3, None)):
        rows = simulate(mixture, x, uniform_grid(0.5, 25), last_dt, 30_000, index=index)
        mean_within(cancelled(rows, fixed_network(2)), 0.0)


def test_cancelled_and_uncancelled_losses_have_the_same_mean():
    """On independent rows, the two means agree within 4 SE of their difference."""
    mixture, x = two_dimensional()
    score, times = fixed_network(2), uniform_grid(0.5, 25)
    first, second = (simulate(mixture, x, times, 1e-2, 40_000, index=i) for i in (1, 2))
    a, b = NDSM()(score, first).base, NDSM()(score, second).base + cancelled(second, score)
    error = math.sqrt(float(a.var() + b.var()) / 40_000)
    assert abs(float(a.mean() - b.mean())) <= 4 * error


def test_uncancelled_variance_grows_as_one_over_last_step_and_ndsms_does_not():
    """Δt·Var tends to E|s|²/2 for the uncancelled loss; NDSM's variance stays where it is."""
    mixture, x = two_dimensional()
    score = fixed_network(2)
    for_uncancelled, for_ndsm = [], []
    for last_dt in (1e-2, 1e-3, 1e-4):
        rows = simulate(mixture, x, uniform_grid(0.5, 25), last_dt, 30_000)
        loss = NDSM()(score, rows).base
        uncancelled = loss + cancelled(rows, score)
        for_uncancelled.append(float(uncancelled.var()) * last_dt)
        for_ndsm.append(float(loss.var()))
        limit = float((score(rows["mean"], rows["t"]) ** 2).sum(1).mean()) / 2
    assert for_uncancelled[2] == pytest.approx(limit, rel=0.1)
    assert for_uncancelled[1] == pytest.approx(limit, rel=0.1)
    # 30,000 rows tell a variance to about 3 %.
    assert max(for_ndsm) < 1.3 * min(for_ndsm)
    assert for_uncancelled[2] / 1e-4 > 100 * for_ndsm[2]


def directional(score, direction, rows):
    """Derivative of each row's loss along a direction; a difference is exact, for the loss is quadratic."""

    def loss(score, rows):
        return NDSM()(score, rows).base

    plus = loss(lambda y, t: score(y, t) + direction(y, t), rows)
    minus = loss(lambda y, t: score(y, t) - direction(y, t), rows)
    return 0.5 * (plus - minus)


def true_score(mixture, p, grid, steps, h, last_dt):
    """Score on the grid after `steps` steps of h and one of last_dt from the density p, by quadrature."""
    f = mixture.to(dtype=torch.float64).score(torch.from_numpy(grid)[:, None]).numpy()[:, 0]
    dx = grid[1] - grid[0]

    def kernel(dt):
        e = grid[:, None] - (grid + dt * f)[None]
        return e, np.exp(-(e**2) / (4 * dt)) / math.sqrt(4 * math.pi * dt)

    k = kernel(h)[1]
    for _ in range(steps):
        p = k @ p * dx
    e, k = kernel(last_dt)
    return ((-e / (2 * last_dt)) * k) @ p / (k @ p), k @ p * dx


@pytest.mark.parametrize("last_dt", [0.02, 1e-3])
def test_the_true_score_is_where_the_losss_gradient_vanishes(last_dt, mean_within):
    """Non-Gaussian law of the chain by Chapman-Kolmogorov: along any direction φ the mean gradient is 0 at the
    true score and c·E φ² at the true score + c·φ, within 4 SE."""
    parts = torch.tensor([0.35, 0.65]), torch.tensor([[-0.8], [0.9]]), torch.tensor([0.15, 0.25])
    mixture = GaussianMixture(*parts)
    h, steps, paths = 0.02, 6, 30_000
    # Three narrow normals: unlike the mixture, and smooth enough for the grid.
    rng = numpy_stream(8, "start")
    centres, width = np.array([-1.2, 0.1, 1.0]), 0.15
    x = (centres[rng.integers(0, 3, 400_000)] + width * rng.normal(size=400_000))[:, None]
    grid = np.linspace(-3.5, 3.5, 1401)
    p = np.exp(-((grid[:, None] - centres) ** 2) / (2 * width**2)).sum(1) / (
        3 * width * math.sqrt(2 * math.pi)
    )
    values, law = true_score(mixture, p, grid, steps, h, last_dt)
    assert law.sum() * (grid[1] - grid[0]) == pytest.approx(1.0, abs=1e-6)

    def score(y, t):
        return torch.from_numpy(np.interp(y[:, 0].numpy(), grid, values))[:, None]

    times = uniform_grid(h * (steps + 1), steps + 1)
    own = None if last_dt == h else last_dt
    rows = rows_at(simulate(mixture, x, times, own, paths, per_path=steps + 1), steps * h + last_dt)
    assert len(rows["t"]) == paths
    y = rows["mean"] + rows["std"][:, None] * rows["noise"]
    directions = [(rng.uniform(1, 4), rng.uniform(0, 6)) for _ in range(6)]
    for frequency, phase in directions:

        def direction(y, t, frequency=frequency, phase=phase):
            return torch.sin(frequency * y + phase)

        c = 2.0

        def wrong(y, t, direction=direction):
            return score(y, t) + c * direction(y, t)  # noqa: B023

        at_truth, elsewhere = directional(score, direction, rows), directional(wrong, direction, rows)
        mean_within(at_truth, 0.0)
        size = direction(y, rows["t"])[:, 0] ** 2
        mean_within(elsewhere - c * size, 0.0)
        assert float(elsewhere.mean()) > 4 * float(elsewhere.std()) / math.sqrt(paths)
