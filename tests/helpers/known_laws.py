"""Laws whose score is known at every time, and the test that rows have them."""

import torch
from scipy.stats import ks_2samp

from ndsm.core.rng import torch_stream
from ndsm.mixture import GaussianMixture
from ndsm.processes import OU, VE, VP, Langevin, SubVP
from ndsm.samplers import integrate, reverse_times

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
        x = integrate(self.process, self.score, times, start, torch_stream(0, "noise"), sampler=sampler)
        assert_same_law(x, self.data.sample(N, torch_stream(1, "truth")))
