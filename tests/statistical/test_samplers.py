"""Every sampler, given the exact score, returns the data's law: two-sample tests at n = 20,000."""

import numpy as np
import pytest
import torch
from known_laws import PROCESSES, FarModes, N, ThreeModes, assert_same_law
from scipy.linalg import eigh_tridiagonal

from ndsm.core.rng import torch_stream
from ndsm.mixture import GaussianMixture
from ndsm.processes import Langevin
from ndsm.samplers import find_sampler, generate, integrate, reverse_times

pytestmark = pytest.mark.statistical

NONLINEAR = {"em": 150, "exponential": 100, "pc": 150, "ode": 60, "ode-adaptive": 2, "ancestral": 100}


@pytest.mark.parametrize(("sampler", "steps"), NONLINEAR.items())
def test_nonlinear_noising_far_modes(sampler, steps):
    case = FarModes()
    times = reverse_times(case.process, sampler, steps, 1e-3)
    x = torch.cat(list(generate(case.process, case.score, times, N, 0, sampler=sampler)))
    assert_same_law(x, case.truth())


@pytest.mark.parametrize("covariance_type", ["spherical", "diag", "tied", "full"])
@pytest.mark.parametrize("sampler", ["flow", "flow2"])
def test_mode_linearised_flow_far_modes(sampler, covariance_type):
    case = FarModes(covariance_type)
    times = reverse_times(case.process, sampler, 40, 1e-3)
    x = torch.cat(list(generate(case.process, case.score, times, N, 0, sampler=sampler)))
    assert_same_law(x, case.truth())


class Overlapping:
    """Two overlapping modes of unequal width in one dimension, and data that are neither: p_t solves the Fokker-Planck
    equation on a grid, by the eigenfunctions of its generator."""

    horizon = 1.0

    def __init__(self):
        self.mixture = GaussianMixture(
            torch.tensor([0.4, 0.6]), torch.tensor([[-0.8], [0.9]]), torch.tensor([0.15, 0.4])
        )
        self.process = Langevin(self.mixture, horizon=self.horizon)
        self.x = np.linspace(-5, 5, 2001)
        h = self.x[1] - self.x[0]
        log_prior = self.mixture.to(dtype=torch.float64).log_prob(torch.from_numpy(self.x[:, None])).numpy()
        # Jumps between neighbours at rates that keep the prior; symmetric after scaling by its root.
        ratio = np.exp(0.5 * np.diff(log_prior))
        up, down = ratio / h**2, 1 / ratio / h**2
        diagonal = -(np.append(up, 0) + np.append(0, down))
        self._rate, self._vectors = eigh_tridiagonal(diagonal, np.full(len(ratio), 1 / h**2))
        self._root = np.exp(0.5 * log_prior)
        self.density = sum(
            w * np.exp(-0.5 * ((self.x - m) / s) ** 2) / s
            for w, m, s in ((0.3, -1.2, 0.15), (0.5, 0.4, 0.2), (0.2, 1.5, 0.1))
        )
        self._start = self._vectors.T @ (self.density / self._root)
        self._known = {}

    def score(self, y, t):
        t = float(t[0])
        if t not in self._known:
            p = self._root * (self._vectors @ (np.exp(self._rate * t) * self._start))
            p = np.maximum(p, p.max() * 1e-14)
            self._known[t] = np.gradient(np.log(p), self.x)
        return torch.from_numpy(np.interp(y[:, 0].numpy(), self.x, self._known[t])[:, None]).float()

    def truth(self):
        cdf = np.cumsum(self.density)
        u = torch.rand(N, generator=torch_stream(1, "truth"), dtype=torch.float64).numpy()
        return torch.from_numpy(np.interp(u, cdf / cdf[-1], self.x)[:, None])

    def start(self, u=None):
        """The law of Y_T itself, at random or at quantiles u: the horizon is too short for the prior."""
        p = np.maximum(self._root * (self._vectors @ (np.exp(self._rate * self.horizon) * self._start)), 0)
        cdf = np.cumsum(p)
        if u is None:
            u = torch.rand(N, generator=torch_stream(2, "start"), dtype=torch.float64).numpy()
        return torch.from_numpy(np.interp(u, cdf / cdf[-1], self.x)[:, None]).float()


@pytest.fixture(scope="module")
def overlapping():
    return Overlapping()


@pytest.mark.parametrize(
    ("sampler", "steps"),
    {**NONLINEAR, "flow": 100, "flow2": 50}.items(),
)
def test_nonlinear_noising_overlapping_modes(sampler, steps, overlapping):
    times = reverse_times(overlapping.process, sampler, steps, 1e-4)
    x = integrate(
        overlapping.process, overlapping.score, times, overlapping.start(), torch_stream(0, "noise"),
        sampler=sampler,
    )  # fmt: skip
    assert_same_law(x.double(), overlapping.truth())


