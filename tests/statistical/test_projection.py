"""The dissertation's projection method, where the law of what it gives is known."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from ndsm.errors import InputError
from ndsm.inference.guidance import Operator, mask
from ndsm.inference.projection import ProjectedSampler, noised_measurements
from ndsm.mixture import GaussianMixture
from ndsm.processes import VP, Langevin
from ndsm.samplers import integrate, reverse_times

pytestmark = pytest.mark.statistical

MEAN = torch.tensor([0.5, -1.0, 0.2], dtype=torch.float64)
AXES = torch.linalg.qr(torch.tensor([[1.0, 2.0, 0.5], [0.3, -1.0, 1.0], [2.0, 0.4, 0.1]]).double())[0]
VARIANCES = torch.tensor([0.5, 1.2, 0.9], dtype=torch.float64)
COVARIANCE = (AXES * VARIANCES) @ AXES.T
ROWS = 3000


def gaussian(mean, covariance):
    return GaussianMixture(torch.ones(1), mean[None], covariance[None], "full")


def moments_at(process, t):
    """α and σ² of a linear process."""
    time = torch.tensor([t], dtype=torch.float64)
    return float(process.log_alpha(time).exp()), float(process.variance(time))


def linear():
    process = VP(1.0).for_dimension(3)

    def score(y, t):
        a, variance = moments_at(process, float(t[0]))
        return gaussian(MEAN * a, COVARIANCE * a**2 + variance * torch.eye(3)).score(y)

    return process, score


def langevin():
    mixture = gaussian(MEAN, COVARIANCE)
    return Langevin(mixture, horizon=2.5), lambda y, t: mixture.score(y)


def own_drift():
    mixture = gaussian(MEAN, COVARIANCE)
    process = Langevin(drift=lambda y, t: -mixture.score(y), prior=mixture, horizon=2.5)
    return process, lambda y, t: mixture.score(y)


def reconstructed(process, score, operator, y, sampler, steps, strength=1.0, exact=True):
    generator = torch.Generator().manual_seed(1)
    times = reverse_times(process, sampler, steps, 1e-3)
    measured, x = noised_measurements(process, operator, y, 0.0, times, generator)
    projected = ProjectedSampler(sampler, operator, measured, strength, exact)
    return integrate(process, score, times, x, generator, sampler=projected), times


@pytest.mark.parametrize(
    ("make", "sampler"), [(linear, "ancestral"), (langevin, "exponential"), (own_drift, "em")]
)
def test_what_is_independent_of_the_measurements_keeps_its_law(mean_within, make, sampler):
    """Gaussian data measured along one of their axes: given y the other two are as before. Mean and square within 4
    standard errors and 6 % of a standard deviation for the sampler's steps."""
    process, score = make()
    operator = Operator(2 * AXES[:, :1].T)
    x, _ = reconstructed(process, score, operator, torch.full((ROWS, 1), 1.4), sampler, 100)
    torch.testing.assert_close(operator(x), torch.full((ROWS, 1), 1.4), rtol=0, atol=1e-4)
    z = ((x.double() - MEAN) @ AXES[:, 1:]) / VARIANCES[1:].sqrt()
    mean_within(z, 0.0, 0.06)
    mean_within(z**2, 1.0, 0.12)


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_gaussian_data_measured_across_their_axes_have_the_law_of_algorithm_8_2(mean_within, strength):
    """Every step is affine with Gaussian noise: mean and covariance follow from matrices alone."""
    process, score = linear()
    operator = Operator(torch.tensor([[1.0, 0.5, -0.5]]))
    x, times = reconstructed(
        process, score, operator, torch.full((ROWS, 1), 1.2), "em", 60, strength, exact=False
    )
    a, one = operator.matrix.double(), torch.eye(3, dtype=torch.float64)
    back = torch.linalg.pinv(a)
    mean, covariance = process.prior.means[0].double(), process.prior.covariances[0].double() * one
    for t, u in pairwise(times):
        alpha, variance = moments_at(process, t)
        keep = one - strength * back @ a
        mean = keep @ mean + strength * back[:, 0] * alpha * 1.2
        covariance = keep @ covariance @ keep.T + (strength**2 * variance) * back @ (a @ a.T) @ back.T
        pull = torch.linalg.inv(COVARIANCE * alpha**2 + variance * one)
        h, g = t - u, process.diffusion(t)
        step = (1 + process.rate(t) * h) * one - g**2 * h * pull
        mean = step @ mean + g**2 * h * pull @ MEAN * alpha
        covariance = step @ covariance @ step.T + (u > 0) * g**2 * h * one
    z = (x.double() - mean) / covariance.diagonal().sqrt()
    mean_within(z, 0.0)
    mean_within(z**2, 1.0)
    mean_within(z[:, :2] * z[:, 1:], (covariance / covariance.diagonal().sqrt().outer(covariance.diagonal().sqrt())).diagonal(1).numpy())  # fmt: skip


