"""Blocks from simulator actors, in order, for one training worker.

One thread keeps at most `window` blocks per simulator in flight or waiting; the training step takes them in the
order of their numbers and copies each once into its ring. A block that arrives early waits; how fast, how many
or how often broken the simulators are does not change which rows a step sees.

A simulator that is late (its process died, or its node is gone and no other has room for it) is asked for nothing
more until it answers, and what it owes is asked of another one, if all of this worker's are late of another worker's: blocks
are functions of their index, so the first answer is as good as any.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from ndsm.training.replay import COUNTERS
from pipelines.handles import SimulatorHandle

MAX_FAILURES_IN_A_ROW = 5
"""After so many failed calls without one success the simulators are beyond help."""
PATIENCE = 0.3
"""Seconds that an answer may take beyond twice the usual time for it and the calls before it."""
FIRST_PATIENCE = 15.0
"""Seconds that an answer may take before any has come: simulators start meanwhile."""
WARN_AFTER = 0.1
"""Share of the time that a worker waits without any answer after which it says so."""


@dataclass
class Call:
    """A block that a simulator was asked for."""

    number: int
    simulator: SimulatorHandle
    asked: float
    """By the monotonic clock."""
    ahead: int
    """Calls that this simulator answers first, and this one."""
    late: bool = False
    """Whether another simulator was asked since."""


class NoAnswer(RuntimeError):
    """No simulator answers, and waiting longer would not help."""


class Ingest:
    """The in-flight window of one worker; a `BlockSource`.

    Args:
        simulators: gives this worker's share, now and whenever it is called; it does not wait.
        index_of: global index of this worker's block number.
        first: the first number.
        window: blocks per simulator in flight or waiting.
        stamp: blocks that carry another are dropped and asked for again.
        others: gives simulators to turn to while all of this worker's are late.
        limit: seconds that the worker waits for a block while no simulator answers.
        warn: told when a part of them has passed.
        clock: seconds, never going back.
    """

    def __init__(
        self,
        simulators: Callable[[], list[SimulatorHandle]],
        index_of: Callable[[int], int],
        first: int,
        window: int,
        stamp: str,
        others: Callable[[], list[SimulatorHandle]] = list,
        limit: float = math.inf,
        warn: Callable[[str], object] = lambda text: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._others, self._limit, self._warn, self._clock = others, limit, warn, clock
        self._answered, self._warned = clock(), False
        self._waiting_since: float | None = None
        self._look, self._index_of, self._stamp, self._window = simulators, index_of, stamp, window
        self._simulators = simulators()
        self._next_number = self._wanted = first
        self._pending: dict[Any, Call] = {}
        self._ready: dict[int, np.ndarray] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._error: Exception | None = None
        self._counts: dict[str, float] = dict.fromkeys(COUNTERS, 0)
        self._failures = 0
        self._usual_seconds: float | None = None
        self._suspects: set[Any] = set()
        self._lives: dict[Any, int] = {}
        self._thread = threading.Thread(target=self._run, daemon=True, name="ingest")
        self._thread.start()

    def take(self, number: int) -> np.ndarray:
        """Block `number`, (rows, width): a read-only view of shared memory, freed when it is dropped.

        Raises:
            NoAnswer: no simulator answers any more.
            Exception: what a simulator raised, or that all calls fail.
        """
        with self._changed:
            self._wanted, self._waiting_since = number, self._clock()
            self._changed.notify_all()
            self._changed.wait_for(lambda: number in self._ready or self._error is not None)
            self._waiting_since = None
            if number not in self._ready:
                assert self._error is not None
                raise self._error
            self._wanted = number + 1
            self._changed.notify_all()
            return self._ready.pop(number)

    def counters(self) -> dict[str, float]:
        """`COUNTERS`.

        Ray repeats the calls that a restarted simulator had in flight by itself: those are not counted as
        asked for again.
        """
        with self._changed:
            return self._counts | {
                "simulators": len(self._simulators),
                "blocks_in_flight": len(self._pending),
                "blocks_waiting": len(self._ready),
            }

    def close(self) -> None:
        """Stop asking for blocks."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(timeout=5)

    # ---- the thread ----

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._simulators = self._look()
                self._fill_window()
                self._ask_again_for_late_blocks()
                done = []
                if self._pending:
                    done, _ = ray.wait(list(self._pending), num_returns=1, timeout=0.1)
                else:
                    with self._changed:
                        self._changed.wait(timeout=0.5)
                for ref in done:
                    self._receive(ref)
                if not done:
                    self._check_answers()
        except Exception as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _fill_window(self) -> None:
        while self._next_number - self._wanted < self._window * len(self._simulators):
            self._ask(self._next_number)
            self._next_number += 1

    def _ask(self, number: int) -> None:
        """Ask the least busy simulator that is not late with something, if there is one; best one of this worker's."""
        busy = Counter(call.simulator.actor for call in self._pending.values())
        simulator = min(self._reachable(), key=lambda s: (s.actor in self._suspects, busy[s.actor]))
        ref = simulator.block(self._index_of(number))
        with self._changed:
            self._pending[ref] = Call(number, simulator, self._clock(), busy[simulator.actor] + 1)
            self._counts["blocks_sent"] += 1

    def _reachable(self) -> list[SimulatorHandle]:
        """This worker's simulators, and the others while all of these are late."""
        return self._simulators + (self._others() if self._all_late(self._simulators) else [])

    def _all_late(self, simulators: list[SimulatorHandle]) -> bool:
        return all(simulator.actor in self._suspects for simulator in simulators)

    def _is_own(self, actor: Any) -> bool:
        return any(simulator.actor == actor for simulator in self._simulators)

    def _ask_again_for_late_blocks(self) -> None:
        seconds, late, now = self._usual_seconds, [], self._clock()
        for call in self._pending.values():
            patience = FIRST_PATIENCE if seconds is None else PATIENCE + 2 * seconds * call.ahead
            if not call.late and now - call.asked > patience:
                late.append(call)
        self._suspects.update(call.simulator.actor for call in late)
        if self._all_late(self._reachable()):
            return
        for call in late:
            call.late = True
            if call.number >= self._wanted and call.number not in self._ready:
                self._ask(call.number)

    def _check_answers(self) -> None:
        """Warn once, and later give up, while the worker waits and nobody answers.

        Ray starts a simulator that crashes again and again, and repeats its calls, without ever telling.
        """
        since = self._waiting_since
        silent = 0.0 if since is None else self._clock() - max(since, self._answered)
        if silent <= WARN_AFTER * self._limit or (self._warned and silent <= self._limit):
            return
        asked = ", ".join(str(simulator.actor) for simulator in self._simulators[:3]) or "no simulator"
        found = (
            f"expected block {self._wanted} from {asked} within train.block_seconds ({self._limit:g} s), found no answer "
            f"to {len(self._pending)} calls for {silent:.0f} s: their processes crash (a fault in the drift, too little memory) "
            "or hang, or no node has room for them; `ray list actors` and `ray logs actor` tell which"
        )
        if silent > self._limit:
            raise NoAnswer(f"{found}; raise train.block_seconds if a block takes that long")
        self._warned = True
        self._warn(found)

    def _receive(self, ref: Any) -> None:
        call = self._pending[ref]
        number, actor = call.number, call.simulator.actor
        try:
            block = ray.get(ref)
        except RayTaskError as error:
            # The simulation itself failed; the same index would fail again, anywhere.
            raise error.cause from None
        except RayError as error:
            self._suspects.add(actor)
            # One that was removed on purpose may fail as often as it likes.
            self._drop(ref, "blocks_retried", self._is_own(actor))
            if self._failures >= MAX_FAILURES_IN_A_ROW:
                raise RuntimeError(
                    f"{self._failures} calls to simulators failed in a row, the last: {error}"
                ) from None
            self._ask_if_missing(number)
            return
        if block["stamp"] != self._stamp:
            self._drop(ref, "blocks_foreign")
            if self._failures >= MAX_FAILURES_IN_A_ROW:
                raise RuntimeError(
                    f"simulators return blocks of another run: expected stamp {self._stamp}, found {block['stamp']}"
                )
            self._ask_if_missing(number)
            return
        self._failures = 0
        self._answered, self._warned = self._clock(), False
        self._suspects.discard(actor)
        usual = self._usual_seconds or block["seconds"]
        self._usual_seconds = 0.9 * usual + 0.1 * block["seconds"]
        with self._changed:
            del self._pending[ref]
            restarted = self._lives.setdefault(actor, block["life"]) != block["life"]
            # Another worker's are counted there.
            self._counts["simulator_restarts"] += restarted and self._is_own(actor)
            self._lives[actor] = block["life"]
            self._counts["simulator_seconds"] += block["seconds"]
            if number < self._wanted or number in self._ready:
                self._counts["blocks_duplicate"] += 1
                return
            self._counts["blocks_received"] += 1
            self._ready[number] = block["rows"]
            self._changed.notify_all()

    def _drop(self, ref: Any, counter: str, fails: bool = True) -> None:
        with self._changed:
            del self._pending[ref]
            self._counts[counter] += 1
        self._failures += fails

    def _ask_if_missing(self, number: int) -> None:
        """Ask for a block again, unless it is there or another simulator has been asked for it."""
        asked = any(call.number == number for call in self._pending.values())
        if number >= self._wanted and number not in self._ready and not asked:
            self._ask(number)
