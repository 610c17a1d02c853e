"""The model of `benchmarks/scaling.py`: what it says where the answer is known."""

import importlib.util
import sys
from pathlib import Path

import pytest

PATH = Path(__file__).parents[3] / "benchmarks" / "scaling.py"
spec = importlib.util.spec_from_file_location("scaling", PATH)
scaling = importlib.util.module_from_spec(spec)
# Dataclasses look their module up there.
sys.modules["scaling"] = scaling
spec.loader.exec_module(scaling)


def costs(block=1.0, call=0.0, copy=0.0):
    return scaling.Measured("made up", block, 4 << 20, call, copy, 0.1, 10.0, 1 << 20)


@pytest.mark.parametrize(("simulators", "trainers"), [(1, 1), (2, 1), (3, 1), (2, 2), (4, 2), (6, 3)])
def test_too_few_simulators_set_the_pace(simulators, trainers):
    """N simulators make N/(b + c) blocks a second, M trainers want M/u: those wait 1 - N u/(M (b + c)) of the time."""
    use = 0.1
    expected = 1 - simulators * use / (trainers * 1.25)
    assert scaling.stall(costs(call=0.25), simulators, trainers, use) == pytest.approx(expected, abs=0.01)


def test_one_simulator_for_two_trainers_makes_each_half_as_many():
    assert scaling.stall(costs(), 1, 2, 0.5) == pytest.approx(1 - 0.5 / 2, abs=0.01)


def test_simulators_that_are_faster_than_their_trainers_keep_them_busy():
    assert scaling.stall(costs(), 3, 1, 0.4) == 0
    assert scaling.stall(costs(), 16, 4, 0.4) == 0


def test_the_trainer_with_the_fewest_simulators_decides():
    """Three for two trainers are worth what two are."""
    assert scaling.stall(costs(), 3, 2, 0.5) == pytest.approx(scaling.stall(costs(), 2, 2, 0.5), abs=0.01)


def test_a_copy_that_takes_longer_than_the_steps_is_no_wait_for_blocks():
    assert scaling.stall(costs(copy=2.0), 4, 1, 0.5) == pytest.approx(0, abs=0.01)


@pytest.mark.parametrize("trainers", [1, 2, 5])
@pytest.mark.parametrize("use", [3.0, 0.45, 0.09])
def test_enough_is_the_fewest_that_are(trainers, use):
    """From the first number that can be enough on, one by one: up to 100 its steps are single ones."""
    made = costs(call=0.1)
    found = scaling.enough(made, trainers, use)
    assert scaling.stall(made, found, trainers, use) <= 0.02
    fewer = [n for n in range(1, found) if scaling.stall(made, n, trainers, use) <= 0.02]
    assert fewer == []


def test_the_rates_of_a_run_leave_its_first_lines_out():
    lines = [
        {"seconds": s, "step": step, "blocks_received": blocks, "stall_fraction": waits}
        for s, step, blocks, waits in ((1, 50, 9, 0.9), (2, 60, 10, 0.9), (3, 70, 11, 0.9), (5, 90, 15, 0.5), (6, 100, 20, 0.2))
    ]  # fmt: skip
    found = scaling.rates(lines)
    assert (found.steps, found.blocks, found.stall) == (10, 3, pytest.approx((2 * 0.5 + 0.2) / 3))


def test_cores_bound_what_simulators_gain():
    """Blocks of 1 s used in 0.25 s: a second simulator on two cores gains what the first and the trainer leave."""
    assert scaling.block_rate(1.0, 0.25, 1, 2) == 1
    assert scaling.block_rate(1.0, 0.25, 2, 2) == 1.6
    assert scaling.block_rate(1.0, 0.25, 8, 8) == 4
