"""Component-wise noising against laws that are known: its score by quadrature for data that no mixture of the noising has."""

import functools
import math

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp, multivariate_normal, norm

from ndsm.data import Scaling
from ndsm.inference.imputation import impute
from ndsm.inference.likelihood import log_density, log_density_of_rows
from ndsm.inference.noised_references import responsibilities_given
from ndsm.inference.operators import Operator
from ndsm.inference.reconstruction import reconstruct
from ndsm.mixture import GaussianMixture
from ndsm.objectives.velocity import VelocityMatching
from ndsm.processes import MarginalMixtureOU, MixtureOU
from ndsm.processes.components import settled_weights
from ndsm.samplers import generate, reverse_times

pytestmark = pytest.mark.statistical
N = 20_000
KS = math.sqrt(-math.log(6.3e-5 / 2) / 2)
"""Kolmogorov's bound on sqrt(n) D at the probability of four standard errors."""

WEIGHTS, MEANS, STDS = np.array([0.25, 0.75]), np.array([-1.0, 0.9]), np.array([0.25, 0.5])
"""The data: two normal laws on the line."""
NODES = torch.linspace(-8, 8, 601, dtype=torch.float64)


def density(y):
    return (WEIGHTS * norm.pdf(np.asarray(y)[..., None], MEANS, STDS)).sum(-1)


def distribution(y):
    return (WEIGHTS * norm.cdf(np.asarray(y)[..., None], MEANS, STDS)).sum(-1)


@pytest.fixture(scope="module")
def process():
    """Three components that overlap and are not the data's, with the shares that the data give them."""
    mixture = GaussianMixture(
        torch.tensor([0.3, 0.4, 0.3]), torch.tensor([[-1.2], [0.2], [1.3]]), torch.tensor([0.3, 0.4, 0.3])
    )
    grid = np.linspace(-4, 4, 4001)
    shares = torch.ones(3, dtype=torch.float64) / 3
    for _ in range(500):
        mixture = mixture.with_weights(shares)
        r = mixture.to(dtype=torch.float64).responsibilities(torch.from_numpy(grid)[:, None])
        shares = (r * torch.from_numpy(density(grid))[:, None]).sum(0)
        shares = shares / shares.sum()
    return MixtureOU(mixture, 5.0)


@pytest.fixture(scope="module")
def score(process):
    """s(u, t, k) = ∂ log ∫ p(v | k) N(u; αv, σ²) dv, p(v | k) ∝ p(μ + L v) r_k(μ + L v), between `NODES` by cubics."""
    components = process.components
    every = torch.arange(components.count).repeat_interleave(len(NODES))
    at = components.leave(NODES[:, None].float().repeat(components.count, 1), every)
    r = components.mixture.responsibilities(at).double().gather(1, every[:, None])[:, 0]
    law = torch.from_numpy(density(at[:, 0].double().numpy())) * r
    log_law = law.reshape(components.count, 1, -1).clamp(min=1e-300).log()
    step = float(NODES[1] - NODES[0])

    @functools.cache
    def table(t):
        time = torch.tensor([t], dtype=torch.float64)
        alpha, std = process.transition.log_alpha(time).exp(), process.transition.std(time)
        z = (NODES[:, None] - alpha * NODES) / std
        w = torch.softmax(log_law - 0.5 * z * z, 2)
        mean = (w * z).sum(2)
        return -mean / std, ((w * z * z).sum(2) - mean**2 - 1) / std**2

    def exact(u, t, label=None, component=None):
        (values, slopes), place = table(float(t[0])), (u[:, 0].double() - NODES[0]) / step
        below = place.detach().long().clamp(0, len(NODES) - 2)
        k, x = component.long(), place - below
        # Hermite's cubic: a score with kinks would cost the adaptive solver many steps.
        out = (1 - x) ** 2 * ((1 + 2 * x) * values[k, below] + x * step * slopes[k, below])
        out = out + x**2 * ((3 - 2 * x) * values[k, below + 1] - (1 - x) * step * slopes[k, below + 1])
        return out[:, None].to(u.dtype)

    return exact


@pytest.fixture(scope="module")
def marginal(process):
    """The same noising without the component: the states are the rows."""
    return MarginalMixtureOU(process.components, process.horizon)


