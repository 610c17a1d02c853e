"""Every sampler, given the exact score, returns the data's law: two-sample tests at n = 20,000."""

import numpy as np
import pytest
import torch
from scipy.linalg import eigh_tridiagonal
from scipy.stats import ks_2samp

from ndsm.processes import OU, VE, VP, Langevin, SubVP
from ndsm.reference import GaussianMixture
from ndsm.samplers import carry, generate, reverse_times
from ndsm.streams import torch_stream

pytestmark = pytest.mark.statistical

N = 20_000
LEAST_P = 6e-5
"""Two-sided probability of 4 standard errors, for each of the directions that are looked at."""
DIRECTIONS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.8, -0.6]])


def assert_same_law(x, y, least_p=LEAST_P):
    """Kolmogorov and Smirnov's test of rows (n, d) along each direction; it is exact for independent rows."""
    directions = DIRECTIONS if x.shape[1] == 2 else torch.ones(1, 1)
    for a in directions.to(x):
        p = ks_2samp((x @ a).numpy(), (y.to(x) @ a).numpy()).pvalue
        assert p > least_p, f"p = {p:.2g} along {a.tolist()}"


class FarModes:
    """A mixture of three modes far apart, tilted, and data inside each of them: the score is known at all times.

    Between modes the density of the prior is below 1e-12 of its peak, so that inside one the noising is that mode's own.
    """

    weights = torch.tensor([0.5, 0.3, 0.2])
    means = torch.tensor([[-6.0, 0.0], [6.0, 1.0], [0.0, 8.0]], dtype=torch.float64)
    covariances = torch.tensor(
        [[[0.8, 0.3], [0.3, 0.4]], [[0.5, 0.0], [0.0, 0.3]], [[0.6, -0.2], [-0.2, 0.6]]], dtype=torch.float64
    )
    shift = torch.tensor([[0.3, -0.2], [-0.4, 0.1], [0.0, 0.3]], dtype=torch.float64)
    spread = torch.tensor([0.05, 0.1, 0.02], dtype=torch.float64)

    def __init__(self, covariance_type="full"):
        if covariance_type == "spherical":
            self.covariances = torch.tensor([0.5, 0.3, 0.6], dtype=torch.float64)[:, None, None] * torch.eye(
                2
            )
        own = {
            "full": self.covariances,
            "spherical": self.covariances[:, 0, 0],
            "diag": self.covariances.diagonal(dim1=1, dim2=2),
            "tied": self.covariances[0],
        }[covariance_type]
        if covariance_type == "diag":
            self.covariances = torch.diag_embed(own)
        if covariance_type == "tied":
            self.covariances = own.expand(3, 2, 2)
        self.process = Langevin(GaussianMixture(self.weights, self.means, own, covariance_type), horizon=3.0)
        self._known = {}

    def at(self, t):
        """The law of Y_t, a mixture."""
        values, axes = torch.linalg.eigh(self.covariances)
        a = torch.exp(-t / values)
        decay = axes @ torch.diag_embed(a) @ axes.mT
        variance = a**2 * self.spread[:, None] + values * (1 - a**2)
        means = self.means + (decay @ self.shift[:, :, None])[:, :, 0]
        return GaussianMixture(self.weights, means, axes @ torch.diag_embed(variance) @ axes.mT, "full")

    def score(self, y, t):
        t = float(t[0])
        if t not in self._known:
            self._known[t] = self.at(t)
        return self._known[t].score(y)

    def truth(self):
        return self.at(0.0).sample(N, torch_stream(1, "truth"))


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

    def start(self):
        """The law of Y_T itself: the horizon is too short for the prior."""
        p = np.maximum(self._root * (self._vectors @ (np.exp(self._rate * self.horizon) * self._start)), 0)
        cdf = np.cumsum(p)
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
    x = carry(
        overlapping.process, overlapping.score, times, overlapping.start(), torch_stream(0, "noise"),
        sampler=sampler,
    )  # fmt: skip
    assert_same_law(x.double(), overlapping.truth())


LINEAR = {
    "em": 200, "reverse-diffusion": 200, "ancestral": 100, "pc": 200, "ode": 60, "ode-adaptive": 2,
    "ddim": 60, "dpmpp-2m": 30,
}  # fmt: skip
PROCESSES = {"vp": VP(1.0), "subvp": SubVP(1.0), "ve": VE(1.0, 0.02, 20.0), "ou": OU(4.0)}


class ThreeModes:
    """Data of three tilted modes, under a linear process."""

    data = GaussianMixture(
        torch.tensor([0.5, 0.3, 0.2]),
        torch.tensor([[-1.2, 0.0], [1.2, 0.5], [0.2, 1.4]]),
        torch.tensor(
            [[[0.1, 0.05], [0.05, 0.06]], [[0.04, 0.0], [0.0, 0.2]], [[0.05, -0.02], [-0.02, 0.05]]]
        ),
        "full",
    )

    def __init__(self, process):
        self.process, self._known = process.for_dimension(2), {}

    def at(self, t):
        t = torch.tensor([t], dtype=torch.float64)
        alpha, std = float(self.process.log_alpha(t).exp()), float(self.process.std(t))
        covariances = alpha**2 * self.data.covariances + std**2 * torch.eye(2)
        return GaussianMixture(self.data.weights, alpha * self.data.means, covariances, "full")

    def score(self, y, t):
        t = float(t[0])
        if t not in self._known:
            self._known[t] = self.at(t)
        return self._known[t].score(y)

    def check(self, sampler, steps):
        times = reverse_times(self.process, sampler, steps, 1e-4)
        start = self.at(self.process.horizon).sample(N, torch_stream(0, "start"))
        x = carry(self.process, self.score, times, start, torch_stream(0, "noise"), sampler=sampler)
        assert_same_law(x, self.data.sample(N, torch_stream(1, "truth")))


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