def test_a_drift_of_ones_own_keeps_the_wells_of_what_is_not_measured(mean_within):
    """exp(-V), V = Σ (x² - 1)²: given the first coordinate, the second has its own two wells. Its moments by quadrature,
    within 4 standard errors and 0.05."""
    grid = torch.linspace(-3, 3, 6001)
    density = torch.exp(-((grid**2 - 1) ** 2))
    density = density / density.sum()

    class Wells:
        def sample(self, n, generator):
            index = torch.multinomial(density, 2 * n, replacement=True, generator=generator)
            return grid[index].reshape(n, 2)

    process = Langevin(drift=lambda y, t: 4 * y * (y**2 - 1), prior=Wells(), horizon=1.0)
    operator, y = mask(torch.tensor([True, False])), torch.full((2000, 1), -1.6)
    x, _ = reconstructed(process, lambda y, t: -4 * y * (y**2 - 1), operator, y, "em", 100)
    assert torch.equal(x[:, :1], y)
    for power in (1, 2, 4):
        mean_within(x[:, 1] ** power, float((density * grid**power).sum()), 0.05)


def test_rows_begin_and_end_in_the_mode_that_the_measurements_tell():
    mixture = GaussianMixture(
        torch.ones(2), torch.tensor([[-5.0, 0.0], [5.0, 3.0]]), torch.tensor([0.3, 0.3])
    )
    process = Langevin(mixture, horizon=1.0)
    x, _ = reconstructed(
        process, lambda y, t: mixture.score(y), mask(torch.tensor([True, False])),
        torch.full((50, 1), 4.5), "exponential", 40,
    )  # fmt: skip
    assert bool((x[:, 1] > 0.5).all())
    assert float(x[:, 1].std()) > 0.3


def test_without_strength_it_is_the_sampler_itself():
    process, score = linear()
    operator, times = Operator(torch.ones(1, 3)), reverse_times(process, "em", 20, 1e-3)
    generator = torch.Generator().manual_seed(0)
    measured, x = noised_measurements(process, operator, torch.ones(10, 1), 0.0, times, generator)
    state = generator.get_state()
    plain = integrate(process, score, times, x, generator, sampler="em")
    generator.set_state(state)
    projected = ProjectedSampler("em", operator, measured, 0.0)
    assert torch.equal(integrate(process, score, times, x, generator, sampler=projected), plain)


def test_what_cannot_be_projected_is_one_sentence():
    process, score = linear()
    operator, y = Operator(torch.ones(1, 3)), torch.ones(4, 1)
    with pytest.raises(InputError, match="whose steps do not depend on each other, found 'dpmpp-2m'"):
        ProjectedSampler("dpmpp-2m", operator, [y])
    with pytest.raises(InputError, match=r"expected a strength from 0 to 1, found 1\.5"):
        ProjectedSampler("em", operator, [y], 1.5)
    with pytest.raises(InputError, match="expected measurements at each of 3 times, found 1"):
        integrate(
            process,
            score,
            np.array([1.0, 0.5, 0.0]),
            torch.ones(4, 3),
            torch.Generator(),
            sampler=ProjectedSampler("em", operator, [y]),
        )
    with pytest.raises(InputError, match=r"expected a matrix \(2, 3\) .* found \(1, 3\)"):
        noised_measurements(process, operator, torch.ones(4, 2), 0.0, np.array([1.0, 0.0]), torch.Generator())
