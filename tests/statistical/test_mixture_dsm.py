"""Denoising by the kernel of a component: how far the law of the rows is bent, by quadrature, and the draw of the component."""

import functools
import math

import numpy as np
import pytest
import torch

from ndsm.mixture import GaussianMixture
from ndsm.processes import Langevin
from ndsm.processes.langevin import mode_kernel
from ndsm.samplers import integrate, reverse_times
from ndsm.simulation import ONE_STEP, RolloutSpec, RowLayout, rollout

pytestmark = pytest.mark.statistical
HALF = 1.7
"""The data: uniform between -HALF and HALF."""


@pytest.fixture(scope="module")
def process():
    """A mixture that the EM algorithm has fitted to the data, and for which they are noised long enough to fill its modes."""
    rows = np.linspace(-HALF, HALF, 2001, dtype=np.float32)[:, None]
    mixture = GaussianMixture.fit(rows, 6, covariance_type="spherical", seed=0)
    return Langevin(mixture, horizon=5 * float(mixture.covariances.max()))


def exact_score(process, weights):
    """∂ log p_t by quadrature; weights (m, K) of the components for the starts, m nodes."""
    mixture = process.mixture.to(dtype=torch.float64)
    starts = torch.linspace(-HALF, HALF, len(weights), dtype=torch.float64)
    nodes = torch.linspace(-2.4, 2.4, 401, dtype=torch.float64)

    @functools.cache
    def table(t):
        density, slope = 0.0, 0.0
        for i in range(mixture.n_components):
            of = torch.full((len(starts),), i)
            mean, std = mode_kernel(mixture, starts[:, None], torch.full((len(starts),), t).double(), of)
            z = (nodes[:, None] - mean[:, 0]) / std
            parts = weights[:, i] / std * torch.exp(-0.5 * z * z)
            density, slope = density + parts.sum(1), slope - (parts * z / std).sum(1)
        return slope / density.clamp(min=1e-290)

    def score(y, t):
        return torch.from_numpy(np.interp(y[:, 0].numpy(), nodes.numpy(), table(float(t[0])).numpy())).to(y)[
            :, None
        ]

    return score


def test_drawn_components_take_most_of_the_bias_of_the_likeliest_away(process):
    """The flow with the exact score of the noised law, from the mixture's quantiles: sup|F - F_data| without any sampling error."""
    mixture = process.mixture.to(dtype=torch.float64)
    starts = torch.linspace(-HALF, HALF, 601, dtype=torch.float64)[:, None]
    shares = mixture.responsibilities(starts)
    likeliest = torch.nn.functional.one_hot(shares.argmax(1), shares.shape[1]).double()
    grid = np.linspace(-4, 4, 20001)
    cumulative = np.cumsum(mixture.log_prob(torch.from_numpy(grid)[:, None]).exp().numpy())
    levels = (np.arange(1000) + 0.5) / 1000
    quantiles = torch.from_numpy(np.interp(levels, cumulative / cumulative[-1], grid))[:, None].float()
    distance = {}
    for name, weights in (("drawn", shares), ("likeliest", likeliest)):
        times = reverse_times(process, "ode", 80, 2e-4)
        score = exact_score(process, weights)
        rows = integrate(process, score, times, quantiles, torch.Generator(), sampler="ode")[:, 0].numpy()
        found = np.sort(rows)
        distance[name] = np.abs((found + HALF) / (2 * HALF) - levels).max()
    assert distance["drawn"] < 0.4 * distance["likeliest"]


@pytest.mark.parametrize("drawn", [True, False])
def test_components_of_noised_rows_have_their_shares(process, drawn):
    """A row's standard deviation tells its component: shares within 4 standard errors of the mean responsibilities, or of the
    shares of rows of which each component is the likeliest."""
    data = np.random.default_rng(0).uniform(-HALF, HALF, (20_000, 1)).astype(np.float32)
    times = np.array([0.0, process.horizon])
    layout = RowLayout(ONE_STEP, 1)
    spec = RolloutSpec(
        process, times, process.horizon, 1, 20_000, layout, 0, rows_from="kernel", drawn_modes=drawn
    )
    std = layout.split(torch.from_numpy(rollout(spec, data, 0)))["std"]
    shares = process.mixture.responsibilities(torch.linspace(-HALF, HALF, 20_001)[:, None])
    if not drawn:
        shares = torch.nn.functional.one_hot(shares.argmax(1), shares.shape[1]).float()
    start = torch.zeros(1, 1)
    for i, share in enumerate(shares.mean(0).tolist()):
        expected = mode_kernel(process.mixture, start, torch.tensor([process.horizon]), torch.tensor([i]))[1]
        found = float(torch.isclose(std, expected, rtol=1e-6).double().mean())
        assert abs(found - share) < 4 * math.sqrt(share * (1 - share) / 20_000) + 1e-3