@pytest.fixture(scope="module")
def field(process):
    """-v(y, t) = E[α (Y_0 - μ_K) - (α²/σ) L_K Z | Y_t = y] by quadrature over Y_0 and K, between nodes by cubics."""
    mixture = process.components.mixture.to(dtype=torch.float64)
    starts, nodes = (torch.linspace(-a, a, n, dtype=torch.float64) for a, n in ((3.8, 601), (5, 401)))
    means, stds = mixture.means[:, 0], mixture.covariances.sqrt()
    joint = mixture.responsibilities(starts[:, None]).T * torch.from_numpy(density(starts))
    log_joint, step = joint.clamp(min=1e-300).log(), float(nodes[1] - nodes[0])

    @functools.cache
    def table(t):
        time = torch.tensor([t], dtype=torch.float64)
        alpha, std = process.transition.log_alpha(time).exp(), process.transition.std(time)
        signal = alpha * (starts - means[:, None])
        off = nodes[:, None, None] - means[:, None] - signal
        z = off / (std * stds[:, None])
        w = torch.softmax((log_joint - stds.log()[:, None] - 0.5 * z * z).flatten(1), 1).reshape(z.shape)
        values = (w * (signal - alpha**2 / std**2 * off)).sum((1, 2))
        return values, torch.gradient(values, spacing=step)[0]

    def exact(y, t, label=None):
        (values, slopes), place = table(float(t[0])), (y[:, 0].double() - nodes[0]) / step
        below = place.detach().long().clamp(0, len(nodes) - 2)
        x = place - below
        out = (1 - x) ** 2 * ((1 + 2 * x) * values[below] + x * step * slopes[below])
        out = out + x**2 * ((3 - 2 * x) * values[below + 1] - (1 - x) * step * slopes[below + 1])
        return out[:, None].to(y.dtype)

    return exact


def distance_of_rows(process, score, sampler):
    """sup|F_n - F| of N generated rows, F being the law of the data."""
    times = reverse_times(process, sampler, 60, 1e-3)
    rows = torch.cat(list(generate(process, score, times, N, 0, sampler=sampler)))[:, 0].double().numpy()
    rows.sort()
    return np.abs(distribution(rows) - (np.arange(N) + 0.5) / N).max()


@pytest.mark.parametrize("sampler", ["ode", "ddim", "dpmpp-2m"])
def test_with_the_exact_velocity_generated_rows_have_the_law_of_the_data(marginal, field, sampler):
    """As the test of the exact score below: with the components unseen, too, the law is that of the data."""
    assert distance_of_rows(marginal, field, sampler) < KS / math.sqrt(N) + 0.005


def test_rows_with_and_without_their_component_have_one_law(process, marginal, score, field):
    """Smirnov's theorem: sqrt(n/2) sup|F_n - G_n| of two samples of one law exceeds `KS` with probability 6.3e-5."""
    made = [
        torch.cat(list(generate(p, s, reverse_times(p, "dpmpp-2m", 60, 1e-3), N, seed, sampler="dpmpp-2m")))
        for seed, (p, s) in enumerate([(process, score), (marginal, field)])
    ]
    assert ks_2samp(*(rows[:, 0].numpy() for rows in made)).statistic < KS / math.sqrt(N / 2) + 0.005


def test_the_loss_of_the_velocity_is_least_at_the_exact_one(marginal, field):
    """The gradient of the mean loss at s along any change h(y) of s is E h (s - target) = 0, within 4 standard errors."""
    rng = np.random.default_rng(3)
    which = rng.choice(2, N, p=WEIGHTS)
    y = torch.from_numpy(MEANS[which] + STDS[which] * rng.standard_normal(N)).float()[:, None]
    for t in (0.05, 0.5, 2.0):
        uniform, z = torch.from_numpy(rng.random(N)), torch.from_numpy(rng.standard_normal((N, 1))).float()
        rows = marginal.noised(y, torch.full((N,), t), uniform, z)
        for change in (torch.ones_like, torch.sin, torch.square):
            for mirrored in (False, True):

                def loss(size, rows=rows, change=change, mirrored=mirrored):
                    moved = VelocityMatching(marginal, mirrored)(
                        lambda x, at: field(x, at) + size * change(x), rows
                    )
                    return moved.base.double()

                # The loss is quadratic in the size.
                slope = (loss(1.0) - loss(-1.0)) / 2
                assert abs(float(slope.mean())) < 4 * float(slope.std()) / math.sqrt(N)