@pytest.mark.parametrize(("sampler", "steps", "bound"), [("flow", 200, 0.0045), ("flow2", 100, 0.003)])
def test_a_known_score_leaves_no_bias_that_more_steps_keep(sampler, steps, bound, overlapping):
    """With an exact score the flow's law tends to the data's as steps get smaller, at 20,000 equal quantiles of the start, whose
    images have no spread: the distribution functions come closer than the 0.0056 at which a learned slope's damping levels off."""
    case, exact = overlapping, find_sampler(sampler, slope_error=0.0)
    ranks = (np.arange(N) + 0.5) / N
    times = reverse_times(case.process, exact, steps, 1e-4)
    x = integrate(case.process, case.score, times, case.start(ranks), torch_stream(0, "noise"), sampler=exact)
    cdf = np.cumsum(case.density)
    assert np.abs(np.interp(np.sort(x[:, 0].numpy()), case.x, cdf / cdf[-1]) - ranks).max() < bound


def test_exponential_steps_keep_a_mixture_whose_modes_overlap():
    """Data that are the mixture itself, whose score is known at all times: half of the drift between two modes is the other's."""
    mixture = GaussianMixture(
        torch.tensor([0.5, 0.5]), torch.tensor([[-1.0], [1.0]]), torch.tensor([0.5, 0.5])
    )
    process = Langevin(mixture, horizon=2.0)
    times = reverse_times(process, "exponential", 100, 1e-3)
    x = torch.cat(list(generate(process, lambda y, t: mixture.score(y), times, N, 0, sampler="exponential")))
    assert_same_law(x, mixture.sample(N, torch_stream(1, "truth")))


@pytest.mark.parametrize("covariance_type", ["spherical", "tied", "full"])
@pytest.mark.parametrize(("sampler", "steps"), [("exponential", 20), ("flow", 20), ("flow2", 20)])
def test_a_step_may_be_thousands_of_times_a_thin_axis_variance(sampler, steps, covariance_type):
    """Whose factors exp(h/v) no number can hold, and which are nothing to the wide axes and modes."""
    thin = torch.diag(torch.tensor([0.5, 1e-5]))
    own = {
        "spherical": torch.tensor([0.5, 1e-5]),
        "tied": thin,
        "full": torch.stack([0.5 * torch.eye(2), thin]),
    }
    weights, means = torch.tensor([0.5, 0.5]), torch.tensor([[-5.0, 0.0], [5.0, 0.0]])
    mixture = GaussianMixture(weights, means, own[covariance_type], covariance_type)
    process = Langevin(mixture, horizon=2.0)
    times = reverse_times(process, sampler, steps, 1e-3)
    x = torch.cat(list(generate(process, lambda y, t: mixture.score(y), times, N, 0, sampler=sampler)))
    assert x.isfinite().all()
    # Wide in all three.
    left, truth = (rows[rows[:, 0] < 0, :1] for rows in (x, mixture.sample(N, torch_stream(1, "truth"))))
    assert_same_law(left, truth)


LINEAR = {
    "em": 200, "reverse-diffusion": 200, "ancestral": 100, "pc": 200, "ode": 60, "ode-adaptive": 2,
    "ddim": 60, "dpmpp-2m": 30,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "sampler", "steps"),
    # subvp and ou differ in α and σ alone.
    [
        (n, *item)
        for n in PROCESSES
        for item in LINEAR.items()
        if n in ("vp", "ve") or item[0] in ("ancestral", "ode")
    ],
)
def test_linear_noising(name, sampler, steps):
    ThreeModes(PROCESSES[name]).check(sampler, steps)


def test_annealed_langevin():
    ThreeModes(PROCESSES["ve"]).check("annealed", 500)


@pytest.mark.parametrize("sampler", ["flow", "flow2"])
def test_noise_between_the_flow_and_ancestral_sampling_far_modes(sampler):
    case, chosen = FarModes(), find_sampler(sampler, 0.5)
    times = reverse_times(case.process, chosen, 80, 1e-3)
    x = torch.cat(list(generate(case.process, case.score, times, N, 0, sampler=chosen)))
    assert_same_law(x, case.truth())


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 100), ("dpmpp-2m", 60)])
def test_noise_between_the_flow_and_ancestral_sampling_linear(sampler, steps):
    ThreeModes(PROCESSES["vp"]).check(find_sampler(sampler, 0.5), steps)
