"""Posterior moments and guidance, where data are Gaussian and every law is known in closed form."""

import numpy as np
import pytest
import torch

from ndsm.errors import InputError
from ndsm.inference.guidance import (
    MomentMatched,
    Operator,
    Projected,
    average_pool,
    blur,
    mask,
    masked_fourier,
    projections,
    start_given,
)
from ndsm.inference.noised_references import draw_from_mixture
from ndsm.inference.posterior import Posterior
from ndsm.mixture import GaussianMixture
from ndsm.processes import VE, VP, Langevin
from ndsm.samplers import integrate, reverse_times

pytestmark = pytest.mark.statistical

MEAN = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
ROOT = torch.tensor([[0.9, 0.0, 0.0], [0.5, 0.6, 0.0], [-0.3, 0.2, 0.5]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.T


def gaussian(mean, covariance, dtype=torch.float32):
    return GaussianMixture(torch.ones(1), mean[None], covariance[None], "full", dtype=dtype)


def linear(dtype=torch.float32):
    """VP and the exact score of the Gaussian's noised law."""
    process = VP(1.0).for_dimension(3)

    def score(y, t):
        time = t[:1].double()
        a, variance = process.log_alpha(time).exp(), process.std(time) ** 2
        return gaussian(MEAN * a, COVARIANCE * a**2 + variance * torch.eye(3), dtype).score(y)

    return process, score


def langevin(dtype=torch.float32):
    mixture = gaussian(MEAN, COVARIANCE, dtype)
    return Langevin(mixture, horizon=2.5), lambda y, t: mixture.score(y)


@pytest.mark.parametrize("make", [linear, langevin])
def test_posterior_moments_of_gaussian_data_are_bayes_rule(make):
    """Cov = (Σ⁻¹ + Aᵀ S⁻¹ A)⁻¹ with Y_t = m_t + A Y_0 + N(0, S); mean by the same rule."""
    process, score = make(torch.float64)
    t = 0.2
    if make is linear:
        time = torch.tensor([t], dtype=torch.float64)
        a = process.log_alpha(time).exp() * torch.eye(3, dtype=torch.float64)
        noise = process.std(time) ** 2 * torch.eye(3, dtype=torch.float64)
        shift = torch.zeros(3, dtype=torch.float64)
    else:
        a = torch.linalg.matrix_exp(-t * torch.linalg.inv(COVARIANCE))
        noise = COVARIANCE - a @ COVARIANCE @ a
        shift = MEAN - a @ MEAN
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gain = COVARIANCE @ a.T @ torch.linalg.inv(a @ COVARIANCE @ a.T + noise)
    mean = MEAN + (x - shift - a @ MEAN) @ gain.T
    variance = (COVARIANCE - gain @ a @ COVARIANCE).diagonal()
    posterior = Posterior(process, score)
    torch.testing.assert_close(posterior.mean(x, t), mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(posterior.variance(x, t), variance.expand(5, 3), rtol=1e-4, atol=1e-6)
    if make is langevin:
        # The second-order score of a stationary law is -Σ⁻¹ at all times: a diagonal below its eigenvalues and the rest.
        values, axes = torch.linalg.eigh(-torch.linalg.inv(COVARIANCE))
        alpha, beta = values[0].expand(5, 3), (axes * (values - values[0]).sqrt()).expand(5, 3, 3)
        found = Posterior(process, score, lambda y, t: (alpha, beta)).variance(x, t)
        torch.testing.assert_close(found, variance.expand(5, 3), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "sampler", "moments"),
    [(linear, "em", None), (langevin, "exponential", "jacobian"), (langevin, "exponential", "modes")],
)
@pytest.mark.parametrize("noise", [0.0, 0.4])
def test_moment_matched_guidance_samples_the_posterior_of_gaussian_data(
    mean_within, make, sampler, moments, noise
):
    """Mean and square of each coordinate of the posterior of y = A x + noise, within 4 standard errors and 6 % of a
    standard deviation for the sampler's steps."""
    process, score = make()
    operator = Operator(torch.tensor([[1.0, 0.5, -0.5]]))
    y = torch.full((3000, 1), 1.2)
    a = operator.matrix.double()
    gain = COVARIANCE @ a.T / (a @ COVARIANCE @ a.T + noise**2)
    mean = MEAN + gain[:, 0] * (1.2 - a @ MEAN)
    std = (COVARIANCE - gain @ a @ COVARIANCE).diagonal().sqrt()
    guided = MomentMatched(process, score, operator, y, noise, moments)
    times = reverse_times(process, sampler, 250, 1e-3)
    generator = torch.Generator().manual_seed(1)
    x = integrate(process, guided, times, process.prior.sample(3000, generator), generator, sampler=sampler)
    z = (x.double() - mean) / std
    mean_within(z, 0.0, 0.06)
    mean_within(z**2, 1.0, 0.12)


@pytest.mark.parametrize("process", [VP(1.0), VE(1.0)])
def test_a_linear_process_s_one_gaussian_is_the_jacobian_of_standard_normal_data(process):
    """Data N(0, I): Y_t is N(0, (α² + σ²) I), of which the modes' C and ∂m/∂x are exact."""

    def score(y, t):
        return -y / process.state_std(t)[:, None] ** 2

    generator, process = torch.Generator().manual_seed(0), process.for_dimension(4)
    operator, x = projections(2, 4), torch.randn(5, 4, generator=generator)
    y, noise = torch.randn(5, 2, generator=generator), torch.tensor([0.1, 0.7])
    by_modes, by_jacobian = (
        MomentMatched(process, score, operator, y, noise, moments) for moments in ("modes", "jacobian")
    )
    for t in (0.02, 0.3, 0.8):
        at = torch.full((5,), t)
        torch.testing.assert_close(by_modes(x, at), by_jacobian(x, at), rtol=1e-3, atol=1e-4)


def test_projection_meets_the_measurements():
    process, score = linear()
    operator = projections(2, 3)
    y = torch.tensor([[0.3, -0.4]]).expand(50, 2)
    guided = Projected(process, score, operator, y)
    generator = torch.Generator().manual_seed(1)
    times = reverse_times(process, "ddim", 40, 1e-3)
    x = integrate(process, guided, times, process.prior.sample(50, generator), generator, sampler="ddim")
    torch.testing.assert_close(operator(x), y, rtol=0, atol=1e-3)
    torch.testing.assert_close(
        Projected(process, score, operator, y, 0.0)(x, torch.full((50,), 0.3)),
        score(x, torch.full((50,), 0.3)),
    )


def test_operators_are_what_they_are_named_for():
    images = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    squares = images.reshape(2, 8, 8)
    pooled = squares.reshape(2, 4, 2, 4, 2).mean((2, 4)).flatten(1)
    torch.testing.assert_close(average_pool(8, 2)(images), pooled)
    kept = torch.arange(64) % 3 == 0
    assert torch.equal(mask(kept)(images), images[:, kept])
    whole = masked_fourier(8, torch.ones(8, 8, dtype=torch.bool))
    torch.testing.assert_close(whole(images).norm(dim=1), images.norm(dim=1))
    torch.testing.assert_close(whole.pseudo_inverse(whole(images)), images, rtol=1e-3, atol=1e-4)
    point = torch.zeros(1, 81)
    point[0, 40] = 1.0
    spread = blur(9, 1.0)(point).reshape(9, 9)
    assert float(spread.sum()) == pytest.approx(1.0, abs=1e-3)
    assert float(spread[4, 5] / spread[4, 4]) == pytest.approx(np.exp(-0.5), rel=1e-4)
    p = projections(5, 12)
    torch.testing.assert_close(p(p.transposed(torch.eye(5))), torch.eye(5))


def test_an_operator_of_another_shape_is_one_sentence():
    process, score = linear()
    with pytest.raises(
        InputError, match=r"expected a matrix \(2, 3\) for measurements \(4, 2\) .* found \(1, 3\)"
    ):
        MomentMatched(process, score, Operator(torch.ones(1, 3)), torch.ones(4, 2))
    # Found before anything is generated, or, where nothing tells the rows' dimension, at the first rows.
    wide, y = Operator(torch.ones(1, 4)), torch.ones(4, 1)
    makers = (
        lambda: Projected(process, score, wide, y),
        lambda: MomentMatched(process, score, wide, y, 0.1),
        lambda: start_given(process, wide, y, 0.1, torch.Generator()),
        lambda: draw_from_mixture(process.mixture, wide, y, 0.1, torch.Generator()),
        lambda: Projected(VP(1.0), score, wide, y)(torch.ones(4, 3), torch.ones(4)),
    )
    for make in makers:
        with pytest.raises(InputError, match=r"expected a matrix \(1, 3\) .* found \(1, 4\)"):
            make()


def test_other_bad_input_of_guidance_is_one_sentence():
    process, score = linear()
    operator, y = Operator(torch.ones(1, 3)), torch.ones(4, 1)
    for guided in (MomentMatched(process, score, operator, y), Projected(process, score, operator, y)):
        with pytest.raises(
            InputError, match="expected one row for each of the 5 that are generated, found 4"
        ):
            guided(torch.ones(5, 3), torch.ones(5))
    with pytest.raises(InputError, match=r"noise: expected a standard deviation of 0 or more, found -0\.1"):
        MomentMatched(process, score, operator, y, -0.1)
    modes = GaussianMixture(torch.ones(2), torch.zeros(2, 3), torch.ones(2))
    for noise in (torch.tensor([-0.2]), float("nan")):
        with pytest.raises(InputError, match="noise: expected a standard deviation of 0 or more, found"):
            draw_from_mixture(modes, operator, y, noise, torch.Generator())


def test_a_mixture_given_measurements_follows_bayes_rule(random_mixture, mean_within):
    """E[h(x) | y] by weighting draws of the mixture with the likelihood of y."""
    mixture = random_mixture("full", 3, 2)
    operator, noise = Operator(torch.tensor([[1.0, -0.5]])), 0.5
    generator = torch.Generator().manual_seed(0)
    drawn = draw_from_mixture(
        mixture, operator, torch.full((5000, 1), 0.7, dtype=torch.float64), noise, generator
    )
    x = mixture.sample(1_000_000, generator)
    weight = torch.softmax(-0.5 * ((operator(x)[:, 0] - 0.7) / noise) ** 2, 0)
    for h in (lambda v: v, lambda v: v**2, lambda v: (v > 0).double()):
        mean_within(h(drawn), (weight[:, None] * h(x)).sum(0).numpy(), 0.01)


def test_measurements_without_noise_are_met_even_if_they_repeat_each_other():
    mixture = GaussianMixture(
        torch.ones(2), torch.tensor([[-1.0, 0.0], [1.0, 1.0]]), torch.tensor([0.2, 0.2])
    )
    operator, y = Operator(torch.tensor([[1.0, 0.5], [2.0, 1.0]])), torch.tensor([[0.7, 1.4]]).expand(50, 2)
    drawn = draw_from_mixture(mixture, operator, y.double(), 0.0, torch.Generator().manual_seed(0))
    torch.testing.assert_close(operator(drawn), y.double(), rtol=0, atol=1e-3)
    assert float(drawn.std(0).min()) > 0.1


def test_generation_starts_in_the_mode_that_the_measurements_tell():
    mixture = GaussianMixture(
        torch.ones(2), torch.tensor([[-5.0, 0.0], [5.0, 0.0]]), torch.tensor([0.3, 0.3])
    )
    operator = Operator(torch.tensor([[1.0, 0.0]]))
    start = start_given(
        Langevin(mixture, horizon=1.0),
        operator,
        torch.full((50, 1), 4.5),
        0.1,
        torch.Generator().manual_seed(0),
    )
    assert bool((start[:, 0] > 2).all())
    assert float(start.std(0)[0]) > 0.3
