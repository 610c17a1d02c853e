"""Log-densities: exact where the score is, consistent across units, and those of a density."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from known_laws import PROCESSES, FarModes, ThreeModes

from ndsm.config import load_config
from ndsm.core.rng import numpy_stream
from ndsm.data.scaling import Scaling, Whitening
from ndsm.errors import InputError
from ndsm.inference.likelihood import device_of, log_density, log_density_bound, log_density_of_rows
from ndsm.mixture import GaussianMixture
from ndsm.processes import OU, VE, VP, Langevin, SubVP
from ndsm.simulation import rollout
from ndsm.training import make_problem
from ndsm.training.own_drift import with_enough_steps
from ndsm.workflows.setup import build_problem

pytestmark = pytest.mark.statistical


class Evolved:
    """Data N(m, S) in d dimensions that noising keeps Gaussian: under a linear process, or that of one Gaussian."""

    def __init__(self, kind, d=3):
        generator = torch.Generator().manual_seed(d)
        root = torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
        self.covariance = 0.3 * (root @ root.T) + 0.1 * torch.eye(d)
        self.mean = torch.randn(d, generator=generator, dtype=torch.float64) * 0.5
        if kind == "langevin":
            root = torch.randn(d, d, generator=generator, dtype=torch.float64) / d**0.5
            self.prior = 0.3 * (root @ root.T) + 0.4 * torch.eye(d)
            self.center = torch.randn(d, generator=generator, dtype=torch.float64)
            self.process = Langevin(
                GaussianMixture(
                    torch.ones(1), self.center[None], self.prior[None], "full", dtype=torch.float64
                ),
                horizon=12.0,
            )
        else:
            linear = {"vp": VP(1.0), "subvp": SubVP(1.0), "ou": OU(3.0), "ve": VE(1.0, 0.01, 20.0)}
            self.process = linear[kind]
            end = self.law(self.process.horizon)
            # In place of N(0, σ² I), which differs from it by what the horizon leaves of the data.
            self.process = self.process.starting_from(
                GaussianMixture(
                    torch.ones(1), end.mean[None], end.covariance_matrix[None], "full", dtype=torch.float64
                )
            )

    def law(self, t):
        if isinstance(self.process, Langevin):
            values, axes = torch.linalg.eigh(self.prior)
            a = torch.exp(-t / values)
            decay = axes @ torch.diag(a) @ axes.T
            mean = self.center + decay @ (self.mean - self.center)
            covariance = decay @ self.covariance @ decay + axes @ torch.diag(values * (1 - a**2)) @ axes.T
        else:
            t = torch.tensor([t], dtype=torch.float64)
            alpha, std = self.process.log_alpha(t).exp(), self.process.std(t)
            mean, covariance = (
                alpha * self.mean,
                alpha**2 * self.covariance + std**2 * torch.eye(len(self.mean)),
            )
        return torch.distributions.MultivariateNormal(mean, covariance)

    def score(self, y, t):
        law = self.law(float(t[0]))
        return (law.mean - y) @ law.precision_matrix

    def score_of_each(self, y, t):
        """The score at each row's own time, of a linear process."""
        alpha, std = self.process.log_alpha(t).exp()[:, None], self.process.std(t)
        covariance = alpha[:, :, None] ** 2 * self.covariance + std[:, None, None] ** 2 * torch.eye(
            y.shape[1]
        )
        return torch.linalg.solve(covariance, alpha * self.mean - y)


@pytest.mark.parametrize("kind", ["langevin", "vp", "subvp", "ou", "ve"])
def test_exact_with_the_exact_score(kind):
    """Error below 1e-3 nats for every row."""
    case = Evolved(kind)
    y = case.law(1e-3).sample((200,))
    found, error = log_density(case.process, case.score, y, 1e-3)
    assert float((found - case.law(1e-3).log_prob(y)).abs().max()) < 1e-3
    assert (error == 0).all()


@pytest.mark.parametrize("kind", ["vp", "langevin"])
def test_exact_for_data_of_several_modes(kind):
    """As above, for modes that overlap under a linear process, and modes that noising does not leave."""
    case = FarModes() if kind == "langevin" else ThreeModes(PROCESSES[kind])

    def law(t):
        return case.at(t).to(dtype=torch.float64)

    end, last = 1e-2, law(case.process.horizon)
    process = case.process.starting_from(last) if kind != "langevin" else case.process
    if kind == "langevin":
        # In place of the stationary law, which differs from it by what the horizon leaves of the data.
        mixture = case.process.mixture.to(dtype=torch.float64)
        process = Langevin(mixture, horizon=case.process.horizon).starting_from(last)
    y = law(end).sample(60, torch.Generator().manual_seed(0))
    found, _ = log_density(process, lambda x, t: law(float(t[0])).score(x), y, end)
    assert float((found - law(end).log_prob(y)).abs().max()) < 1e-3


