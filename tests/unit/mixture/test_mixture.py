"""The mixture's closed formulas, against scikit-learn, automatic differentiation and their own moments."""

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as SklearnMixture
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from ndsm.core.rng import torch_stream
from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture

TYPES = ("spherical", "tied", "diag", "full")
every_shape = [
    pytest.mark.parametrize("d", [1, 2, 7]),
    pytest.mark.parametrize("k", [1, 5]),
    pytest.mark.parametrize("kind", TYPES),
]


def for_every_shape(test):
    for mark in every_shape:
        test = mark(test)
    return test


def states(mixture, n=64, spread=2.0, index=0):
    z = torch.randn(n, mixture.dimension, generator=torch_stream(1, "states", index), dtype=torch.float64)
    return mixture.weights @ mixture.means + spread * z


@for_every_shape
def test_density_and_responsibilities_equal_scikit_learns(kind, k, d):
    rng = np.random.default_rng([k, d])
    x = rng.normal(size=(300, d)) + 3 * rng.integers(0, 3, size=(300, 1))
    model = SklearnMixture(k, covariance_type=kind, random_state=0).fit(x)
    parts = (torch.from_numpy(a) for a in (model.weights_, model.means_, model.covariances_))
    mixture = GaussianMixture(*parts, kind, dtype=torch.float64)
    y = torch.from_numpy(rng.normal(size=(100, d)) * 3)
    np.testing.assert_allclose(mixture.log_prob(y), model.score_samples(y.numpy()), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(
        mixture.responsibilities(y), model.predict_proba(y.numpy()), rtol=1e-7, atol=1e-8
    )


def torch_density(mixture):
    """The same law in torch.distributions, for its automatic differentiation."""
    k, d, c = mixture.n_components, mixture.dimension, mixture.covariances
    full = {
        "spherical": lambda: c[:, None, None] * torch.eye(d),
        "diag": lambda: torch.diag_embed(c),
        "tied": lambda: c.expand(k, d, d),
        "full": lambda: c,
    }[mixture.covariance_type]()
    parts = MultivariateNormal(mixture.means, full)
    return MixtureSameFamily(Categorical(mixture.weights), parts).log_prob


@for_every_shape
def test_mixture_score_equals_autograd(kind, k, d, random_mixture):
    mixture = random_mixture(kind, k, d)
    y = states(mixture).requires_grad_()
    (gradient,) = torch.autograd.grad(torch_density(mixture)(y).sum(), y)
    torch.testing.assert_close(mixture.score(y.detach()), gradient, rtol=1e-9, atol=1e-9)


@for_every_shape
def test_hessian_vector_product_equals_autograd(kind, k, d, random_mixture):
    mixture = random_mixture(kind, k, d)
    y = states(mixture).requires_grad_()
    v = states(mixture, index=1)
    (gradient,) = torch.autograd.grad(torch_density(mixture)(y).sum(), y, create_graph=True)
    (product,) = torch.autograd.grad((gradient * v).sum(), y)
    torch.testing.assert_close(mixture.hessian_vector_product(y.detach(), v), product, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["spherical", "tied", "diag", "full"])
def test_log_prob_can_be_differentiated(kind, random_mixture):
    mixture = random_mixture(kind, 5, 3)
    y = states(mixture).requires_grad_()
    (gradient,) = torch.autograd.grad(mixture.log_prob(y).sum(), y)
    torch.testing.assert_close(gradient, mixture.score(y.detach()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["spherical", "tied", "diag", "full"])
def test_score_can_be_differentiated_both_ways(kind, random_mixture):
    """Reverse and forward mode give the Hessian product."""
    mixture = random_mixture(kind, 5, 3)
    y, v = states(mixture), states(mixture, index=1)
    product = mixture.hessian_vector_product(y, v)
    forward = torch.func.jvp(mixture.score, (y,), (v,))[1]
    torch.testing.assert_close(forward, product, rtol=1e-9, atol=1e-9)
    y.requires_grad_()
    (reverse,) = torch.autograd.grad((mixture.score(y) * v).sum(), y)
    torch.testing.assert_close(reverse, product, rtol=1e-9, atol=1e-9)


@for_every_shape
def test_score_on_columns_is_the_transposed_score(kind, k, d, random_mixture):
    mixture = random_mixture(kind, k, d)
    y = states(mixture)
    assert torch.equal(mixture.score_columns(y.T).T, mixture.score(y))


@pytest.mark.parametrize("spread", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("offset", [0.0, 1e3])
@for_every_shape
def test_float32_agrees_with_float64_far_from_the_data(kind, k, d, offset, spread, random_mixture):
    """Rounding a state by one unit in its last place moves the score by that, times the largest precision."""
    precise = random_mixture(kind, k, d, offset=offset)
    y = states(precise, spread=spread).float()
    score = precise.to(dtype=torch.float32).score(y)
    assert torch.isfinite(score).all()
    exact = precise.score(y.double())
    eps = torch.finfo(torch.float32).eps
    # Where components overlap the score also moves through the responsibilities, by at most |g_i - g_j|²:
    # up to ~60 such exponents compete before a component is negligible.
    reach = offset + spread * 4
    tolerance = (
        16 * eps * (reach / precise.min_variance + exact.norm(dim=1)) * (1 + reach_of_overlap(precise, y))
    )
    assert ((score.double() - exact).norm(dim=1) <= tolerance).all()
    r = precise.to(dtype=torch.float32).responsibilities(y)
    torch.testing.assert_close(r.sum(1), torch.ones(len(y)), rtol=1e-5, atol=0)


def reach_of_overlap(mixture, y):
    """Spread of the component scores under the responsibilities, as a factor on the state's rounding; (B,)."""
    r = mixture.responsibilities(y.double())
    second = (r.max(1).values < 1 - 1e-6).double()
    distance = (y.double()[:, None] - mixture.means).norm(dim=2).amax(1)
    return second * distance**2 / mixture.min_variance


@for_every_shape
def test_samples_have_the_mixtures_mean_and_covariance(kind, k, d, random_mixture, mean_within):
    """E y = Σ w_i μ_i and E (y - m)(y - m)ᵀ = Σ w_i (Σ_i + (μ_i - m)(μ_i - m)ᵀ)."""
    mixture = random_mixture(kind, k, d)
    y = mixture.sample(20_000, torch_stream(3, "moments", k, d))
    full = {
        "spherical": lambda c: c[:, None, None] * torch.eye(d),
        "diag": torch.diag_embed,
        "tied": lambda c: c.expand(k, d, d),
        "full": lambda c: c,
    }[kind](mixture.covariances)
    mean = mixture.weights @ mixture.means
    e = mixture.means - mean
    covariance = (mixture.weights[:, None, None] * (full + e[:, :, None] * e[:, None])).sum(0)
    mean_within(y, mean.numpy())
    centered = y - mean
    mean_within((centered[:, :, None] * centered[:, None]).flatten(1), covariance.flatten().numpy())


@pytest.mark.parametrize("kind", TYPES)
def test_each_sample_belongs_to_the_component_it_is_said_to_come_from(kind, random_mixture, mean_within):
    """E r_i(y) over draws of component i exceeds chance, and the shares are the weights within 4 SE."""
    mixture = random_mixture(kind, 5, 2)
    y, i = mixture.sample_with_components(20_000, torch_stream(3, "components"))
    share = torch.nn.functional.one_hot(i, 5).double()
    mean_within(share, mixture.weights.numpy())
    # E[1{i = k} - r_k(y)] = 0: the responsibilities are the conditional probabilities of the components.
    mean_within((share - mixture.responsibilities(y)) * y[:, :1], 0.0)


@pytest.mark.parametrize("kind", TYPES)
def test_a_mixture_survives_being_stored(kind, random_mixture):
    mixture = random_mixture(kind, 5, 3)
    described = mixture.describe()
    again = GaussianMixture.from_tensors(mixture.tensors(), described["covariance_type"]).to(
        dtype=torch.float64
    )
    y = states(mixture)
    assert torch.equal(mixture.score(y), again.score(y))
    assert again.describe() == described
    assert (described["n_components"], described["dimension"]) == (5, 3)


def test_to_changes_precision_and_nothing_else(random_mixture):
    mixture = random_mixture("full", 5, 3)
    single = mixture.to(dtype=torch.float32)
    assert single.score(states(mixture).float()).dtype == torch.float32
    assert mixture.to(dtype=torch.float64) is mixture
    assert torch.equal(single.to(dtype=torch.float64).score(states(mixture)), mixture.score(states(mixture)))


def three_clusters(n=600):
    rng = np.random.default_rng(4)
    means = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    return means, means[rng.integers(0, 3, n)] + 0.5 * rng.normal(size=(n, 2))


@pytest.mark.parametrize("kind", TYPES)
def test_bayesian_fit_finds_how_many_clusters_there_are(kind):
    means, x = three_clusters()
    mixture = GaussianMixture.fit(x, 10, covariance_type=kind, bayesian=True, seed=0)
    assert mixture.n_components == 3
    distance = np.linalg.norm(mixture.means.numpy()[:, None] - means[None], axis=2)
    assert (distance.min(0) < 0.2).all()
    assert float(mixture.weights.sum()) == pytest.approx(1.0, abs=1e-12)


def test_fit_on_some_rows_uses_only_so_many_and_the_seed_chooses_them():
    _, x = three_clusters()
    a, b, c = (GaussianMixture.fit(x, 3, fit_samples=100, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.means, b.means)
    assert not torch.equal(a.means.sort(0).values, c.means.sort(0).values)


def test_a_fit_starts_from_rows_at_random_when_asked_to():
    """Five clusters far apart: k-means finds each, and five random rows seldom are of five clusters."""
    rng = np.random.default_rng(0)
    x = np.concatenate([10 * k + rng.normal(size=(100, 1)) for k in range(5)])

    def found(start, seed):
        fitted = GaussianMixture.fit(x, 5, init_params=start, seed=seed)
        return bool((fitted.covariances < 2).all())

    assert all(found("kmeans", seed) for seed in range(5))
    assert not all(found("random_from_data", seed) for seed in range(5))


def test_smallest_and_mean_variance_are_eigenvalues(random_mixture):
    for kind in TYPES:
        mixture = random_mixture(kind, 4, 3)
        d, c = 3, mixture.covariances
        full = {
            "spherical": c.reshape(-1, 1, 1) * torch.eye(d),
            "diag": torch.diag_embed(c) if c.ndim == 2 else c,
        }
        per_component = full.get(kind, c.expand(4, d, d) if kind == "tied" else c)
        e = torch.linalg.eigvalsh(per_component)
        assert mixture.min_variance == pytest.approx(float(e.min()), rel=1e-10)
        assert mixture.mean_variance == pytest.approx(float((mixture.weights * e.mean(1)).sum()), rel=1e-10)


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "kind", "sentence"),
    [
        (2, (3, 2), (3,), "spherical", r"weights \(K,\).*\(2,\), \(3, 2\) and \(3,\)"),
        (3, (3, 2), (3, 2), "spherical", r"spherical covariances \(3,\)"),
        (3, (3, 2), (3, 3), "tied", r"tied covariances \(2, 2\)"),
        (3, (3, 2), (3, 2), "full", r"full covariances \(3, 2, 2\)"),
        (3, (3, 2), (3,), "round", "spherical, tied, diag, full, found 'round'"),
    ],
)
def test_shapes_that_do_not_fit_are_named(weights, means, covariances, kind, sentence):
    with pytest.raises(InputError, match=sentence):
        GaussianMixture(torch.ones(weights), torch.zeros(means), torch.ones(covariances), kind)


@pytest.mark.parametrize(
    ("weights", "means", "covariances", "kind"),
    [
        ([1.0, 1.0], 0.0, torch.tensor([[1.0, 2.0], [2.0, 1.0]]), "tied"),
        ([1.0, 1.0], 0.0, torch.tensor([1.0, 0.0]), "spherical"),
        ([1.0, 1.0], 0.0, torch.tensor([1.0, float("nan")]), "spherical"),
        ([1.0, -0.5], 0.0, torch.ones(2), "spherical"),
        ([1.0, 1.0], float("inf"), torch.ones(2), "spherical"),
        ([1.0, 1.0], 0.0, torch.eye(2).expand(2, 2, 2) * torch.tensor([1.0, -1.0])[:, None, None], "full"),
    ],
)
def test_parameters_that_are_no_mixture_are_refused(weights, means, covariances, kind):
    with pytest.raises(InputError, match="positive definite"):
        GaussianMixture(torch.tensor(weights), torch.full((2, 2), means), covariances, kind)


def test_more_components_than_rows_are_refused():
    with pytest.raises(InputError, match=r"at most the 5 rows.*found 6"):
        GaussianMixture.fit(np.zeros((100, 2)), 6, fit_samples=5)
