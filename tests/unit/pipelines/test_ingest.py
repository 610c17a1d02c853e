"""A worker's window of calls, with simulators and a clock that the test holds in its hands."""

import pickle
import re
import threading
import time

import numpy as np
import pytest
from ray.exceptions import ActorUnavailableError, RayTaskError

from ndsm.errors import BadBlock, InputError
from ndsm.training.bad_blocks import SUBSTITUTES, BadBlocks
from pipelines import ingest
from pipelines.handles import BlockFailed, SimulatorHandle

STAMP = "ours"


class Store:
    """In Ray's place."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.looks = 0
        self.done: dict[int, object] = {}
        self.asked: list[int] = []
        self.cancelled: list[int] = []

    def cancel(self, ref):
        self.cancelled.append(ref)

    def wait(self, refs, num_returns, timeout):
        self.looks += 1
        ready = [ref for ref in refs if ref in self.done][:num_returns]
        if not ready:
            time.sleep(0.001)
        return ready, []

    def get(self, ref):
        if isinstance(self.done[ref], Exception):
            raise self.done[ref]
        return self.done[ref]

    def answer(self, ref):
        index = self.asked[ref]
        rows = np.full((2, 3), index, dtype=np.float32)
        self.done[ref] = {"rows": rows, "index": index, "stamp": STAMP, "life": 1, "seconds": 0.1}


class Simulator(SimulatorHandle):
    """Answers at once, but for the blocks that it is silent on; a reference is the number of the call."""

    def __init__(self, store, silent=lambda index: False, fails=lambda index: False, alive=False):
        super().__init__(object(), [])
        for name, value in {"store": store, "silent": silent, "fails": fails, "alive": alive}.items():
            object.__setattr__(self, name, value)
        object.__setattr__(self, "restarts", [])
        object.__setattr__(self, "indices", [])

    def block(self, index):
        ref = len(self.store.asked)
        self.store.asked.append(index)
        self.indices.append(index)
        if self.fails(index):
            cause = BlockFailed(index, "ValueError: the drift ran away", False)
            self.store.done[ref] = RayTaskError("block", "", cause)
        elif not self.silent(index):
            self.store.answer(ref)
        return ref

    def is_alive(self):
        return self.alive

    def restart(self):
        self.restarts.append(self.store.seconds)


class Taking:
    """A worker that waits for a block, on a thread; the clock stands still but when it is told to go on."""

    def __init__(self, store, source, number):
        self._store, self._source, self._number = store, source, number
        self.block, self.error = None, None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        until(lambda: source._waiting_since is not None or not self._thread.is_alive())

    def _run(self):
        try:
            self.block = self._source.take(self._number)
        except (ingest.NoAnswer, BadBlock) as error:
            self.error = error

    def passes(self, seconds):
        """So much time, at which the source has looked."""
        pass_time(self._store, self._source, seconds)
        return self

    def ends(self):
        self._thread.join()
        return self


def pass_time(store, source, seconds):
    store.seconds += seconds
    looks = store.looks
    until(lambda: store.looks > looks + 2 or not source._thread.is_alive())


def until(condition):
    """Let the threads work; pytest's own limit ends a wait for ever."""
    while not condition():
        time.sleep(0.001)


@pytest.fixture
def store(monkeypatch):
    made = Store()
    monkeypatch.setattr(ingest, "ray", made)
    return made


def opened(store, simulators, **options):
    return ingest.Ingest(
        lambda: simulators, lambda number: number, 0, 2, STAMP, clock=lambda: store.seconds, **options
    )


def mute(index):
    return True


def test_a_worker_whose_simulators_never_answer_warns_and_then_gives_up(store):
    """At a tenth of the time and at its end; the call of a simulator that crashes again and again just stays open."""
    warned = []
    source = opened(store, [Simulator(store, mute) for _ in range(2)], limit=100.0, warn=warned.append)
    try:
        pass_time(store, source, 500.0)
        taking = Taking(store, source, 0).passes(9.0)
        assert warned == []
        taking.passes(2.0).passes(80.0)
        (text,) = warned
        assert "to 4 calls for 11 s" in text
        assert taking.error is None
        taking.passes(10.0).ends()
        expected = r"^expected block 0 from .* within train\.block_seconds \(100 s\), found no answer to 4 calls for 101 s"
        assert re.match(expected, str(taking.error))
        # Whoever asks again is told the same.
        with pytest.raises(ingest.NoAnswer):
            source.take(0)
    finally:
        source.close()


