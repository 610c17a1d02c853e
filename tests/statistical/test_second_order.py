"""Second-order scores by denoising, posterior covariances and the final draw, where every law is known in closed form."""

from itertools import islice

import pytest
import torch

from ndsm.errors import InputError
from ndsm.inference.final_step import FinalDraw
from ndsm.inference.posterior import Posterior
from ndsm.inference.second_order import fit_second_order, second_order_loss
from ndsm.mixture import GaussianMixture
from ndsm.processes import VP, Langevin
from ndsm.samplers import SAMPLERS, integrate, reverse_times
from ndsm.simulation import one_step_batches

pytestmark = pytest.mark.statistical

WEIGHTS = torch.tensor([0.7, 0.3])
MEANS = torch.tensor([[-0.8, 0.0], [0.8, 0.6]])
VARIANCES = torch.tensor([[0.2, 0.02], [0.1, 0.3]])
GAUSSIAN = slice(0, 1)
MIXTURE = slice(0, 2)


def vp(dtype=torch.float32):
    process = VP(1.0).for_dimension(2)
    return process, lambda t: (process.log_alpha(t).exp(), process.variance(t))


def langevin(dtype=torch.float32):
    """The Langevin process of N(0, I), whose law is that of OU: any data are evolved exactly."""
    mixture = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1), "spherical", dtype=dtype)
    return Langevin(mixture, horizon=3.0), lambda t: (torch.exp(-t), -torch.expm1(-2 * t))


class Evolved:
    """The noised mixture of some of the components in float64: s1, s2 as (α, β) and draws of the data."""

    def __init__(self, law, components):
        self.law, self.parts = law, (WEIGHTS[components], MEANS[components], VARIANCES[components])
        w, m, v = self.parts
        self.data = GaussianMixture(w, m, v, "diag")

    def parts_at(self, y, t):
        """Responsibilities (B, K), and of each component its score and precision, (B, K, d)."""
        w, m, v = (part.double() for part in self.parts)
        a, s2 = (number[:, None, None] for number in self.law(t.double()))
        spread = a**2 * v + s2
        off = y.double()[:, None] - a * m
        logs = -0.5 * (off**2 / spread + spread.log()).sum(2) + w.log()
        return logs.softmax(1), -off / spread, 1 / spread

    def score(self, y, t):
        r, g, _ = self.parts_at(y, t)
        return (r[..., None] * g).sum(1).to(y)

    def hessian(self, y, t):
        r, g, precision = self.parts_at(y, t)
        s = (r[..., None] * g).sum(1)
        outer = torch.einsum("bk,bki,bkj->bij", r, g, g) - s[:, :, None] * s[:, None]
        return outer - torch.diag_embed((r[..., None] * precision).sum(1))

    def second_order(self, y, t):
        """α a diagonal below the eigenvalues, β βᵀ the rest."""
        s2 = self.hessian(y, t)
        lowest = torch.linalg.eigvalsh(s2)[:, :1]
        values, axes = torch.linalg.eigh(s2 - torch.diag_embed(lowest.expand(y.shape)))
        return lowest.expand(y.shape).to(y), (axes * values.clamp(min=0).sqrt()[:, None]).to(y)


CASES = [(make, components) for make in (vp, langevin) for components in (GAUSSIAN, MIXTURE)]


@pytest.mark.parametrize(("make", "components"), CASES)
def test_the_exact_second_order_score_is_the_minimiser(mean_within, make, components):
    """E[φ(Y) (σ² s2 + I - e eᵀ)] = 0 for φ = 1, y_j, y_j² and log t, within 4 standard errors: the loss's gradient in s2."""
    process, law = make()
    evolved = Evolved(law, components)
    rows = evolved.data.sample(20_000, torch.Generator().manual_seed(0)).numpy()
    for batch in islice(one_step_batches(process, rows, 1e-2, 8000, seed=2), 2):
        y = (batch["mean"] + batch["std"][:, None] * batch["noise"]).double()
        t, std = batch["t"].double(), batch["std"].double()[:, None]
        e = batch["noise"] + std * evolved.score(y, t)
        residual = std[..., None] ** 2 * evolved.hessian(y, t) + torch.eye(2) - e[:, :, None] * e[:, None]
        tests = torch.cat([torch.ones(len(y), 1), y, y**2, t.log()[:, None]], 1)
        mean_within((tests[:, :, None, None] * residual[:, None]).flatten(1), 0.0)
        # It is no trivial statement: without s2 it is off by many standard errors.
        with pytest.raises(AssertionError):
            mean_within((torch.eye(2) - e[:, :, None] * e[:, None]).flatten(1), 0.0)


