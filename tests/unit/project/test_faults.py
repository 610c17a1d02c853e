"""The schedule of `benchmarks/faults.py`, and what it reads out of a run's lines."""

import importlib.util
import sys
from itertools import pairwise
from pathlib import Path

import pytest

PATH = Path(__file__).parents[3] / "benchmarks" / "faults.py"
spec = importlib.util.spec_from_file_location("faults", PATH)
faults = importlib.util.module_from_spec(spec)
# Dataclasses look their module up there.
sys.modules["faults"] = faults
spec.loader.exec_module(faults)


def test_a_seed_repeats_its_faults():
    first, again, other = (faults.schedule(seed, 1.0, 20.0) for seed in (3, 3, 4))
    assert first == again != other
    assert {fault.kind for fault in first} <= set(faults.KINDS)
    assert all(0 < a.at < b.at < 1200 for a, b in pairwise(first))


@pytest.mark.statistical
def test_faults_come_at_their_rate_and_all_kinds_alike():
    """A Poisson process of rate r has a mean and a variance of r T events in a time T; kinds are uniform."""
    found = faults.schedule(0, 2.0, 2000.0)
    expected = 4000.0
    assert abs(len(found) - expected) < 4 * expected**0.5
    share = len(found) / len(faults.KINDS)
    for kind in faults.KINDS:
        assert abs(sum(fault.kind == kind for fault in found) - share) < 4 * share**0.5


def test_recovery_is_the_first_report_of_workers_that_came_after():
    """Lines of workers that had not noticed yet do not count."""
    lines = [{"time": 100.0 + t, "restarts": int(t >= 9)} for t in (0, 2, 4, 6, 9, 11)]
    trainer, simulator, late = (
        faults.Fault(kind, at, True) for kind, at in (("trainer", 3.0), ("simulator", 3.0), ("driver", 10.0))
    )
    faults.recoveries([trainer, simulator, late], 100.0, lines)
    assert (trainer.recovery, simulator.recovery, late.recovery) == (6.0, 1.0, None)
