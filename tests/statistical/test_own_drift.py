"""A drift of the user's own whose prior is known: everything that takes any process, against closed forms.

The drift is minus the score of N(μ, v I), passed as a function and nothing else, so that the noised law of Gaussian data is
known: Y_t = μ + a (Y_0 - μ) + sqrt(v (1 - a²)) Z with a = exp(-t/v).
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from known_laws import N, assert_same_law

from ndsm import NDSM
from ndsm.config import load_config
from ndsm.core.rng import torch_stream
from ndsm.errors import InputError
from ndsm.inference.imputation import draw_given
from ndsm.inference.likelihood import log_density
from ndsm.inference.noisy_classifier import fit_classifier
from ndsm.inference.posterior import Posterior
from ndsm.mixture import GaussianMixture
from ndsm.objectives import Sliced
from ndsm.processes import Langevin, forward_grid
from ndsm.samplers import find_sampler, integrate, reverse_times
from ndsm.simulation import RolloutSpec, RowLayout, rollout

pytestmark = pytest.mark.statistical

SMALL = load_config(
    "table-langevin", {"data.path": "x", "network.width": 8, "network.depth": 1, "train.block_mb": 0.02}
)
CENTER, V = torch.tensor([0.4, -0.2], dtype=torch.float64), 0.8
MEAN = torch.tensor([-0.5, 0.6], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.3, 0.2], [0.2, 0.25]], dtype=torch.float64)


def own_process(horizon=4.0, prior=None):
    """The process, as `own-drift.md` has it."""
    known = GaussianMixture(torch.ones(1), CENTER[None], torch.tensor([V]), dtype=torch.float32)
    return Langevin(drift=lambda y, t: (y - CENTER.to(y)) / V, prior=prior or known, horizon=horizon)


def law(t):
    """The law of Y_t."""
    a = np.exp(-t / V)
    covariance = a**2 * COVARIANCE + V * (1 - a**2) * torch.eye(2)
    return torch.distributions.MultivariateNormal(CENTER + a * (MEAN - CENTER), covariance)


def score(y, t):
    exact = law(float(t[0]))
    return ((exact.mean - y.double()) @ exact.precision_matrix).to(y)


def rows_of_data(n, seed):
    z = torch.randn(n, 2, generator=torch_stream(seed, "data"), dtype=torch.float64)
    return MEAN + z @ torch.linalg.cholesky(COVARIANCE).T


@pytest.mark.parametrize(("sampler", "steps"), [("em", 200), ("pc", 300), ("ode", 60), ("ode-adaptive", 2)])
def test_samplers_of_any_process_return_the_datas_law(sampler, steps):
    process = own_process()
    times = reverse_times(process, sampler, steps, 1e-3)
    start = process.prior.sample(N, torch_stream(0, "start"))
    x = integrate(process, score, times, start, torch_stream(0, "noise"), sampler=sampler)
    assert_same_law(x.double(), rows_of_data(N, 1))


@pytest.mark.parametrize("sampler", ["exponential", "flow", "flow2", "ancestral"])
def test_samplers_of_modes_are_refused_in_a_sentence(sampler):
    with pytest.raises(InputError, match="expected a process with a mixture, found a drift without one"):
        find_sampler(sampler).times(own_process(), 20, 1e-3)
    with pytest.raises(InputError, match="expected a process with a mixture, found a drift without one"):
        Posterior(own_process(), score)


def test_log_densities_are_exact():
    """Below 1e-3 nats for every row, with the law of Y_T itself as the prior."""
    last, end = law(4.0), 1e-3
    prior = GaussianMixture(
        torch.ones(1), last.mean[None], last.covariance_matrix[None], "full", dtype=torch.float64
    )
    y = law(end).sample((100,))
    found, error = log_density(own_process(prior=prior), score, y, end)
    assert float((found - law(end).log_prob(y)).abs().max()) < 1e-3
    assert (error == 0).all()


def test_missing_numbers_have_their_law_given_the_others(mean_within):
    """Mean and square of the second number given the first, within 4 standard errors and 6 % of a standard deviation for
    the steps' own error."""
    rows = torch.tensor([0.1, torch.nan]).expand(4000, 2)
    x = draw_given(own_process(), score, rows, 100, 1e-3, torch.Generator().manual_seed(0))
    assert (x[:, 0] == rows[:, 0]).all()
    slope = COVARIANCE[0, 1] / COVARIANCE[0, 0]
    mean = MEAN[1] + slope * (0.1 - MEAN[0])
    std = (COVARIANCE[1, 1] - slope * COVARIANCE[0, 1]).sqrt()
    z = (x[:, 1].double() - mean) / std
    mean_within(z, 0.0, 0.06)
    mean_within(z**2, 1.0, 0.12)


