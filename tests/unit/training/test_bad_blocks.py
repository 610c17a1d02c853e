"""Blocks that cannot be simulated on a thread of the training process, and what a run keeps of them."""

import threading
from itertools import combinations

import numpy as np
import pytest
import torch
from tiny_run import TINY

from ndsm.config import load_config
from ndsm.errors import BadBlock, InputError
from ndsm.runs import Run
from ndsm.simulation import rollout
from ndsm.training import ThreadSource
from ndsm.training.bad_blocks import SUBSTITUTES, BadBlocks
from ndsm.workflows.setup import begin, prepare
from ndsm.workflows.train import train_locally

SETTINGS = {**TINY, "train.block_mb": 0.005}


def train(run, fields, fails, stop_at=None):
    """Train with a simulation that fails for some indices; the indices that it was asked for."""
    experiment, asked = prepare(load_config("toy-arcs", fields), run), []
    begin(experiment)

    def make_block(index):
        asked.append(index)
        fails(index)
        return rollout(experiment.problem.spec, experiment.dataset.train, index)

    for record in train_locally(experiment, make_block=make_block):
        if record.step == stop_at:
            run.stop_file.touch()
    return asked


def at_block_5(index):
    if index == 5:
        raise ZeroDivisionError("at 5")


def test_by_default_a_run_ends_at_a_bad_block_with_its_index(tmp_path):
    run = Run(tmp_path / "mine")
    with pytest.raises(
        BadBlock, match="block 5 could not be simulated in 3 tries: ZeroDivisionError: at 5; the run ends"
    ) as raised:
        train(run, SETTINGS, at_block_5)
    # The user's own traceback is not lost.
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    assert run.skipped_blocks() == []


def test_a_run_without_a_bad_block_is_the_same_however_often_it_stops(tmp_path):
    """The block that takes a bad one's place belongs to the index: also where the ring is filled again."""
    fields = {**SETTINGS, "train.max_bad_blocks": 1}
    whole, stopped = Run(tmp_path / "whole"), Run(tmp_path / "stopped")
    with pytest.warns(UserWarning, match="block 5 could not be simulated .*; another one takes its place"):
        asked = train(whole, fields, at_block_5)
    assert asked.count(5) == 3
    assert asked.count(5 + SUBSTITUTES) == 1
    with pytest.warns(UserWarning, match="block 5"):
        train(stopped, fields, at_block_5, stop_at=20)
    # A drift that works now changes nothing any more.
    spec = prepare(load_config("toy-arcs", fields), whole).problem.spec
    rows = np.random.default_rng(0).normal(size=(50, 2)).astype(np.float32)
    blocks = [rollout(spec, rows, 5 + n * SUBSTITUTES) for n in range(4)]
    assert all(not np.array_equal(a, b) for a, b in combinations(blocks, 2))
    later = train(stopped, fields, lambda index: None)
    assert 5 not in later
    models = [
        torch.load(r.path / "checkpoints" / "step-000000040.pt")["trainer"]["model"] for r in (whole, stopped)
    ]
    for name, value in models[0].items():
        assert torch.equal(value, models[1][name]), name
    assert whole.skipped_blocks() == stopped.skipped_blocks() == [5]
    for run in (whole, stopped):
        last = run.last_metrics()
        assert last["blocks_skipped"] == 1
        parts = ("received", "retried", "foreign", "duplicate", "lost", "in_flight")
        assert last["blocks_sent"] == sum(last[f"blocks_{part}"] for part in parts)


def test_one_more_bad_block_than_may_be_left_out_ends_the_run(tmp_path):
    def fails(index):
        if index in (5, 7):
            raise InputError("the drift ran away")

    run = Run(tmp_path / "mine")
    with (
        pytest.warns(UserWarning, match="block 5"),
        pytest.raises(
            InputError,
            match=r"block 7 .*: the drift ran away; more than train.max_bad_blocks \(1\) such blocks",
        ),
    ):
        train(run, {**SETTINGS, "train.max_bad_blocks": 1}, fails)
    assert run.skipped_blocks() == [5]


def test_a_block_that_fails_now_and_then_is_tried_again():
    tries = []

    def make(number):
        tries.append(number)
        if len(tries) in (2, 3):
            raise RuntimeError("out of memory")
        return np.full((2, 2), number, dtype=np.float32)

    bad = BadBlocks()
    source = ThreadSource(make, 0, 1, lambda number, error: bad.failed(number, str(error)))
    assert [int(source.take(n)[0, 0]) for n in range(3)] == [0, 1, 2]
    source.close()
    assert tries[:5] == [0, 1, 1, 1, 2]


def test_a_thread_that_hangs_is_left_to_itself_and_its_block_named():
    release = threading.Event()

    def make(number):
        if bad.effective(number) == 1:
            release.wait()
        return np.full((2, 2), bad.effective(number) % 1000, dtype=np.float32)

    kept = []
    bad = BadBlocks(1, (), lambda index, reason: not kept.append(index))
    source = ThreadSource(
        make, 0, 2, lambda number, error: bad.failed(bad.effective(number), str(error)), 0.05
    )
    found = [int(source.take(n)[0, 0]) for n in range(4)]
    assert found == [0, (1 + SUBSTITUTES) % 1000, 2, 3]
    assert kept == [1]
    assert source.counters()["blocks_retried"] >= 3
    release.set()
    source.close()


def test_a_block_that_hangs_ends_the_run_where_none_may_be_left_out():
    release, bad = threading.Event(), BadBlocks()
    source = ThreadSource(
        lambda number: release.wait() or np.zeros((1, 1)), 4, 2,
        lambda number, error: bad.failed(number, f"{type(error).__name__}: {error}"), 0.05,
    )  # fmt: skip
    with pytest.raises(
        BadBlock,
        match="block 4 could not be simulated in 3 tries: TimeoutError: the simulation did not return",
    ):
        source.take(4)
    release.set()
    source.close()
