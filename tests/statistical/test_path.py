"""The path control variate: its mean is zero whatever the drift, and within one mode the loss is DSM's."""

import math

import numpy as np
import pytest
import torch

import ndsm
from ndsm.config import build_config
from ndsm.core.rng import numpy_stream, torch_stream
from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.objectives import Path
from ndsm.processes import Langevin, geometric_grid, uniform_grid
from ndsm.simulation import RolloutSpec, RowLayout, rollout

pytestmark = pytest.mark.statistical

ROTATION = torch.linalg.qr(torch.randn(2, 2, generator=torch_stream(4, "axes"), dtype=torch.float64))[0]


def overlapping(covariance_type):
    """Two modes, 1.5 apart, of variances 0.1 to 0.5: no path stays in one of them."""
    means = torch.tensor([[-0.7, 0.0], [0.7, 0.5]])
    wide, thin = (
        ROTATION @ torch.diag(torch.tensor(v).double()) @ ROTATION.T for v in ([0.5, 0.1], [0.2, 0.3])
    )
    covariances = {
        "spherical": torch.tensor([0.3, 0.2]),
        "diag": torch.tensor([[0.5, 0.1], [0.2, 0.3]]),
        "tied": wide,
        "full": torch.stack([wide, thin]),
    }
    return GaussianMixture(torch.tensor([0.4, 0.6]), means, covariances[covariance_type], covariance_type)


class DoubleWell:
    """Drift of V = Σ (y² - 1)²/4·2 in each coordinate, with a sampler nobody here uses."""

    def sample(self, n, generator):
        return torch.randn(n, 2, generator=generator)

    def drift(self, y, t):
        return 2 * y * (y * y - 1)


def simulate(process, integrator, last_dt, paths=40_000, seed=11, times=None, x=None):
    layout = RowLayout(Path.records, 2)
    times = uniform_grid(0.4, 10) if times is None else times
    x = numpy_stream(3, "square").uniform(-1, 1, size=(5000, 2)) if x is None else x
    spec = RolloutSpec(process, times, last_dt, 1, paths, layout, seed, integrator=integrator)
    return layout.split(torch.from_numpy(rollout(spec, x.astype(np.float32), 0)).double())


def fixed_network(d=2):
    generator = torch_stream(2, "network")
    a = torch.randn(d + 1, 16, generator=generator, dtype=torch.float64)
    b = torch.randn(16, d, generator=generator, dtype=torch.float64)
    return lambda y, t: torch.tanh(torch.cat([y, t[:, None]], 1) @ a) @ b / 2


@pytest.mark.parametrize(("integrator", "last_dt"), [("euler-maruyama", 2e-2), ("exponential", None)])
@pytest.mark.parametrize("covariance_type", ["spherical", "diag", "tied", "full"])
def test_the_control_variate_has_mean_zero(covariance_type, integrator, last_dt, mean_within):
    """Gaussian integration by parts: E[s·G - uᵀ Ds D u] = 0, with an own last step and with the grid's."""
    process = Langevin(overlapping(covariance_type), horizon=1.0)
    rows = simulate(process, integrator, last_dt, 80_000, times=uniform_grid(1.0, 10))
    score = fixed_network()
    mean_within(Path()(score, rows).control_variate, 0.0)
    # With the tangent of paths that never left their mode it is not: the check above can fail.
    straight = {**rows, "tangent": rows["probe"], "mirror_tangent": rows["probe"]}
    bare = Path()(score, straight).control_variate
    assert abs(float(bare.mean())) > 4 * float(bare.std()) / math.sqrt(len(bare))


@pytest.mark.parametrize("covariance_type", ["spherical", "diag", "tied", "full"])
def test_differences_along_probes_have_the_mean_of_derivatives(covariance_type, mean_within):
    """For a quadratic s the one-sided difference's error is ½ δ uᵀ D²s[w, w] exactly. It is odd in u, so that for probes of a
    symmetric law W by differences and W by derivatives have one mean, 0: within 4 standard errors of their difference and of
    W itself."""
    process = Langevin(overlapping(covariance_type), horizon=1.0)
    rows = simulate(process, "exponential", 2e-2, 40_000, times=uniform_grid(1.0, 10))
    form = torch.randn(2, 2, 2, generator=torch_stream(8, "quadratic"), dtype=torch.float64)

    def score(y, t):
        return torch.einsum("aij,bi,bj->ba", form, y, y)

    found = Path()(score, rows).control_variate
    mean_within(found - _by_derivatives(score, rows), 0.0)
    mean_within(found, 0.0)


