"""A worker's window of calls, with simulators and a clock that the test holds in its hands."""

import re
import threading
import time

import numpy as np
import pytest
from ray.exceptions import ActorUnavailableError

from pipelines import ingest
from pipelines.handles import SimulatorHandle

STAMP = "ours"


class Store:
    """In Ray's place."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.looks = 0
        self.done: dict[int, object] = {}
        self.asked: list[int] = []

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

    def __init__(self, store, silent=lambda index: False):
        super().__init__(object(), [])
        object.__setattr__(self, "store", store)
        object.__setattr__(self, "silent", silent)

    def block(self, index):
        ref = len(self.store.asked)
        self.store.asked.append(index)
        if not self.silent(index):
            self.store.answer(ref)
        return ref


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
        except ingest.NoAnswer as error:
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