@pytest.mark.parametrize(("most", "expected"), [(np.inf, 80), (7.5, 8), (0.5, 2)])
def test_no_more_blocks_are_on_their_way_than_the_object_store_takes(store, most, expected):
    """Those of many simulators on many nodes all end in the worker's; two at least, as those of one simulator."""
    source = opened(store, [Simulator(store) for _ in range(40)], most=most)
    try:
        for taken in range(5):
            # All are asked before the first is answered.
            until(lambda: source.counters()["blocks_waiting"] == expected)
            assert source.counters()["blocks_sent"] == expected + taken
            source.take(taken)
    finally:
        source.close()


def test_one_block_that_no_simulator_survives_ends_the_run_too(store):
    """The others are answered; then nobody is left to answer anything."""
    source = opened(store, [Simulator(store, lambda index: index == 3)], limit=50.0)
    try:
        for number in range(3):
            np.testing.assert_array_equal(source.take(number), number)
        assert "expected block 3" in str(Taking(store, source, 3).passes(51.0).ends().error)
    finally:
        source.close()


def test_answers_that_come_late_end_the_silence(store):
    """Longer than the limit in all, but never so long without an answer; one warning for each silence."""
    warned = []
    source = opened(store, [Simulator(store, mute)], limit=60.0, warn=warned.append)
    try:
        for number in range(4):
            taking = Taking(store, source, number).passes(40.0)
            assert len(warned) == number + 1
            store.answer(store.asked.index(number))
            np.testing.assert_array_equal(taking.ends().block, number)
    finally:
        source.close()


def test_failed_calls_are_asked_again_and_at_last_end_the_run(store):
    class Fails(Simulator):
        def block(self, index):
            ref = super().block(index)
            self.store.done[ref] = ActorUnavailableError("gone", None)
            return ref

    source = opened(store, [Fails(store)])
    try:
        with pytest.raises(RuntimeError, match="5 calls to simulators failed in a row"):
            source.take(0)
        counts = source.counters()
        assert counts["blocks_retried"] == ingest.MAX_FAILURES_IN_A_ROW
        assert counts["blocks_sent"] == counts["blocks_retried"] + counts["blocks_in_flight"]
    finally:
        source.close()


def bad(index):
    """A drift fails at this block and is right at the one that takes its place."""
    return index == 3


def take_all(source, count=6):
    return [int(source.take(number)[0, 0]) for number in range(count)]


def test_a_block_that_always_fails_ends_the_run_with_its_index(store):
    simulators = [Simulator(store, fails=bad) for _ in range(3)]
    source = opened(store, simulators)
    try:
        with pytest.raises(BadBlock) as raised:
            take_all(source)
        assert re.match(
            r"block 3 could not be simulated in 3 tries: ValueError: the drift ran away; the run ends: mend the drift, or go on "
            r"without this block by a larger train\.max_bad_blocks$",
            str(raised.value),
        )
        # Each try was made elsewhere.
        assert [simulator.indices.count(3) for simulator in simulators] == [1, 1, 1]
        counts = source.counters()
        assert counts["blocks_retried"] == 3
    finally:
        source.close()


def test_a_block_may_be_left_out_and_is_then_left_out_for_good(store):
    kept, warned = [], []

    def record(index, reason):
        kept.append(index)
        return True

    choices = BadBlocks(2, (), record, warned.append)
    source = opened(store, [Simulator(store, fails=bad)], bad=choices)
    try:
        assert take_all(source) == [0, 1, 2, int(np.float32(3 + SUBSTITUTES)), 4, 5]
        assert kept == [3]
        (text,) = warned
        assert text.startswith("block 3 could not be simulated in 3 tries")
        counts = source.counters()
        assert (counts["blocks_skipped"], counts["blocks_retried"]) == (1, 3)
        left = counts["blocks_received"] + counts["blocks_retried"] + counts["blocks_in_flight"]
        assert counts["blocks_sent"] == left + counts["blocks_duplicate"]
    finally:
        source.close()
    # A later sitting knows it, and asks for the other one at once.
    again = Simulator(store, fails=bad)
    source = opened(store, [again], bad=BadBlocks(2, kept, pytest.fail).including(True))
    try:
        source.take(0), source.take(1), source.take(2), source.take(3)
        assert 3 not in again.indices
        assert 3 + SUBSTITUTES in again.indices
        assert source.counters()["blocks_skipped"] == 1
    finally:
        source.close()


