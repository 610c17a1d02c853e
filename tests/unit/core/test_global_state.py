"""A process finds what it shares with the package as it was: random numbers, threads, warnings, environment."""

import os
import warnings

import numpy as np
import pytest
import torch
from quick_estimator import quick_estimator

from ndsm.cli import main
from ndsm.core.global_state import environment, seeded, threads
from ndsm.core.progress import say
from tuning.search import TUNE_ENVIRONMENT


@pytest.fixture(name="shared")
def _shared(monkeypatch):
    """What the process shares, as a function; the GPUs' generators count how often they are seeded."""
    # What packages add of their own when they are imported is not the caller's.
    seedings, known = [], {*os.environ, *TUNE_ENVIRONMENT, "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"}
    known -= {"PYTEST_CURRENT_TEST"}
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seedings.append)

    def state():
        return {
            "torch": torch.get_rng_state().tolist(),
            "numpy": str(np.random.get_state()),
            "cuda": len(seedings),
            "threads": torch.get_num_threads(),
            # A package that is imported meanwhile may show more of its own, as sympy does, and never less.
            "ignored warnings": [f for f in warnings.filters if f[0] == "ignore"],
            "showwarning": warnings.showwarning,
            "environment": {k: os.environ.get(k) for k in known},
        }

    return state


@pytest.fixture(name="odd_threads", autouse=True)
def _odd_threads():
    """A number of threads that nothing here chooses by itself."""
    with threads(3):
        yield


def test_estimators_leave_the_process_as_it_was(shared):
    x = np.random.default_rng(0).normal(size=(200, 2))
    model = quick_estimator()
    before = shared()
    model.fit(x)
    assert shared() == before
    rows = model.sample(5)
    model.score_samples(rows)
    model.impute([[0.5, np.nan]])
    model.fit_second_order(x, rank=1, steps=2)
    after = shared()
    assert {key: (after[key], before[key]) for key in after if after[key] != before[key]} == {}


def test_commands_leave_the_process_as_it_was(shared, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    before = shared()
    small = [
        "--train.steps=10",
        "--train.block-mb=0.1",
        "--network.width=8",
        "--network.depth=1",
        "--data.n=200",
    ]
    assert (
        main(["train", "toy-arcs", "--local", "--quiet", "--evaluate.n=20", "--train.device=cpu", *small])
        == 0
    )
    assert shared() == before
    assert main(["sample", "runs/toy-arcs", "--n=5", "--out=rows.npy", "--quiet"]) == 0
    assert main(["sample", "nowhere"]) == 2
    assert shared() == before
    capsys.readouterr()
    # What --quiet asked for ended with the command.
    say("heard")
    assert capsys.readouterr().out == "heard\n"


def test_what_is_lent_is_given_back_after_a_failure(shared):
    before = shared()

    def fail():
        with seeded(1), threads(2), environment(NDSM_TEST="1", HOME="/nowhere"):
            torch.rand(3)
            assert (torch.get_num_threads(), os.environ["NDSM_TEST"]) == (2, "1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert shared() == before


def test_a_seed_draws_what_torchs_own_would():
    torch.manual_seed(5)
    expected = torch.nn.Linear(3, 3).weight
    with seeded(5):
        assert torch.equal(torch.nn.Linear(3, 3).weight, expected)
