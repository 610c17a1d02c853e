"""Rows given some of their numbers, where the law of the others is known exactly.

Data that are a mixture of Gaussians stay one under noising: stationary under its own Langevin process, with means α μ_i
and covariances α² Σ_i + σ² I under a linear one. Both scores are exact, and so is `GaussianMixture.sample_given`, which
is itself checked against the density.
"""

import warnings
from functools import cache

import numpy as np
import pytest
import torch
from known_laws import LEAST_P, PROCESSES
from scipy.stats import kstest

from ndsm.inference.completions import STEP_SIZE, _langevin
from ndsm.inference.imputation import draw_given, impute
from ndsm.inference.noised_references import noised as noised_path
from ndsm.mixture import GaussianMixture
from ndsm.processes import VP, Langevin

pytestmark = pytest.mark.statistical

ROWS = 4000


def noised(mixture, process):
    """The exact score of the mixture's data noised by a linear process."""

    @cache
    def law(time):
        time = torch.tensor([time], dtype=torch.float64)
        a, var = process.log_alpha(time).exp(), process.std(time) ** 2
        covariances = torch.stack([mixture.covariance(i) for i in range(mixture.n_components)])
        return GaussianMixture(
            mixture.weights,
            mixture.means * a,
            covariances * a**2 + var * torch.eye(mixture.dimension, dtype=torch.float64),
            "full",
        )

    return lambda y, t: law(float(t[0])).score(y)


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
            process,
            score,
            rows,
            30,
            1e-3,
            torch.Generator().manual_seed(3),
            {"vp": 8, "full": 2, "spherical": 1}[kind],
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


def test_a_linear_processs_noised_reference_has_its_law_after_any_steps(mean_within):
    process = VP(1.0).for_dimension(2)
    generator = torch.Generator().manual_seed(6)
    start = torch.full((ROWS, 2), 3.0)
    times = np.array([0.0, 0.01, 0.5, 1.0])
    path = noised_path(process, start, times, lambda: torch.randn(ROWS, 2, generator=generator))
    for t, y in zip(times[1:], path[1:], strict=True):
        mean, std = process.kernel(start, torch.tensor([t]))
        mean_within(y, mean[0].numpy())
        mean_within((y - mean) ** 2, float(std) ** 2)


OVERLAPPING = GaussianMixture(
    torch.tensor([0.4, 0.35, 0.25]),
    torch.tensor([[-0.8, -1.0], [0.5, 1.1], [0.9, -0.6]]),
    torch.tensor([[[0.3, 0.1], [0.1, 0.15]], [[0.4, -0.15], [-0.15, 0.2]], [[0.15, 0.05], [0.05, 0.3]]]),
    "full",
)
"""Three modes that compete for x1 given x0."""


def p_value_given(law, x0, x1):
    """Kolmogorov and Smirnov's of x1 (n,) against a mixture's exact law of the second number given the first."""
    row, grid = torch.tensor([x0, 0.0], dtype=torch.float64), np.linspace(-12, 12, 20_001)
    at = row.repeat(len(grid), 1)
    at[:, 1] = torch.from_numpy(grid)
    cdf = law.to(dtype=torch.float64).log_prob(at).softmax(0).cumsum(0).numpy()
    return kstest(x1.double().numpy(), lambda x: np.interp(x, grid, cdf)).pvalue


def given(x0, n):
    return torch.tensor([[x0, torch.nan]]).repeat(n, 1)


@pytest.mark.parametrize("x0", [-0.5, 0.2, 0.8])
def test_where_the_data_are_the_mixture_its_conditional_law_is_kept_exactly(x0):
    """F = 0: weights are equal, and Metropolis and Hastings' rule keeps occupancy and spread. KS at 4 standard errors."""
    process = Langevin(OVERLAPPING, horizon=2.0)
    x = draw_given(
        process, lambda y, t: OVERLAPPING.score(y), given(x0, ROWS), 20, 1e-3, torch.Generator().manual_seed(0), 2
    )  # fmt: skip
    assert p_value_given(OVERLAPPING, x0, x[:, 1]) > LEAST_P


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_linear_noising_gives_competing_modes_their_shares(kind):
    """As n, particles → ∞ draws have the law of x1 given x0, though the prior knows nothing of it. KS at 4 standard errors."""
    process = PROCESSES[kind].for_dimension(2)
    x = draw_given(
        process, noised(OVERLAPPING, process), given(0.2, 1000), 30, 1e-3, torch.Generator().manual_seed(0), 32
    )  # fmt: skip
    assert p_value_given(OVERLAPPING, 0.2, x[:, 1]) > LEAST_P


