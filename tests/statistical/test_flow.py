"""The mode-linearised steps themselves: what they are exact for, and how fast their error falls elsewhere.

Data N(M, S) in one mode N(μ, Σ), S and Σ with the same axes: Y_t is normal with mean μ + A (M - μ) and covariance
A² S + Σ (1 - A²), A = exp(-t Σ⁻¹), and the probability flow carries x at standard deviations from the mean to as many.
"""

import itertools

import numpy as np
import pytest
import torch

from ndsm.mixture import GaussianMixture
from ndsm.processes import Langevin
from ndsm.samplers import find_sampler
from ndsm.samplers.base import run

pytestmark = pytest.mark.statistical

AXES = torch.linalg.qr(torch.tensor([[1.0, 0.4], [-0.6, 1.0]], dtype=torch.float64))[0]
VARIANCE = torch.tensor([0.9, 0.4], dtype=torch.float64)
CENTER = torch.tensor([0.5, -0.3], dtype=torch.float64)
MEAN = torch.tensor([-0.4, 0.6], dtype=torch.float64)
STARTS = torch.tensor([[0.0, 0.0], [1.5, -1.0], [-0.7, 2.0]], dtype=torch.float64)


class OneMode:
    """The law of Y_t for data whose variances along the axes are `spread`."""

    def __init__(self, spread):
        self.spread = torch.tensor(spread, dtype=torch.float64)
        covariance = AXES @ torch.diag(VARIANCE) @ AXES.T
        mixture = GaussianMixture(torch.ones(1), CENTER[None], covariance[None], "full", dtype=torch.float64)
        self.process = Langevin(mixture, horizon=1.0)

    def at(self, t):
        """Mean in the plane, variances along the axes."""
        a = torch.exp(-t / VARIANCE)
        mean = CENTER + AXES @ (a * (AXES.T @ (MEAN - CENTER)))
        return mean, a**2 * self.spread + VARIANCE * (1 - a**2)

    def score(self, y, t):
        mean, variance = self.at(float(t[0]))
        return ((mean - y) @ AXES / variance) @ AXES.T

    def flow(self, x, t, u):
        """x at time t carried to time u exactly."""
        (mean, variance), (end, end_variance) = self.at(t), self.at(u)
        return end + ((x - mean) @ AXES * (end_variance / variance).sqrt()) @ AXES.T

    def carried(self, sampler, x, times):
        """x carried by the sampler."""
        exact = find_sampler(sampler, slope_error=0.0)
        return run(exact, self.process, self.score, times, x, lambda: torch.zeros_like(x))


@pytest.mark.parametrize("sampler", ["flow", "flow2"])
@pytest.mark.parametrize("evaluations", [1, 2, 3, 5])
def test_a_point_of_the_data_is_carried_exactly_by_steps_of_any_size(sampler, evaluations):
    """Within a mode x̂₀ is that point all along: no step has an error, however long."""
    case = OneMode([0.0, 0.0])
    times = np.geomspace(1.0, 0.02, evaluations + 1)
    found = case.carried(sampler, STARTS, times)
    torch.testing.assert_close(found, case.flow(STARTS, 1.0, 0.02), rtol=0, atol=1e-9)
    to_the_end = case.carried(sampler, STARTS, np.append(times, 0.0))
    torch.testing.assert_close(to_the_end, MEAN.expand(3, 2), rtol=0, atol=1e-9)


@pytest.mark.parametrize("sampler", ["flow", "flow2"])
@pytest.mark.parametrize("evaluations", [2, 3, 4, 5])
def test_the_mean_of_data_of_any_width_is_carried_exactly(sampler, evaluations):
    case = OneMode([0.3, 0.05])
    times = np.append(np.geomspace(1.0, 0.02, evaluations), 0.0)
    found = case.carried(sampler, case.at(1.0)[0][None], times)
    torch.testing.assert_close(found[0], MEAN, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("sampler", "order"), [("flow", 1), ("flow2", 2)])
def test_the_error_falls_with_the_order(sampler, order):
    """Half the steps, 2^order times the error, for data as wide as a third of the mode."""
    case = OneMode([0.3, 0.1])
    exact, errors = case.flow(STARTS, 1.0, 0.05), []
    for steps in (20, 40, 80):
        found = case.carried(sampler, STARTS, np.geomspace(1.0, 0.05, steps + 1))
        errors.append(float((found - exact).abs().max()))
    for more, fewer in itertools.pairwise(errors):
        assert 0.8 * 2**order < more / fewer < 1.25 * 2**order
    assert errors[-1] < {1: 0.02, 2: 0.001}[order]