def test_hutchinsons_estimate_is_unbiased_and_knows_its_error():
    """(estimate - exact)/standard error over 400 rows, 16 probes each: mean 0 and second moment that of Student's t
    (15 degrees of freedom: 15/13), within 4 standard errors."""
    case = Evolved("vp", d=6)
    y = case.law(1e-3).sample((400,))
    found, error = log_density(case.process, case.score, y, 1e-3, probes=16, tolerance=1e-4)
    z = ((found - case.law(1e-3).log_prob(y)) / error).numpy()
    assert abs(z.mean()) <= 4 * z.std() / 20
    assert abs((z**2).mean() - 15 / 13) <= 4 * (z**2).std() / 20


def test_probes_belong_to_rows_and_not_to_batches():
    case = Evolved("vp", d=4)
    y = case.law(1e-3).sample((20,))
    whole = log_density(case.process, case.score, y, 1e-3, probes=2)[0]
    part = log_density(case.process, case.score, y[7:], 1e-3, probes=2)[0]
    torch.testing.assert_close(part, whole[7:], rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", ["vp", "subvp", "ou", "ve"])
def test_bound_is_the_log_density_where_the_score_is_exact(kind):
    """Theorem 9.3 is an equality for each row where s is the score of a law that noising takes to the prior: the mean
    difference over 200 rows is 0 within 4 standard errors, and each row's is within 6 of its own, which are estimates themselves."""
    case = Evolved(kind)
    y = case.law(1e-2).sample((200,))
    found, error = log_density_bound(case.process, case.score_of_each, y, 1e-2, draws=400)
    gap = found - case.law(1e-2).log_prob(y)
    assert abs(gap.mean()) <= 4 * float((error**2).mean() / 200) ** 0.5
    assert float((gap / error).abs().max()) <= 6
    assert float(gap.std()) == pytest.approx(float((error**2).mean() ** 0.5), rel=0.5)


def test_bound_stays_below_the_density_of_a_wrong_scores_reverse_sde():
    """s = -c y with dY = -Y dt + sqrt(2) dW from N(0, 1): reverse rows are N(0, v), dv/ds = 2(1 - 2c) v + 2 over the
    reverse time s = T - t, v(T) = 1. The bound of E log p over N(0, 1) is below by more than 4 standard errors, and it
    equals its own closed form, ½ log 2π + ½ + (c - 1)² T, negated, because E s·s = c² and E s·∇log p_t = c."""
    process, c, end = OU(2.0).for_dimension(1), 1.5, 0.1
    process = process.starting_from(
        GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1), "spherical", dtype=torch.float64)
    )
    rate, duration = 2 * (1 - 2 * c), process.horizon - end
    v = np.exp(rate * duration) + 2 * np.expm1(rate * duration) / rate
    y = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, _ = log_density_bound(process, lambda x, t: -c * x, y, end, draws=20)
    standard_error = float(found.std()) / len(y) ** 0.5
    true = -0.5 * np.log(2 * np.pi * v) - 0.5 / v
    closed = -0.5 * np.log(2 * np.pi) - 0.5 - (c - 1) ** 2 * duration
    assert float(found.mean()) == pytest.approx(closed, abs=4 * standard_error)
    assert float(found.mean()) < true - 4 * standard_error


def test_bound_of_a_row_is_its_own_whatever_the_batch():
    case = Evolved("vp", d=4)
    y = case.law(1e-2).sample((20,))
    whole = log_density_bound(case.process, case.score_of_each, y, 1e-2, draws=4)[0]
    part = log_density_bound(case.process, case.score_of_each, y[7:], 1e-2, draws=4)[0]
    torch.testing.assert_close(part, whole[7:])


def test_bound_needs_a_known_transition_law():
    case = Evolved("langevin")
    with pytest.raises(
        InputError, match=r"expected a process whose transition law is known .*, found Langevin"
    ):
        log_density_bound(case.process, case.score, case.law(0.1).sample((3,)), 0.1, draws=4)


def test_log_density_in_the_datas_own_units():
    """A whitened and scaled Gaussian: the density of original rows is the Gaussian's own."""
    case = Evolved("vp", d=3)
    colour = np.array([[1.2, 0.3, 0.0], [0.3, 0.8, 0.1], [0.0, 0.1, 1.1]])
    scaling = Scaling(np.array([1.0, -2.0, 3.0]), np.array([0.5, 20.0, 3.0]), Whitening(colour))
    way = torch.from_numpy(colour * scaling.scale)
    law = case.law(1e-3)
    original = torch.distributions.MultivariateNormal(
        law.mean @ way + torch.from_numpy(scaling.mean), way.T @ law.covariance_matrix @ way
    )
    rows = original.sample((50,)).float()
    process = case.process.starting_from(case.process.prior.to(dtype=torch.float32))
    found = log_density_of_rows(
        process, lambda y, t: case.score(y.double(), t).float(), rows.numpy(), scaling, 1e-3
    )
    np.testing.assert_allclose(found.log_prob, original.log_prob(rows.double()).numpy(), atol=2e-3)
    np.testing.assert_allclose(
        found.bits_per_dimension(3, 0.5), -found.log_prob / 3 / np.log(2) + 1, rtol=1e-12
    )
    bounds = log_density_of_rows(
        process,
        lambda y, t: case.score_of_each(y.double(), t.double()).float(),
        rows.numpy(),
        scaling,
        1e-3,
        bound=200,
    )
    gap = bounds.log_prob - found.log_prob
    assert abs(gap.mean()) <= 4 * np.sqrt((bounds.standard_error**2).mean() / len(gap))