@pytest.mark.nightly
def test_the_density_without_components_is_that_of_the_data(marginal, field):
    """As the test of the density below."""
    rows = torch.linspace(-2.6, 3.2, 30)[:, None]
    found = log_density(marginal, field, rows, 1e-3, tolerance=3e-4)[0].exp().numpy()
    np.testing.assert_allclose(found, density(rows[:, 0].numpy()), atol=4e-3)
    assert abs(np.trapezoid(found, rows[:, 0].numpy()) - 1) < 0.01


@pytest.mark.parametrize("sampler", ["em", "reverse-diffusion", "ancestral", "pc", "ode", "ddim", "dpmpp-2m"])
def test_with_the_exact_score_generated_rows_have_the_law_of_the_data(process, score, sampler):
    """Kolmogorov's theorem: sqrt(n) sup|F_n - F| exceeds `KS` with probability 6.3e-5; steps add at most 0.005 to sup|F_n - F|."""
    assert distance_of_rows(process, score, sampler) < KS / math.sqrt(N) + 0.005


def test_rows_in_a_components_coordinates_have_its_law(process):
    """E u and E u² of rows whose component is drawn softly, within 4 standard errors of the integrals over p(y) r_k(y)/π_k."""
    rng = np.random.default_rng(0)
    which = rng.choice(2, N, p=WEIGHTS)
    y = torch.from_numpy(MEANS[which] + STDS[which] * rng.standard_normal(N)).float()[:, None]
    components = process.components
    k = components.draw(y, torch.from_numpy(rng.random(N)))
    u = components.enter(y, k)[:, 0].double()
    for i in range(components.count):
        grid = components.leave(NODES[:, None].float(), torch.full((len(NODES),), i)).double()
        law = torch.from_numpy(density(grid[:, 0].numpy()))
        law = law * components.mixture.to(dtype=torch.float64).responsibilities(grid)[:, i]
        for power in (1, 2):
            expected = float((law * NODES**power).sum() / law.sum())
            values = u[k == i] ** power
            assert abs(float(values.mean()) - expected) < 4 * float(values.std()) / math.sqrt(len(values))


def test_the_density_is_that_of_the_data_and_has_integral_one(process, score):
    """With the exact score Σ π_k q_k(u_k)/det L_k is the density of the data, but for the noise of the time at which it is taken
    and the components below the smallest share."""
    rows = np.linspace(-2.6, 3.2, 30)[:, None]
    found = log_density_of_rows(process, score, rows, Scaling.identity(1), 1e-3).log_prob
    np.testing.assert_allclose(np.exp(found), density(rows[:, 0]), atol=4e-3)
    assert abs(np.trapezoid(np.exp(found), rows[:, 0]) - 1) < 0.01