class FarApart:
    """Two modes far apart in x1 that compete for it given x0, and data that differ from them in place, spread and slope.

    Between the modes the prior's density is below 1e-9 of its peak: inside one the noising is that mode's own, and the law is
    known at all times.
    """

    means = torch.tensor([[0.0, -4.0], [0.5, 4.0]], dtype=torch.float64)
    variances = torch.tensor([0.6, 0.4], dtype=torch.float64)
    shift = torch.tensor([[-0.6, 0.3], [0.4, -0.2]], dtype=torch.float64)
    own = torch.tensor([[[0.15, 0.05], [0.05, 0.1]], [[0.25, -0.1], [-0.1, 0.2]]], dtype=torch.float64)

    def __init__(self):
        self.mixture = GaussianMixture(torch.ones(2), self.means, self.variances)
        self.process = Langevin(self.mixture, horizon=2.0)
        self._known = {}

    def at(self, t):
        a = torch.exp(-t / self.variances)
        added = (self.variances * (1 - a**2))[:, None, None] * torch.eye(2, dtype=torch.float64)
        covariances = a[:, None, None] ** 2 * self.own + added
        return GaussianMixture(torch.ones(2), self.means + a[:, None] * self.shift, covariances, "full")

    def score(self, y, t):
        t = float(t[0])
        if t not in self._known:
            self._known[t] = self.at(t)
        return self._known[t].score(y)


@pytest.mark.parametrize("x0", [-0.6, 0.0, 0.6])
def test_the_data_and_not_the_mixture_say_how_likely_a_mode_is(x0):
    """The share of the upper mode given x0 is the data's, within 4 standard errors (binomial), and so is the whole law (KS);
    the mixture's share is 8 or more standard errors off."""
    case, n = FarApart(), 1000
    x = draw_given(case.process, case.score, given(x0, n), 40, 1e-3, torch.Generator().manual_seed(0))[:, 1]
    data, row = case.at(0.0), torch.tensor([x0], dtype=torch.float64)

    def share(means, variances):
        log_p = torch.distributions.Normal(means, variances.sqrt()).log_prob(row)
        return float(log_p.softmax(0)[1])

    exact = share(data.means[:, 0], data.covariances[:, 0, 0])
    error = (exact * (1 - exact) / n) ** 0.5
    assert abs(float((x > 0).double().mean()) - exact) < 4 * error + 1 / n
    assert abs(share(case.means[:, 0], case.variances) - exact) > 8 * error
    assert p_value_given(data, x0, x) > LEAST_P


@pytest.mark.parametrize("t", [0.05, 2.0])
def test_corrections_keep_the_law_of_the_free_numbers(t):
    """50 steps of the size taken at t from exact draws of x1 given x0 leave their law as it is: KS at 4 standard errors."""
    process, rows = Langevin(OVERLAPPING, horizon=2.0), given(0.2, ROWS)
    generator = torch.Generator().manual_seed(2)
    x = OVERLAPPING.sample_given(rows, ~rows.isnan(), generator)
    size = STEP_SIZE * process.variance(torch.tensor([t])).expand(ROWS)[:, None]
    start, accepted = x.clone(), 0.0
    for _ in range(50):
        z, level = torch.randn(ROWS, 2, generator=generator), torch.rand(ROWS, generator=generator)
        before = x
        x, s = _langevin(lambda y, time: OVERLAPPING.score(y), x, t, size, rows.isnan(), z, level)
        accepted += float((x != before).any(1).double().mean()) / 50
    assert (x[:, 0] == start[:, 0]).all()
    torch.testing.assert_close(s, OVERLAPPING.score(x))
    assert 0.5 < accepted < 0.999
    assert p_value_given(OVERLAPPING, 0.2, x[:, 1]) > LEAST_P


def test_draws_of_one_population_have_the_law_of_all():
    """Of 1,000 draws for one row, 16 from each population, the share of a mode is within 4 standard errors of the data's, an
    independent draw's error over the root of the effective share."""
    case, row = FarApart(), np.array([[0.0, np.nan]], dtype=np.float32)
    x = impute(case.process, case.score, row, 1000, 30, 1e-3, 0)[:, 0]
    data = case.at(0.0)
    exact = data.sample_given(
        given(0.0, 200_000), torch.tensor([True, False]).expand(200_000, 2), torch.Generator().manual_seed(1)
    )
    share = float((exact[:, 1] > 0).double().mean())
    assert abs((x[:, 1] > 0).mean() - share) < 4 * (share * (1 - share) / (1000 * 0.7)) ** 0.5
    assert len(np.unique(x[:, 1])) > 750


@pytest.mark.parametrize("covariance_type", ["spherical", "diag", "tied", "full"])
def test_a_rows_draw_does_not_depend_on_what_others_lack(random_mixture, covariance_type):
    mixture = random_mixture(covariance_type, 3, 4)
    y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    known = torch.tensor([[True, True, False, False]] * 6)
    other = known.clone()
    other[3:] = torch.tensor([False, True, True, False])
    first, second = (mixture.sample_given(y, k, torch.Generator().manual_seed(1)) for k in (known, other))
    torch.testing.assert_close(first[:3], second[:3])
    assert (first[3:, 0] == y[3:, 0]).all()
    assert (second[3:, 2] == y[3:, 2]).all()


def test_populations_of_few_completions_are_warned_of(monkeypatch):
    """Where data and mixture differ, the weights leave a share of each population that is above `FEW`, and below 1."""
    case, row = FarApart(), np.array([[0.0, np.nan]], dtype=np.float32)
    settings = case.process, case.score, row, 16, 20, 1e-3, 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        impute(*settings)
    monkeypatch.setattr("ndsm.inference.completions.FEW", 1.0)
    with pytest.warns(UserWarning, match=r"the weights leave \d+\.\d of 16 completions"):
        impute(*settings)