def test_the_loss_is_that_of_the_whole_matrices():
    generator = torch.Generator().manual_seed(0)
    alpha, s1, z = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64)
    beta = torch.randn(6, 4, 2, generator=generator, dtype=torch.float64)
    std = torch.rand(6, generator=generator, dtype=torch.float64)
    e = z + std[:, None] * s1
    s2 = torch.diag_embed(alpha) + beta @ beta.mT
    difference = std[:, None, None] ** 2 * s2 + torch.eye(4) - e[:, :, None] * e[:, None]
    torch.testing.assert_close(second_order_loss(alpha, beta, s1, z, std), difference.square().sum((1, 2)))


@pytest.mark.parametrize("make", [vp, langevin])
def test_a_trained_second_order_score_is_close_at_every_noise(make):
    """Mean absolute error of V(t) s2 below 0.15 at three times, where s2 = 0 errs by more than 0.3 on the diagonal."""
    process, law = make()
    evolved = Evolved(law, MIXTURE)
    data = evolved.data.sample(4000, torch.Generator().manual_seed(0))
    t_min = process.horizon / 1000
    model = fit_second_order(
        evolved.score, process, data.numpy(), t_min, rank=1, steps=400, width=32, depth=2, lr=5e-3
    )
    for share in (0.15, 0.4, 0.9):
        t = torch.full((len(data),), share * process.horizon)
        a, variance = law(t)
        noise = torch.randn(data.shape, generator=torch.Generator().manual_seed(1))
        y = a[:, None] * data + variance.sqrt()[:, None] * noise
        alpha, beta = model(y, t)
        exact = variance[:, None, None] * evolved.hessian(y, t)
        error = variance[:, None, None] * (torch.diag_embed(alpha) + beta @ beta.mT) - exact
        assert float(exact.diagonal(dim1=1, dim2=2).abs().mean()) > 0.3
        assert float(error.abs().mean()) < 0.15


@pytest.mark.parametrize("make", [vp, langevin])
def test_the_covariance_by_a_second_order_score_is_that_by_the_jacobian(make):
    """And both are Cov[Y_0 | Y_t], of Gaussian data by Bayes' rule and of a mixture by weighting its draws."""
    process, law = make(torch.float64)
    evolved = Evolved(law, MIXTURE)
    t, x = 0.3, torch.tensor([[0.2, 0.1], [-0.5, 0.4]], dtype=torch.float64)
    by_head = Posterior(process, evolved.score, evolved.second_order).covariance(x, t)
    by_jacobian = Posterior(process, evolved.score).covariance(x, t, rank=2)
    draws = evolved.data.sample(1_000_000, torch.Generator().manual_seed(0)).double()
    a, variance = law(torch.tensor(t, dtype=torch.float64))
    for i, row in enumerate(x):
        weight = torch.softmax(-((row - a * draws) ** 2).sum(1) / (2 * variance), 0)
        centred = draws - weight @ draws
        exact = (weight[:, None] * centred).mT @ centred
        for found in (by_head, by_jacobian):
            whole = torch.diag(found.diagonal[i]) + found.factors[i] @ found.factors[i].mT
            torch.testing.assert_close(whole, exact, rtol=0, atol=2e-3)
            torch.testing.assert_close(found.variance[i], whole.diagonal())
    least = Posterior(process, evolved.score).covariance(x, t, rank=1)
    torch.testing.assert_close(least.variance, by_jacobian.variance)


@pytest.mark.parametrize(("make", "sampler"), [(vp, "ddim"), (langevin, "exponential")])
@pytest.mark.parametrize("trained", [False, True])
def test_a_final_draw_keeps_the_spread_that_the_mean_loses(mean_within, make, sampler, trained):
    """Of Gaussian data, from a last time so late that Tweedie's mean loses most of the variance: each square within 4
    standard errors and 6 % for the steps before."""
    process, law = make()
    evolved = Evolved(law, GAUSSIAN)
    end = 0.5 * process.horizon
    final = FinalDraw(SAMPLERS[sampler], evolved.second_order if trained else None)
    generator = torch.Generator().manual_seed(3)
    for way, spread in ((final, 1.0), (SAMPLERS[sampler], 0.0)):
        times = reverse_times(process, way, 60, end)
        start = process.prior.sample(2000, generator)
        x = integrate(process, evolved.score, times, start, generator, sampler=way)
        squares = (x - MEANS[0]) ** 2 / VARIANCES[0]
        if spread:
            mean_within(squares, 1.0, 0.06)
        else:
            assert float(squares.mean()) < 0.5


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [({"rank": -1}, "rank: expected 0 or more"), ({"t_min": 1.0}, "t_min: expected above 0 and below")],
)
def test_a_rank_or_a_time_out_of_range_is_one_sentence(settings, sentence):
    process, law = vp()
    data = torch.zeros(5, 2).numpy()
    with pytest.raises(InputError, match=sentence):
        fit_second_order(Evolved(law, MIXTURE).score, process, data, **{"t_min": 0.01, "rank": 1, **settings})