@pytest.mark.parametrize("kind", ["spherical", "tied", "diag", "full"])
def test_imputed_numbers_have_the_conditional_law_of_the_mixture(kind):
    """With rows that have the mixture's own law, s(u, t, k) = -u, and x₁ given x₀ and x₂ is a mixture in closed form
    (Kolmogorov's theorem as above)."""
    a = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    full = a @ a.mT + 0.3 * torch.eye(3, dtype=torch.float64)
    covariance = {
        "spherical": torch.tensor([0.5, 1.5]),
        "tied": full[0],
        "diag": full.diagonal(dim1=1, dim2=2),
        "full": full,
    }
    mixture = GaussianMixture(
        torch.tensor([0.4, 0.6]), torch.tensor([[0.0, -2.0, 0.0], [0.5, 2.0, -0.5]]), covariance[kind], kind
    )
    n, known = 2000, np.array([0.4, np.nan, -0.3], dtype=np.float32)
    rows = impute(
        MixtureOU(mixture), lambda y, t, component=None: -y, np.tile(known, (n // 20, 1)), 20, 12, 1e-4, 0, particles=4
    )  # fmt: skip
    assert (rows[..., [0, 2]] == known[[0, 2]]).all()
    drawn = np.sort(rows[..., 1].reshape(-1))
    law, index = np.zeros(n), [0, 2]
    weights = []
    for k in range(2):
        c = mixture.covariance(k)
        c = (c.diag() if c.ndim == 1 else c).numpy()
        off = known[index] - mixture.means[k].numpy()[index]
        block = c[np.ix_(index, index)]
        gain = np.linalg.solve(block, c[index, 1])
        weights.append(
            float(mixture.weights[k])
            * math.exp(-0.5 * off @ np.linalg.solve(block, off))
            / math.sqrt(np.linalg.det(block))
        )
        mean, variance = float(mixture.means[k, 1]) + gain @ off, c[1, 1] - gain @ c[index, 1]
        law += weights[-1] * norm.cdf(drawn, mean, math.sqrt(variance))
    law /= sum(weights)
    # Draws of one row share their population's component, but not their numbers.
    assert np.abs(law - (np.arange(n) + 0.5) / n).max() < KS / math.sqrt(n)


@pytest.mark.parametrize("kind", ["spherical", "full"])
def test_rows_given_measurements_follow_bayes_rule(kind):
    """Where the data are the mixture, x given y = A x + noise has the law Σ_k w_k N(m_k, C_k), w_k in proportion to
    π_k N(y; A μ_k, A Σ_k Aᵀ + σ²) and m_k, C_k Bayes' rule in component k: its mean within 4 standard errors, and Kolmogorov's
    theorem as above along directions that are measured, are not, and partly are, but for 0.01 that the steps leave."""
    a = torch.randn(3, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    full = 0.3 * a @ a.mT + 0.1 * torch.eye(3, dtype=torch.float64)
    covariance = {"spherical": torch.tensor([0.5, 1.5, 0.2]), "full": full}
    means = torch.tensor([[0.0, -1.0, 0.5], [0.5, 1.0, -0.5], [1.1, 0.0, 1.0]])
    mixture = GaussianMixture(torch.tensor([0.3, 0.5, 0.2]), means, covariance[kind], kind)
    n, seen, std, y = (
        2000,
        np.array([[1.0, 0.5, 0.0], [0.0, 0.2, 30.0]]),
        np.array([0.3, 9.0]),
        np.array([[0.7, 6.0]]),
    )
    found = reconstruct(
        MixtureOU(mixture), lambda u, t, component=None: -u, Operator(torch.from_numpy(seen)), y, std, n, 80, 1e-4, 0
    )  # fmt: skip
    rows = np.concatenate(list(found)).astype(np.float64)
    assert rows.shape == (n, 3)
    weights, laws = [], []
    for k in range(3):
        c, mean = mixture.covariance(k), mixture.means[k].numpy()
        c = (c.diag() if c.ndim == 1 else c).numpy()
        law, off = seen @ c @ seen.T + np.diag(std**2), y[0] - seen @ mean
        gain = c @ seen.T @ np.linalg.inv(law)
        weights.append(float(mixture.weights[k]) * multivariate_normal.pdf(off, cov=law))
        laws.append((mean + gain @ off, c - gain @ seen @ c))
    shares = np.array(weights) / sum(weights)
    # Each has a say in the result.
    assert shares.min() > 0.02
    found_shares = responsibilities_given(
        mixture, Operator(torch.from_numpy(seen)), torch.from_numpy(y), torch.from_numpy(std)
    )
    np.testing.assert_allclose(found_shares[0], shares, rtol=1e-4)
    mean = sum(w * m for w, (m, _) in zip(shares, laws, strict=True))
    assert (np.abs(rows.mean(0) - mean) < 4 * rows.std(0) / math.sqrt(n)).all()
    directions = np.array([[0.9, 0.4, 0.0], [0.0, 0.0, 1.0], [-0.4, 0.9, 0.0], [0.6, 0.6, 0.5]])
    for direction in directions:
        along = np.sort(rows @ direction)
        law = sum(
            w * norm.cdf(along, m @ direction, math.sqrt(direction @ c @ direction))
            for w, (m, c) in zip(shares, laws, strict=True)
        )
        assert np.abs(law - (np.arange(n) + 0.5) / n).max() < KS / math.sqrt(n) + 0.01, direction


def test_settled_weights_are_the_mean_responsibilities_of_the_rows():
    rng = np.random.default_rng(2)
    parts = [rng.normal(-1, 1, (900, 2)), rng.normal(1, 0.6, (2100, 2)), rng.normal(3, 0.5, (500, 2))]
    rows = torch.from_numpy(np.concatenate(parts)).float()
    means = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [3.0, 3.0]])
    mixture = GaussianMixture(torch.ones(3) / 3, means, torch.tensor([0.8, 0.4, 0.5]))
    settled = settled_weights(mixture, rows)
    assert settled.n_components == 3
    torch.testing.assert_close(
        settled.responsibilities(rows).double().mean(0), settled.weights, atol=2e-6, rtol=0
    )
