"""Linear processes: their kernels, and that both ways of training agree where both exist."""

import math

import numpy as np
import pytest
import torch

from ndsm.objectives import DSM, NDSM
from ndsm.processes import OU, VE, VP, SubVP, uniform_grid
from ndsm.samplers import integrate
from ndsm.simulation import RolloutSpec, RowLayout, rollout

pytestmark = pytest.mark.statistical

PROCESSES = [VP(1.0), SubVP(1.0), VE(1.0, 0.05, 3.0), OU(1.5)]
IDS = ["vp", "subvp", "ve", "ou"]


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_the_kernel_solves_the_moment_equations(process):
    """d log α/dt = -a and dσ²/dt = -2aσ² + g², by central differences."""
    h = 1e-4
    for t in (0.1, 0.4, 0.9):
        low, high = (torch.tensor([t - h], dtype=torch.float64), torch.tensor([t + h], dtype=torch.float64))
        slope = float((process.log_alpha(high) - process.log_alpha(low)) / (2 * h))
        assert slope == pytest.approx(-process.rate(t), rel=1e-4, abs=1e-9)
        growth = float((process.std(high) ** 2 - process.std(low) ** 2) / (2 * h))
        variance = float(process.std(torch.tensor([t], dtype=torch.float64)) ** 2)
        assert growth == pytest.approx(process.diffusion(t) ** 2 - 2 * process.rate(t) * variance, rel=1e-3)


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_kernel_rows_have_the_kernels_moments(process):
    """(Y_t - α Y_0)/σ is standard Gaussian and times fill the grid's range: means within 4 standard errors."""
    layout = RowLayout(DSM.records, 2)
    spec = RolloutSpec(
        process, uniform_grid(process.horizon, 50), 1e-3, 5, 4000, layout, 0, rows_from="kernel"
    )
    data = np.full((10, 2), 1.5, dtype=np.float32)
    rows = layout.split(torch.from_numpy(rollout(spec, data, 0)))
    z, n = rows["noise"].double(), len(rows["t"])
    assert abs(float(z.mean())) <= 4 / math.sqrt(2 * n)
    assert abs(float((z**2).mean()) - 1) <= 4 * math.sqrt(2 / (2 * n))
    torch.testing.assert_close(rows["mean"][:, 0], 1.5 * process.log_alpha(rows["t"]).exp())
    torch.testing.assert_close(rows["std"], process.std(rows["t"]))
    assert abs(float(rows["t"].double().mean()) - process.horizon / 2) <= 4 * process.horizon / math.sqrt(
        12 * n
    )


def test_ndsm_equals_dsm_when_the_drift_is_linear():
    """Both estimate ½E|s|² + E div s: the mean losses, less DSM's constant ½E|Z/σ|², agree within 4 errors."""
    process = OU(1.0).for_dimension(2)
    times = uniform_grid(1.0, 400)
    data = np.random.default_rng(0).normal(0.5, 0.6, (5000, 2)).astype(np.float32)
    values = []
    for objective, rows_from in ((NDSM(), "path"), (DSM(), "kernel")):
        layout = RowLayout(objective.records, 2)
        spec = RolloutSpec(process, times, 1e-3, 20, 3000, layout, 0, 0.9, rows_from=rows_from)
        rows = layout.split(torch.from_numpy(rollout(spec, data, 0)))
        rows = {k: v[rows["t"] > 0.2] for k, v in rows.items()}

        def score(y, t):
            return torch.sin(1.3 * y) - 0.7 * y / (0.5 + t[:, None])

        losses = objective(score, rows).base.double()
        if rows_from == "kernel":
            losses = losses - 0.5 * (rows["noise"] / rows["std"][:, None]).square().sum(1).double()
        values.append((float(losses.mean()), float(losses.std()) / len(losses) ** 0.5 * 20**0.5))
    (a, sa), (b, sb) = values
    # Rows of one path are dependent: their standard error is taken as if a path were one row. The simulated
    # chain's law differs from the exact one by O(h) = 0.0025.
    assert abs(a - b) <= 4 * math.hypot(sa, sb) + 0.01


@pytest.mark.parametrize("process", PROCESSES, ids=IDS)
def test_reverse_process_with_exact_score_returns_the_data_law(process):
    """Gaussian data N(m, τ²): the score is known; mean and variance come back, within 4 standard errors + O(h)."""
    m, tau, n = 0.7, 0.6, 40_000

    def score(x, t):
        alpha, std = process.log_alpha(t).exp()[:, None], process.std(t)[:, None]
        return -(x - alpha * m) / (alpha**2 * tau**2 + std**2)

    end = torch.tensor([process.horizon])
    alpha, std = float(process.log_alpha(end).exp()), float(process.std(end))
    generator = torch.Generator().manual_seed(0)
    start = alpha * m + math.hypot(alpha * tau, std) * torch.randn(n, 1, generator=generator)
    times = process.horizon * np.linspace(1, 0, 801) ** 2
    x = integrate(process, score, times, start, generator).double()
    assert abs(float(x.mean()) - m) <= 4 * tau / math.sqrt(n) + 0.01
    assert abs(float(x.var()) - tau**2) <= 4 * tau**2 * math.sqrt(2 / n) + 0.015