def test_a_classifier_of_noised_rows_knows_the_posterior():
    """p(1 | Y_t) of two classes N(±m, ¼ I) with equal shares, 1/(1 + exp(-log-odds)): mean error below 0.04 at three
    times; an ignorant classifier errs by more than 0.3 at the smallest."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 4000)
    shift = np.array([0.6, -0.3])
    rows = (2 * labels - 1)[:, None] * shift + 0.5 * rng.normal(size=(4000, 2))
    process = own_process(horizon=2.0)
    model = fit_classifier(process, rows, labels, width=32, steps=1000)
    for t in (0.02, 0.3, 1.5):
        a = np.exp(-t / V)
        clean = torch.from_numpy(rows[:2000])
        noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        y = CENTER + a * (clean - CENTER) + (V * (1 - a**2)) ** 0.5 * noise
        centred = y - (1 - a) * CENTER
        odds = 2 * a * (centred @ torch.from_numpy(shift)) / (0.25 * a**2 + V * (1 - a**2))
        exact = torch.sigmoid(odds)
        found = torch.softmax(model(y.float(), torch.full((len(y),), t)), 1)[:, 1]
        assert float((found - exact).abs().mean()) < 0.04
        if t == 0.02:
            assert float((exact - 0.5).abs().mean()) > 0.3


def test_sliced_score_matching_has_its_closed_form(mean_within):
    """E ½|s|² + div s for s(y) = -c (y - b) is ½c² (tr Cov_t + |m_t - b|²) - c d: the mean difference over rows at their own
    times is 0, within 4 standard errors and what Euler-Maruyama's steps of 0.01 change of the moments."""
    process, c, b = own_process(horizon=1.0), 1.7, torch.tensor([0.3, 0.1])
    layout = RowLayout(Sliced.records, 2)
    times = forward_grid(process, "uniform", 100, None)
    spec = RolloutSpec(
        process, times, None, 1, 60_000, layout, 0, rows_from=Sliced.rows_from, integrator="euler-maruyama"
    )
    named = layout.split(torch.from_numpy(rollout(spec, rows_of_data(60_000, 2).float().numpy(), 0)))
    loss = Sliced()(lambda y, t: -c * (y - b), named).base.double()
    a = torch.exp(-named["t"].double() / V)[:, None]
    mean = CENTER + a * (MEAN - CENTER)
    trace = a[:, 0] ** 2 * COVARIANCE.trace() + 2 * V * (1 - a[:, 0] ** 2)
    expected = 0.5 * c**2 * (trace + ((mean - b) ** 2).sum(1)) - 2 * c
    mean_within(loss - expected, 0.0, 0.02)


class DoubleWell:
    """exp(-V) with V(x) = (x² - 1)² in each of two coordinates."""

    grid = torch.linspace(-3, 3, 6001)
    density = torch.exp(-((grid**2 - 1) ** 2))

    def drift(self, y, t):
        return 4 * y * (y**2 - 1)

    def sample(self, n, generator):
        index = torch.multinomial(self.density, 2 * n, replacement=True, generator=generator)
        return self.grid[index].reshape(n, 2)

    def moment(self, f):
        return float((f(self.grid) * self.density).sum() / self.density.sum())


def test_wells_that_are_simulated_by_the_estimators_steps_have_their_width(mean_within):
    """exp(-V) is stationary: rows simulated from draws of it have its moments, of the distance from the well's bottom within
    4 standard errors and 3 % for the steps. The preset's 150 steps are off by more."""
    well = DoubleWell()
    process = Langevin(drift=well.drift, prior=well, horizon=2.0)
    start = well.sample(20_000, torch_stream(3, "start")).numpy()
    model = NDSM(process=process, max_steps=1, random_state=0, config=SMALL)
    with pytest.warns(UserWarning, match=r"process.grid.steps is \d+ in place of 150"):
        spec = model.fit(start)._model.problem.spec

    def squares(times):
        one = replace(spec, times=times, paths=40_000, times_per_path=1)
        named = one.layout.split(torch.from_numpy(rollout(one, start, 0)))
        y = named["mean"] + named["std"][:, None] * named["noise"]
        return ((y.abs() - 1) ** 2)[named["t"] > 1.0].double()

    expected = well.moment(lambda x: (x.abs() - 1) ** 2)
    mean_within(squares(spec.times), expected, 0.03 * expected)
    with pytest.raises(AssertionError):
        mean_within(squares(forward_grid(process, "geometric", 150, 1e-3)), expected, 0.03 * expected)


def test_a_drift_that_is_too_steep_is_refused_with_the_steps_it_needs():
    prior = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.tensor([2.5e-4]), dtype=torch.float32)
    process = Langevin(drift=lambda y, t: 4000.0 * y, prior=prior, horizon=2.0)
    rows = rows_of_data(200, 4).numpy()
    with pytest.raises(
        InputError, match=r"norms around 4e\+03 .* with 2000 steps; set process.grid.steps to at least"
    ):
        NDSM(process=process, max_steps=1, random_state=0, config=SMALL).fit(rows)