def _by_derivatives(score, rows):
    """W of each row, averaged over the path and its mirror, with the directional derivative itself."""
    w = torch.zeros_like(rows["t"])
    for sign, y, tangent in ((1, "state", "tangent"), (-1, "mirror", "mirror_tangent")):
        s, along = torch.func.jvp(lambda y: score(y, rows["t"]), (rows[y],), (rows[tangent],))
        w += 0.5 * (sign * (s * rows["path_weight"]).sum(1) - (rows["probe"] * along).sum(1))
    return w


@pytest.mark.parametrize("given", [True, False])
def test_the_control_variate_has_mean_zero_for_a_drift_of_ones_own(given, mean_within):
    well = DoubleWell()
    product = (lambda y, v, t: (6 * y * y - 2) * v) if given else None
    process = Langevin(drift=well.drift, prior=well, jacobian_product=product, horizon=0.4)
    rows = simulate(process, "euler-maruyama", None)
    mean_within(Path()(fixed_network(), rows).control_variate, 0.0)


@pytest.mark.parametrize("covariance_type", ["spherical", "full"])
def test_in_one_mode_the_loss_is_that_of_denoising_score_matching(covariance_type):
    """K = 1, exponential steps: V_n G_n = Y_n - E[Y_n | Y_0] and V_n is the Ornstein-Uhlenbeck kernel's variance."""
    mean = torch.tensor([[0.3, -0.2]])
    covariance = (
        torch.tensor([0.4]) if covariance_type == "spherical" else overlapping("full").covariances[:1]
    )
    mixture = GaussianMixture(torch.ones(1), mean, covariance, covariance_type)
    start = torch.tensor([1.0, 0.5])
    times = geometric_grid(0.8, 7, 0.01)
    rows = simulate(
        Langevin(mixture, horizon=0.8), "exponential", None, 500, times=times, x=start[None].numpy()
    )
    cov = covariance[0].double()
    cov = cov * torch.eye(2, dtype=torch.float64) if cov.ndim == 0 else cov
    values, axes = torch.linalg.eigh(cov)
    decay = axes @ (torch.exp(-rows["t"][:, None, None] / values) * torch.eye(2)) @ axes.T
    variance = axes @ (-values * torch.expm1(-2 * rows["t"][:, None, None] / values) * torch.eye(2)) @ axes.T
    expected = mean.double() + (decay @ (start.double() - mean[0])[:, None])[..., 0]
    target = -torch.linalg.solve(variance, rows["state"] - expected)
    torch.testing.assert_close(rows["path_weight"], -target, rtol=2e-3, atol=2e-4)
    torch.testing.assert_close(rows["tangent"], rows["probe"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(rows["mirror"] - expected, expected - rows["state"], rtol=1e-4, atol=1e-4)
    score = fixed_network()
    dsm = torch.zeros(500, dtype=torch.float64)
    for y, goal in ((rows["state"], target), (rows["mirror"], -target)):
        dsm += 0.25 * ((score(y, rows["t"]) - goal) ** 2).sum(1) - 0.25 * (goal**2).sum(1)
    found = Path().combined(score, rows, torch.ones(500, dtype=torch.float64))
    torch.testing.assert_close(found, dsm, rtol=2e-3, atol=2e-3)


def test_without_control_variate_it_is_implicit_score_matching():
    """ε = 0: ½|s|² + uᵀ Ds u, by an exact Jacobian product; the difference costs 1 % of the curvature."""
    rows = simulate(Langevin(overlapping("spherical"), horizon=0.4), "exponential", None, 2000)
    score = fixed_network()
    exact = torch.zeros(2000, dtype=torch.float64)
    for y in (rows["state"], rows["mirror"]):
        products = torch.func.jvp(lambda y: score(y, rows["t"]), (y,), (rows["probe"],))[1]
        exact += 0.25 * score(y, rows["t"]).pow(2).sum(1) + 0.5 * (rows["probe"] * products).sum(1)
    found = Path().combined(score, rows, torch.zeros(len(exact), dtype=torch.float64))
    assert float((found - exact).abs().max()) < 0.02 * float(exact.std())


def test_the_combined_loss_is_the_base_and_the_control_variate():
    rows = simulate(Langevin(overlapping("full"), horizon=0.4), "exponential", 1e-2, 2000)
    score, epsilon = (
        fixed_network(),
        0.3 + 0.5 * torch.rand(2000, generator=torch_stream(5, "epsilon")).double(),
    )
    parts = Path()(score, rows)
    together = Path(thinning=0.0).combined(score, rows, epsilon)
    expected = parts.base + epsilon * parts.control_variate
    assert float((together - expected).abs().max()) < 0.02 * float(expected.std())


def test_thinned_residual_terms_have_the_mean_of_all(mean_within):
    """E[1{chance < p}/p · r] = E[r], p decided without looking at r's sign; and fewer than half are evaluated."""
    rows = simulate(Langevin(overlapping("spherical"), horizon=0.4), "exponential", 1e-2, 40_000)
    score, one = fixed_network(), torch.ones(len(rows["t"]), dtype=torch.float64)
    thinned, every = (Path(thinning=c).combined(score, rows, one) for c in (0.5, 0.0))
    mean_within(thinned - every, 0.0)
    rest, u = rows["probe"] - rows["tangent"], rows["probe"]
    assert float(Path(thinning=0.5).residual_probability(rest, u).mean()) < 0.5
    # Without the weights 1/p it is another loss: the check above can fail.
    half = Path(thinning=0.5)
    half.residual_probability = lambda rest, u: (rest.norm(dim=1) / u.norm(dim=1) > 0.25).to(rest)
    with pytest.raises(AssertionError):
        mean_within(half.combined(score, rows, one) - every, 0.0)


@pytest.mark.parametrize("integrator", ["euler-maruyama", "exponential"])
def test_probes_have_mean_zero_and_the_identity_as_second_moment(integrator):
    for covariance_type in ("spherical", "full"):
        rows = simulate(Langevin(overlapping(covariance_type), horizon=0.4), integrator, None)
        products = rows["probe"][:, :, None] * rows["probe"][:, None, :]
        error = products.std(0) / math.sqrt(len(products)) + 1e-6
        assert ((products.mean(0) - torch.eye(2)).abs() <= 4 * error).all()
        assert (rows["probe"].mean(0).abs() <= 4 / math.sqrt(len(products))).all()


def test_a_wrong_jacobian_product_is_refused():
    well = DoubleWell()

    def process(product):
        return Langevin(drift=well.drift, prior=well, jacobian_product=product)

    process(lambda y, v, t: (6 * y * y - 2) * v).check_jacobian_product()
    with pytest.raises(InputError, match="by a finite difference of the drift at y = "):
        process(lambda y, v, t: (6 * y * y - 1.8) * v).check_jacobian_product()
    with pytest.raises(InputError, match=r"expected shape \(8, 2\), found \(8,\)"):
        process(lambda y, v, t: v[:, 0]).check_jacobian_product()


def test_a_drift_without_a_mixture_trains_with_the_path_objective_but_not_by_exponential_steps():
    well = DoubleWell()
    process = Langevin(drift=well.drift, prior=well, horizon=0.5)
    x = numpy_stream(0, "x").normal(size=(200, 2))
    settings = {"process": process, "objective": "path", "max_steps": 5, "random_state": 0}
    tree = {"train": {"block_mb": 0.1}, "process": {"grid": {"steps": 100}}, "sample": {"steps": 100}}
    model = ndsm.NDSM(config=build_config(tree, "test"), **settings).fit(x)
    assert np.isfinite(model.history_[-1]["loss"])
    tree["process"]["integrator"] = "exponential"
    with pytest.raises(InputError, match="expected a process with a mixture, found a drift without one"):
        ndsm.NDSM(config=build_config(tree, "test"), **settings).fit(x)
