"""Time grids: they end at the horizon, grow as stated and respect their caps."""

import numpy as np
import pytest
import torch

from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.processes import Langevin, forward_grid, geometric_grid, reverse_grid, uniform_grid
from ndsm.simulation.rollout import shifted_grid


def process(smallest=0.05, horizon=1.0):
    mixture = GaussianMixture(
        torch.ones(2), torch.zeros(2, 3), torch.tensor([smallest, 4 * smallest], dtype=torch.float64)
    )
    return Langevin(mixture, horizon=horizon)


@pytest.mark.parametrize("max_dt", [np.inf, 0.03])
@pytest.mark.parametrize("first", [1e-5, 1e-3])
@pytest.mark.parametrize("steps", [50, 400])
def test_geometric_steps_grow_by_one_factor_up_to_the_cap(steps, first, max_dt):
    times = geometric_grid(1.0, steps, first, max_dt)
    h = np.diff(times)
    assert (len(times), times[0]) == (steps + 1, 0.0)
    assert times[-1] == pytest.approx(1.0, abs=1e-12)
    assert h[0] == pytest.approx(first, rel=1e-9)
    assert h.max() <= max_dt * (1 + 1e-9)
    free = h[h < max_dt * (1 - 1e-6)]
    growth = free[1:] / free[:-1]
    np.testing.assert_allclose(growth, growth[0], rtol=1e-6)
    assert growth[0] > 1


def test_the_grid_is_uniform_where_equal_steps_are_already_small():
    np.testing.assert_array_equal(geometric_grid(1.0, 1000, 0.01), uniform_grid(1.0, 1000))


def test_a_geometric_grid_that_cannot_reach_the_horizon_says_how_many_steps_it_needs():
    with pytest.raises(
        InputError, match=r"10 steps of at most 0\.03 .*horizon 1; expected at least 35 steps"
    ):
        geometric_grid(1.0, 10, 1e-3, 0.03)


@pytest.mark.parametrize("steps", [3, 10])
def test_the_cap_holds_when_the_horizon_is_barely_within_reach(steps):
    max_dt = 1.2 / steps * 1.1
    try:
        times = geometric_grid(1.2, steps, 0.001, max_dt)
    except InputError:
        return
    assert np.diff(times).max() <= max_dt * (1 + 1e-9)


def test_uniform_steps_are_equal():
    np.testing.assert_allclose(np.diff(uniform_grid(0.5, 50)), 0.01, rtol=1e-12)


@pytest.mark.parametrize("shift", [1e-3, 0.1, 0.5, 0.999, 1.0])
def test_a_shifted_grid_lies_between_the_nodes(shift):
    times = geometric_grid(1.0, 60, 1e-4, 0.05)
    moved = shifted_grid(times, shift)
    assert moved[0] == 0.0
    assert (np.diff(moved) > 0).all()
    assert (moved[1:] > times[:-1]).all()
    assert (moved <= times).all()
    # Linear between the nodes: node n moves back by the fraction 1 - shift of its own step.
    np.testing.assert_allclose(times[1:] - moved[1:], (1 - shift) * np.diff(times), atol=1e-12)


def test_a_shift_by_a_whole_step_is_the_grid_itself():
    times = geometric_grid(1.0, 60, 1e-4, 0.05)
    np.testing.assert_array_equal(shifted_grid(times, 1.0), times)


@pytest.mark.parametrize(("steps", "last_dt"), [(10, None), (9, 1e-3), (100, 0.1)])
def test_an_unstable_step_is_refused_with_twice_the_smallest_variance(steps, last_dt):
    found = max(1.0 / steps, last_dt or 0)
    with pytest.raises(
        InputError, match=rf"below 0\.1 \(twice the mixture's smallest variance.*found {found:.3g}"
    ):
        forward_grid(process(0.05), "uniform", steps, last_dt)


def test_a_last_step_as_long_as_the_horizon_is_refused():
    with pytest.raises(InputError, match=r"process\.last_dt: expected less than the horizon 1, found 1"):
        forward_grid(process(0.05), "uniform", 100, 1.0)


def test_a_single_importance_step_reaches_the_horizon():
    assert forward_grid(process(5.0), "importance", 1, 1e-3).tolist() == [0.0, 1.0]


def test_the_number_of_steps_that_the_refusal_asks_for_is_enough():
    with pytest.raises(InputError, match="at least 20 steps"):
        forward_grid(process(0.05), "uniform", 10, None)
    assert len(forward_grid(process(0.05), "uniform", 20, None)) == 21


def test_a_geometric_forward_grid_begins_with_the_last_step_and_stays_accurate():
    h = np.diff(forward_grid(process(0.05), "geometric", 200, 1e-3))
    assert h[0] == pytest.approx(1e-3, rel=1e-9)
    assert h.max() <= 0.1 * 2 * 0.05 * (1 + 1e-9)


def test_a_reverse_grid_runs_from_the_horizon_to_zero_with_its_smallest_step_last():
    times = reverse_grid(process(0.05, horizon=2.0), 300, 1e-4)
    h = -np.diff(times)
    assert times[0] == pytest.approx(2.0)
    assert times[-1] == 0.0
    assert (h > 0).all()
    assert h[-1] == pytest.approx(1e-4, rel=1e-9)
    assert h.max() <= 0.1 * 2 * 0.05 * (1 + 1e-9)
