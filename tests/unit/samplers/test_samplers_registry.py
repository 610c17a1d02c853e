"""The reverse SDE: with the exact score it returns the data's law."""

import math

import numpy as np
import pytest
import torch

from ndsm.config import Sample
from ndsm.core.rng import torch_stream
from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.processes import VE, VP, Langevin, reverse_grid
from ndsm.samplers import (
    SAMPLERS,
    chunk_sizes,
    configured_sampler,
    find_sampler,
    generate,
    integrate,
    reverse_times,
    sample_prior,
)
from ndsm.samplers.loop import CHUNK
from ndsm.samplers.reverse_sde import MOVES

V, MU, M0, V0 = 0.8, 0.5, -0.7, 0.15


def ornstein_uhlenbeck(horizon=3.0):
    """K = 1 in two dimensions: noising N(m0, v0) leaves it normal at all times."""
    mixture = GaussianMixture(torch.ones(1), torch.full((1, 2), MU), torch.tensor([V]))
    return Langevin(mixture, horizon=horizon)


def noised(t):
    """Mean and variance at time t of data N(M0, V0)."""
    a = np.exp(-t / V)
    return MU + (M0 - MU) * a, V0 * a**2 + V * (1 - a**2)


def exact_score(y, t):
    mean, variance = (torch.as_tensor(x, dtype=y.dtype) for x in noised(t.double().numpy()))
    return (mean[:, None] - y) / variance[:, None]


def chain_moments(times):
    """Mean and variance of the sampler's own output: it is linear, so both are recursions."""
    mean, variance = MU, V
    for t, h in zip(times[:-1], times[:-1] - times[1:], strict=True):
        m_t, v_t = noised(t)
        # x ← x + ((x - μ)/v - 2(x - m_t)/v_t) h, and noise of variance 2h but in the last step.
        gain = 1 + h / V - 2 * h / v_t
        mean = gain * mean + h * (-MU / V + 2 * m_t / v_t)
        variance = gain**2 * variance + (2 * h if t != times[-2] else 0.0)
    return mean, variance


def test_reverse_process_with_exact_score_returns_the_data_law(mean_within):
    """Moments within 4 SE of the data's, allowing the bias that the linear chain has by its exact recursion."""
    process = ornstein_uhlenbeck()
    times = reverse_grid(process, 300, 1e-3)
    mean, variance = chain_moments(times)
    # The discretisation: below 3 % of the data's standard deviation and 5 % of its variance.
    assert abs(mean - M0) < 0.03 * math.sqrt(V0)
    assert abs(variance - V0) < 0.05 * V0
    x = torch.cat(list(generate(process, exact_score, times, 4096, seed=0))).double()
    mean_within(x, mean)
    mean_within((x - mean) ** 2, variance)
    mean_within((x[:, 0] - mean) * (x[:, 1] - mean), 0.0)
    mean_within(x, M0, abs(mean - M0))
    mean_within((x - M0) ** 2, V0, abs(variance - V0) + (mean - M0) ** 2)


def exponential_moments(times):
    """As `chain_moments`, for the exponential sampler."""
    mean, variance = MU, V
    for t, h in zip(times[:-1], times[:-1] - times[1:], strict=True):
        (m_t, v_t), q, growth = noised(t), V * -np.expm1(-2 * h / V), np.exp(h / V)
        mean = MU + growth * ((mean - MU) + q * (m_t - mean) / v_t)
        variance = (growth * (1 - q / v_t)) ** 2 * variance + (q if t != times[-2] else 0.0)
    return mean, variance


def test_exponential_steps_need_fewer_and_keep_the_mean_exactly(mean_within):
    """40 steps: the mean of the data at once, the variance to 8 %; and the moments of that recursion within 4 SE."""
    process = ornstein_uhlenbeck()
    times = reverse_grid(process, 40, 1e-3, "exponential")
    mean, variance = exponential_moments(times)
    assert abs(mean - M0) < 1e-3
    assert abs(variance - V0) < 0.08 * V0
    x = torch.cat(list(generate(process, exact_score, times, 4096, seed=0, sampler="exponential"))).double()
    mean_within(x, mean)
    mean_within((x - mean) ** 2, variance)


