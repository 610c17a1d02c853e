"""The exponential integrator: exact inside one mode for any step, and close elsewhere at steps that others cannot take."""

import math

import pytest
import torch

from ndsm.core.rng import torch_stream
from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.processes import Langevin, forward_grid
from ndsm.processes.integrators import EulerMaruyama, Exponential
from ndsm.processes.modes import Modes

pytestmark = pytest.mark.statistical


def covariance_of(mixture):
    """Σ of a mixture of one component, (d, d)."""
    c, eye = mixture.covariances, torch.eye(mixture.dimension, dtype=torch.float64)
    return {
        "spherical": lambda: eye * c[0],
        "diag": lambda: torch.diag(c[0]),
        "tied": lambda: c,
        "full": lambda: c[0],
    }[mixture.covariance_type]()


def simulate(mixture, start, integrator, h, steps, seed=0):
    process, y = Langevin(mixture), start.T.clone()
    scheme, generator = integrator(process, Modes(mixture, y)), torch_stream(seed, "noise")
    for _ in range(steps):
        scheme.advance(y, process.drift_columns(y, 0.0), torch.randn(y.shape, generator=generator), h, 0.0)
    return y.T.double()


@pytest.mark.parametrize("covariance_type", ["spherical", "diag", "tied", "full"])
@pytest.mark.parametrize("h", [0.05, 3.0])
def test_one_step_has_the_transition_law_of_a_single_mode(covariance_type, h, random_mixture, mean_within):
    """From a point: mean μ + e^{-hP}(y - μ) and covariance Σ(1 - e^{-2hP}), also far above the limit of stability."""
    mixture = random_mixture(covariance_type, 1, 3, torch.float32)
    start = torch.tensor([1.0, -2.0, 0.5])
    x = simulate(mixture, start.expand(20_000, 3), Exponential, h, 1)
    values, axes = torch.linalg.eigh(covariance_of(mixture))
    mean = mixture.means[0] + axes @ (torch.exp(-h / values) * (axes.T @ (start.double() - mixture.means[0])))
    covariance = axes @ torch.diag(-values * torch.expm1(-2 * h / values)) @ axes.T
    mean_within(x, mean.numpy(), 1e-5)
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    mean_within(products.reshape(-1, 9), covariance.reshape(9).numpy(), 1e-5)


def test_overlapping_modes_keep_their_law_up_to_a_first_order_error():
    """Started from η* the law stays η*. The variance is lost in proportion to the step, and stays bounded where
    Euler-Maruyama diverges (bounds: measured at 400,000 paths, ± 4 SE of 200,000)."""
    mixture = GaussianMixture(
        torch.tensor([0.4, 0.6]), torch.tensor([[-0.9], [0.9]]), torch.tensor([0.25, 0.25])
    )
    n = 200_000
    start = mixture.sample(n, torch_stream(1, "start"))
    means = mixture.means[:, 0]
    true = 0.25 + float((mixture.weights * (means - mixture.weights @ means) ** 2).sum())

    def lost(integrator, h, steps):
        return 1 - float(simulate(mixture, start, integrator, h, steps)[:, 0].var()) / true

    error = 4 * math.sqrt(2 / n)
    assert lost(Exponential, 0.125, 16) == pytest.approx(0.050, abs=error)
    assert lost(Exponential, 0.03125, 64) == pytest.approx(0.017, abs=error)
    assert abs(lost(Exponential, 0.6, 8)) < 0.2
    assert lost(EulerMaruyama, 0.6, 8) < -0.5


def test_its_grids_may_have_steps_that_are_unstable_otherwise():
    mixture = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([0.01]))
    process = Langevin(mixture, horizon=1.0)
    with pytest.raises(InputError, match="Euler-Maruyama becomes unstable"):
        forward_grid(process, "uniform", 10, 1e-3)
    assert len(forward_grid(process, "uniform", 10, 1e-3, "exponential")) == 11
    assert len(forward_grid(process, "geometric", 20, 1e-3, "exponential")) == 21
    with pytest.raises(InputError, match="Euler-Maruyama becomes unstable"):
        forward_grid(process, "uniform", 10, 0.05, "exponential")