def test_simulators_that_hang_at_a_block_are_started_again_and_named(store):
    """In three tries at most: the fourth simulator goes on with other blocks."""
    simulators = [Simulator(store, silent=bad, alive=True) for _ in range(4)]
    source = opened(store, simulators, limit=100.0)
    try:
        for number in range(3):
            source.take(number)
        taking = Taking(store, source, 3)
        for _ in range(8):
            taking.passes(3.0)
        assert store.asked.count(3) == 3
        assert not any(simulator.restarts for simulator in simulators)
        # One of the three was given it as its first block, which may take twice as long.
        taking.passes(31.0).passes(31.0).ends()
        assert isinstance(taking.error, BadBlock)
        assert "block 3 could not be simulated in 3 tries" in str(taking.error)
        assert "crashed or did not return in" in str(taking.error)
        hung = [simulator for simulator in simulators if 3 in simulator.indices]
        assert len(hung) == 3
        assert all(len(simulator.restarts) == 1 for simulator in hung)
        assert len(store.cancelled) == 3
    finally:
        source.close()


def test_a_simulator_that_is_gone_is_not_taken_for_one_that_hangs(store):
    """Its node is lost and it waits for another place: the block is not to blame."""
    lost = Simulator(store, silent=mute, alive=False)
    source = opened(store, [lost], limit=100.0, bad=BadBlocks(5, (), pytest.fail))
    try:
        taking = Taking(store, source, 0).passes(60.0)
        assert taking.error is None
        assert lost.restarts == []
        store.answer(0)
        np.testing.assert_array_equal(taking.ends().block, 0)
    finally:
        source.close()


def test_a_late_answer_to_a_block_that_is_left_out_is_not_used(store):
    """Who comes second would decide which rows the run has."""
    slow = Simulator(store, silent=bad, alive=True)
    source = opened(store, [slow], limit=10.0, bad=BadBlocks(1, (), lambda index, reason: True))
    try:
        for number in range(3):
            source.take(number)
        taking = Taking(store, source, 3)
        taking.passes(3.5).passes(3.5)
        # The new process has answered nothing yet. Then no call is open, and nobody looks for answers.
        store.seconds += 6.5
        taking.ends()
        np.testing.assert_array_equal(taking.block, np.float32(3 + SUBSTITUTES))
        assert len(slow.restarts) == 3
    finally:
        source.close()


def test_a_thousand_simulators_share_the_calls_evenly(store):
    simulators = [Simulator(store, mute) for _ in range(1000)]
    source = opened(store, simulators)
    try:
        until(lambda: len(store.asked) == 2000)
        assert {len(simulator.indices) for simulator in simulators} == {2}
        assert source.counters()["blocks_in_flight"] == 2000
    finally:
        source.close()


def test_what_a_simulation_raises_is_told_with_its_block(monkeypatch):
    """Its class may be one that only the user's script knows."""
    from pipelines import simulators

    def fails(spec, data, index):
        raise InputError("the drift ran away") if index else ZeroDivisionError("at 0")

    monkeypatch.setattr(simulators, "rollout", fails)
    simulator = simulators.Simulator({})
    simulator._inputs = (None, None)
    for index, bad_input, reason in ((0, False, "ZeroDivisionError: at 0"), (7, True, "the drift ran away")):
        with pytest.raises(BlockFailed) as raised:
            simulator.block(index, [])
        again = pickle.loads(pickle.dumps(raised.value))
        assert (again.index, again.bad_input, again.reason) == (index, bad_input, reason)