@pytest.mark.parametrize("covariance_type", ["spherical", "diag", "tied", "full"])
def test_exponential_steps_keep_a_stationary_mode_for_any_step(covariance_type, random_mixture, mean_within):
    """K = 1 with its own score: the step is the exact transition of a stationary process, so the law stays."""
    mixture = random_mixture(covariance_type, 1, 3, torch.float32)
    process = Langevin(mixture, horizon=2.0)
    start = mixture.sample(20_000, torch_stream(0, "start"))
    noise = torch.randn(20_000, 3, generator=torch_stream(0, "noise"))
    x = MOVES["exponential"](process, start, mixture.score(start), 2.0, 0.7, noise).double()
    mean_within(x, mixture.means[0].numpy())
    covariance = mixture.covariances.double()
    centered = x - mixture.means[0]
    if covariance_type in ("tied", "full"):
        full = covariance if covariance_type == "tied" else covariance[0]
    else:
        full = torch.eye(3, dtype=torch.float64) * covariance[0]
    products = centered[:, :, None] * centered[:, None, :]
    mean_within(products.reshape(-1, 9), full.reshape(9).numpy())


def test_exponential_steps_need_a_mixture():
    process = Langevin(drift=lambda y, t: y, prior=ornstein_uhlenbeck().prior)
    with pytest.raises(InputError, match="expected a process with a mixture, found a drift without one"):
        list(generate(process, exact_score, np.array([0.1, 0.0]), 5, 0, sampler="exponential"))


def test_finer_grids_come_closer_to_the_data():
    """The chain's own moments converge at first order, so halving the steps about halves the error."""
    process = ornstein_uhlenbeck()
    errors = [abs(chain_moments(reverse_grid(process, n, 0.3 / n))[1] - V0) for n in (300, 600, 1200)]
    assert 1.6 < errors[0] / errors[1] < 2.5
    assert 1.6 < errors[1] / errors[2] < 2.5


def test_with_the_stationary_score_the_prior_is_kept(mean_within):
    """s = -∇V makes the reverse SDE Langevin dynamics, which keeps η* but for O(h): h/2/(1 - h/2v) of variance."""
    means, variances = torch.tensor([[-1.5, 0.0], [1.5, 0.0]]), torch.tensor([0.2, 0.4])
    mixture = GaussianMixture(torch.tensor([0.3, 0.7]), means, variances)
    process = Langevin(mixture, horizon=0.5)
    times = np.linspace(0.5, 0.0, 51)
    x = torch.cat(list(generate(process, lambda y, t: mixture.score(y), times, 8192, seed=1))).double()
    allowance = 0.01 / 2 / (1 - 0.01 / 0.4)
    w = mixture.weights.numpy()
    mean = w @ means.double().numpy()
    second = w @ (means.double().numpy() ** 2 + variances.double().numpy()[:, None])
    # The last step's missing noise takes 2h = 0.02 from each variance.
    mean_within(x, mean, allowance)
    mean_within(x**2, second - 0.02, 2 * allowance)
    mean_within(mixture.responsibilities(x.float()), w, allowance)


def test_the_last_step_adds_no_noise():
    process = ornstein_uhlenbeck()
    x = torch.randn(20, 2, generator=torch_stream(0, "last"))
    times = np.array([0.01, 0.0])
    t = torch.full((20,), 0.01)
    expected = x + 0.01 * (process.drift(x, 0.01) + 2 * exact_score(x, t))
    for index in range(2):
        moved = integrate(process, exact_score, times, x.clone(), torch_stream(0, "noise", index))
        torch.testing.assert_close(moved, expected)


def test_sampling_does_not_change_its_start():
    x = torch.ones(5, 2)
    integrate(ornstein_uhlenbeck(), exact_score, np.array([0.1, 0.05, 0.0]), x, torch_stream(0, "start"))
    assert torch.equal(x, torch.ones(5, 2))


def rows(n, seed=3):
    process = ornstein_uhlenbeck(1.0)
    return torch.cat(list(generate(process, exact_score, reverse_grid(process, 40, 1e-3), n, seed)))


def test_the_same_seed_gives_the_same_rows_and_another_gives_others():
    assert torch.equal(rows(100), rows(100))
    assert not torch.isclose(rows(100), rows(100, seed=4)).any(1).all()