def test_bad_input_is_one_sentence():
    case = Evolved("vp")
    y = case.law(1e-3).sample((2,))
    with pytest.raises(InputError, match="expected an end time between 0 and T = 1, found 0"):
        log_density(case.process, case.score, y, 0.0)

    class Unknown:
        def sample(self, n, generator):
            return torch.randn(n, 2, generator=generator)

    process = Langevin(drift=lambda y, t: y, prior=Unknown())
    with pytest.raises(InputError, match="expected a prior with log_prob"):
        log_density(process, case.score, y, 1e-3)


def test_rows_go_where_the_model_is():
    """The device without memory stands for a GPU."""
    prior = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    process = Langevin(drift=lambda y, t: y, prior=prior)
    assert device_of(process, torch.nn.Linear(2, 2, device="meta")).type == "meta"
    assert device_of(process, lambda y, t: -y).type == "cpu"


def learned_from(spec, start):
    """The minimiser of score matching among scores -(y - m(t))/V(t), from the rows that a run would be trained on."""
    named = spec.layout.split(torch.from_numpy(rollout(spec, start, 0)))
    y = (named["mean"] + named["std"][:, None] * named["noise"]).double().numpy()
    order = np.argsort(named["t"].numpy())
    t = named["t"].double().numpy()[order].reshape(100, -1)
    y = y[order].reshape(100, -1)
    knots, center, variance = np.log(t.mean(1)), y.mean(1), y.var(1)

    def score(y, t):
        at = np.log(float(t[0]))
        return -(y - np.interp(at, knots, center)) / np.interp(at, knots, variance)

    return score


@pytest.mark.parametrize("integrator", ["auto", "euler-maruyama"])
def test_own_tables_log_densities_are_those_of_the_data(integrator, mean_within):
    """The score is learned for the law of the simulated chain, the density is had along the continuous flow. With the score
    that the rows of the `table-langevin` preset determine and a mode of its smallest usual variance, 0.06, the mean log-density
    of N(0, 0.04 I) in four columns is -4 (½ log(2πe (0.04 + 2τ))) within 4 standard errors and 0.05 nats for what the
    rows leave open of the score. Euler-Maruyama's steps of up to a fifth of the variance are off by more than 0.5 nats:
    they widen the mode by up to 11 %, which the flow takes for the data's as long as the noising lasts."""
    v, width, d = 0.06, 0.04, 4
    config = load_config("table-langevin", {"data.path": "x", "process.integrator": integrator})
    mixture = GaussianMixture(torch.ones(1), torch.zeros(1, d), torch.tensor([v]), dtype=torch.float32)
    problem = build_problem(config, mixture, "rows")
    start = (numpy_stream(9, "rows").normal(size=(20_000, d)) * width**0.5).astype(np.float32)
    score = learned_from(replace(problem.spec, paths=20_000), start)
    law = torch.distributions.Normal(0.0, (width + 2 * problem.end_dt) ** 0.5)
    y = (
        torch.from_numpy(start[:200])
        + (2 * problem.end_dt) ** 0.5 * torch.from_numpy(start[200:400]) / width**0.5
    )
    found, _ = log_density(problem.process, score, y, problem.end_dt, tolerance=1e-3)
    error = (found - law.log_prob(y).sum(1)).numpy()
    if integrator == "auto":
        mean_within(error, 0.0, 0.05)
    else:
        assert error.mean() < -0.5


@pytest.mark.parametrize("refined", [True, False])
def test_a_drift_of_ones_own_gets_the_steps_its_jacobian_asks_for(refined, mean_within):
    """f(y) = 8 y with the prior N(0, 1/8), to T = 2: with the score that the simulated rows determine, the mean log-density of
    N(0, 1) in a column is the known one, within 4 standard errors and the 0.1 nats that steps are chosen for. The 150
    steps of the preset are off by more than 0.5 nats."""
    prior = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([0.125]), dtype=torch.float32)
    process = Langevin(drift=lambda y, t: 8.0 * y, prior=prior, horizon=2.0)
    x = numpy_stream(9, "rows").normal(size=(5000, 1))
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    config = load_config("table-langevin", {"data.path": "x", "process.horizon": 2.0})
    if refined:
        with pytest.warns(UserWarning, match=r"norms around 8 .*process.grid.steps is \d+ in place of 150"):
            config = with_enough_steps(config, process, x)
    problem = make_problem(config, process, 1, "rows")
    score = learned_from(replace(problem.spec, paths=8_000), x)
    law = torch.distributions.Normal(0.0, (1 + 2 * problem.end_dt) ** 0.5)
    y = law.sample((200, 1))
    error = (
        log_density(process, score, y, problem.end_dt, tolerance=1e-3)[0] - law.log_prob(y)[:, 0]
    ).numpy()
    if refined:
        mean_within(error, 0.0, 0.1)
    else:
        assert error.mean() < -0.5