def test_whole_chunks_do_not_depend_on_how_many_follow():
    torch.testing.assert_close(rows(2 * CHUNK)[:CHUNK], rows(CHUNK))
    torch.testing.assert_close(rows(2 * CHUNK + 1)[:CHUNK], rows(CHUNK))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_first_rows_do_not_depend_on_how_many_are_asked_for(sampler):
    """For every sampler; the rows that share the steps of an adaptive solver are the same, and so are their numbers."""
    linear = {
        "annealed": VE(1.0, 0.05, 5.0),
        **dict.fromkeys(("reverse-diffusion", "ddim", "dpmpp-2m"), VP(1.0)),
    }
    process = linear[sampler].for_dimension(2) if sampler in linear else ornstein_uhlenbeck(1.0)

    def score(y, t):
        return process.stationary_score(y) - torch.sin(2 * y)

    times = reverse_times(process, sampler, 40, 1e-2)

    def first(n):
        return torch.cat(list(generate(process, score, times, n, 3, sampler=sampler)))

    many, error = first(5000), 1e-6 if sampler == "ode-adaptive" else 1e-4
    for n in (1, 7, 300, 4097):
        torch.testing.assert_close(first(n), many[:n], rtol=error, atol=error)


def test_chunks_add_up():
    for n in (1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5):
        sizes = chunk_sizes(n)
        assert sum(sizes) == n
        assert set(sizes[:-1]) <= {CHUNK}
        assert 0 < sizes[-1] <= CHUNK


def test_prior_rows_come_from_the_prior(mean_within):
    x = sample_prior(ornstein_uhlenbeck(), 5000, seed=2).double()
    mean_within(x, MU)
    mean_within((x - MU) ** 2, V)
    assert torch.equal(sample_prior(ornstein_uhlenbeck(), 10, 2), sample_prior(ornstein_uhlenbeck(), 10, 2))


def test_noise_belongs_to_samplers_that_have_it():
    assert find_sampler("flow", 0.5).noise == 0.5
    assert find_sampler("ancestral").noise == 1.0
    assert find_sampler("ancestral", 0.0).noise == 0.0
    with pytest.raises(
        InputError, match=r"sample\.noise: expected one of the samplers ancestral, flow, .* found 'em'"
    ):
        find_sampler("em", 0.5)


def test_a_configuration_says_how_wrong_a_slope_is():
    assert configured_sampler(Sample(sampler="flow2")).slope_error == 0.02
    assert configured_sampler(Sample(sampler="flow2", slope_error=0.0)).slope_error == 0.0
    with pytest.raises(InputError, match=r"sample\.slope_error: expected one of the samplers .* found 'em'"):
        configured_sampler(Sample(sampler="em", slope_error=0.0))


def test_a_configuration_spaces_the_times_of_a_few_step_sampler():
    mixture = GaussianMixture(torch.tensor([1.0]), torch.zeros(1, 2), torch.tensor([0.25]))
    process = Langevin(mixture, horizon=2.0)

    def times(**fields):
        chosen = configured_sampler(Sample(sampler="flow", **fields))
        return reverse_times(process, chosen, 5, 1e-3)

    usual = times()
    assert usual[0] == pytest.approx(-0.25 * math.log(0.03))
    assert usual[-2:] == pytest.approx([1e-3, 0.0])
    changed = times(power=1.0, signal=0.5, end=0.1)
    np.testing.assert_allclose(changed, [*np.linspace(-0.25 * math.log(0.5), 0.1, 5), 0.0])
    assert times(signal=0.0)[0] == 2.0
    with pytest.raises(
        InputError, match=r"^sample\.power, signal or end: expected one of the samplers .*flow.*found 'em'$"
    ):
        configured_sampler(Sample(sampler="em", power=2.0))


def test_a_linear_process_begins_where_the_asked_signal_is_left():
    process = VP()
    times = reverse_times(process, configured_sampler(Sample(sampler="ddim", signal=0.1)), 5, 1e-3)
    assert float(process.log_alpha(torch.tensor([times[0]])).exp()) == pytest.approx(0.1, rel=0.01)
