"""Blocks from simulator actors, in order, for one training worker.

One thread keeps at most `window` blocks per simulator in flight or waiting; the training step takes them in the
order of their numbers and copies each once into its ring. A block that arrives early waits; how fast, how many
or how often broken the simulators are does not change which rows a step sees.

A simulator that is late (its process died, or its node is gone and no other has room for it) is asked for nothing
more until it answers, and what it owes is asked of another one, if all of this worker's are late of another worker's: blocks
are functions of their index, so the first answer is as good as any.

A block that a simulator fails at, or does not return from although its process lives, is tried on others; see
`ndsm.training.bad_blocks` for what then becomes of it. The process that hangs is ended and started again.
"""

import math
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from ndsm.training.bad_blocks import TRIES, TRY_SHARE, BadBlocks
from ndsm.training.replay import COUNTERS
from pipelines.calls import Call, Calls
from pipelines.handles import BlockFailed, SimulatorHandle

MAX_FAILURES_IN_A_ROW = 5
"""After so many failed calls without one success the simulators are beyond help."""
PATIENCE = 0.3
"""Seconds that an answer may take beyond twice the usual time for it and the calls before it."""
FIRST_PATIENCE = 15.0
"""Seconds that an answer may take before any has come: simulators start meanwhile."""
WARN_AFTER = 0.1
"""Share of the time that a worker waits without any answer after which it says so."""
SCAN_SECONDS = 0.2
"""Between looks for late calls."""
FEW = 64
"""So many simulators are waited for together; of more all answers are collected now and then, since a wait costs time for each."""
PAUSE_OF_EACH = 1.5e-3
"""Seconds between these collections for each simulator."""
LONGEST_PAUSE = 1.5


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
        bad: decides about blocks that cannot be simulated.
        most: blocks in flight or waiting, of all simulators together: what this node's object store takes. Never less than `window`.
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
        bad: BadBlocks | None = None,
        most: float = math.inf,
    ) -> None:
        self._bad, self._most = bad or BadBlocks(), max(window, most)
        self._others, self._limit, self._warn, self._clock = others, limit, warn, clock
        self._answered, self._warned = clock(), False
        self._waiting_since: float | None = None
        self._look, self._index_of, self._stamp, self._window = simulators, index_of, stamp, window
        self._simulators: list[SimulatorHandle] = []
        self._calls = Calls()
        self._use(simulators())
        self._next_number = self._wanted = first
        self._ready: dict[int, np.ndarray] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._error: Exception | None = None
        self._counts: dict[str, float] = dict.fromkeys(COUNTERS, 0)
        self._failures = 0
        self._usual_seconds: float | None = None
        self._suspects: set[Any] = set()
        self._lives: dict[Any, int] = {}
        self._tried: dict[int, set[Any]] = {}
        """Simulators that failed at a block, by its index."""
        self._heard: dict[Any, float] = {}
        """When each simulator answered last, in its present life."""
        self._restarted: dict[Any, float] = {}
        """When each simulator was started again because it hung."""
        self._scan_at = -math.inf
        self._closing = threading.Event()
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
                "blocks_in_flight": len(self._calls),
                "blocks_waiting": len(self._ready),
                "blocks_skipped": self._bad.skipped,
            }

    def close(self) -> None:
        """Stop asking for blocks."""
        self._closing.set()
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        self._thread.join(timeout=5)

    # ---- the thread ----

    def _run(self) -> None:
        try:
            while not self._stopped:
                self._use(self._look())
                self._fill_window()
                if self._clock() >= self._scan_at:
                    self._scan_at = self._clock() + SCAN_SECONDS
                    self._ask_again_for_late_blocks()
                    self._give_up_hanging_calls()
                done = self._answers()
                for ref in done:
                    self._receive(ref)
                if not done:
                    self._check_answers()
        except Exception as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _use(self, simulators: list[SimulatorHandle]) -> None:
        if simulators is not self._simulators:
            self._simulators = simulators
            self._calls.use(simulators)

    def _answers(self) -> list[Any]:
        """References of calls that are answered; waits a moment if there are none."""
        heads = [ref for ref, _ in self._calls.heads()]
        done: list[Any] = []
        if not heads:
            with self._changed:
                self._changed.wait(timeout=0.5)
        elif len(heads) <= FEW:
            done, _ = ray.wait(heads, num_returns=1, timeout=0.1)
        else:
            self._closing.wait(min(LONGEST_PAUSE, PAUSE_OF_EACH * len(heads)))
            done, _ = ray.wait(heads, num_returns=len(heads), timeout=0)
        return done

    def _fill_window(self) -> None:
        while self._next_number - self._wanted < min(self._window * len(self._simulators), self._most):
            self._ask(self._next_number)
            self._next_number += 1

    def _ask(self, number: int) -> None:
        """Ask the least busy simulator that is not late with something, if there is one; best one of this worker's, and one that
        has not failed at this block."""
        index = self._bad.effective(self._index_of(number))
        simulator = self._choose(self._tried.get(index, set()))
        ref = simulator.block(index)
        with self._changed:
            self._calls.add(
                ref, Call(number, index, simulator, self._clock(), self._calls.load(simulator.actor) + 1)
            )
            self._counts["blocks_sent"] += 1

    def _choose(self, tried: set[Any]) -> SimulatorHandle:
        avoided = [self._suspects | tried, self._suspects] if tried else [self._suspects]
        for avoid in avoided:
            if (found := self._calls.least_busy(avoid)) is not None:
                return found
        load = self._calls.load
        return min(
            self._reachable(), key=lambda s: (s.actor in self._suspects, s.actor in tried, load(s.actor))
        )

    def _reachable(self) -> list[SimulatorHandle]:
        """This worker's simulators, and the others while all of these are late."""
        return self._simulators + (self._others() if self._all_late(self._simulators) else [])

    def _all_late(self, simulators: list[SimulatorHandle]) -> bool:
        # Most of the time there are no suspects.
        if len(self._suspects) < len(
            {simulator.actor for simulator in simulators[: len(self._suspects) + 1]}
        ):
            return False
        return all(simulator.actor in self._suspects for simulator in simulators)

    def _ask_again_for_late_blocks(self) -> None:
        seconds, late, now = self._usual_seconds, [], self._clock()
        for _, head in self._calls.heads():
            # Behind one that is in time the others are.
            for call in self._calls.of(head.simulator.actor) if self._is_late(head, seconds, now) else ():
                if not call.late and self._is_late(call, seconds, now):
                    late.append(call)
        self._suspects.update(call.simulator.actor for call in late)
        if self._all_late(self._reachable()):
            return
        for call in late:
            if self._calls.count(call.number) >= TRIES and self._at_work(call.number) >= TRIES:
                # One that hangs is not to stop them all: these are looked at again, and given up after a time.
                continue
            call.late = True
            if call.number >= self._wanted and call.number not in self._ready:
                self._ask(call.number)

    def _is_late(self, call: Call, seconds: float | None, now: float) -> bool:
        patience = FIRST_PATIENCE if seconds is None else PATIENCE + 2 * seconds * call.ahead
        return now - call.asked > patience

    def _at_work(self, number: int) -> int:
        """Simulators that live and have not answered for a block."""
        return sum(call.simulator.is_alive() for call in self._calls.of_number(number))

    def _give_up_hanging_calls(self) -> None:
        """End the processes that have worked on one call for too long, and try its block elsewhere."""
        limit, now = TRY_SHARE * self._limit, self._clock()
        for ref, call in [(r, c) for r, c in self._calls.heads() if now - c.asked > limit]:
            actor = call.simulator.actor
            silent = now - max(
                call.asked, self._heard.get(actor, -math.inf), self._restarted.get(actor, -math.inf)
            )
            # The first answer of a process takes its imports and the data, too.
            if silent <= (limit if actor in self._heard else 2 * limit) or not call.simulator.is_alive():
                continue
            # Else Ray would repeat it in the new process.
            ray.cancel(ref)
            call.simulator.restart()
            self._heard.pop(actor, None)
            self._restarted[actor] = now
            self._drop(ref, "blocks_retried", False)
            self._note_failure(call, f"{actor} crashed or did not return in {silent:.0f} s")

    def _note_failure(self, call: Call, reason: str, bad_input: bool = False) -> None:
        """Try a block elsewhere; or, after the last try, the one that takes its place.

        Raises:
            BadBlock, InputError: none may take its place.
        """
        self._tried.setdefault(call.index, set()).add(call.simulator.actor)
        self._bad.failed(call.index, reason, bad_input)
        # A decision takes time in which simulators need not have answered.
        self._answered = self._clock()
        if self._bad.effective(call.index) != call.index:
            self._tried.pop(call.index, None)
            if call.number >= self._wanted and call.number not in self._ready:
                self._ask(call.number)
        else:
            self._ask_if_missing(call.number)

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
            f"to {len(self._calls)} calls for {silent:.0f} s: their processes crash (a fault in the drift, too little memory) "
            "or hang, or no node has room for them; `ray list actors` and `ray logs actor` tell which"
        )
        if silent > self._limit:
            raise NoAnswer(f"{found}; raise train.block_seconds if a block takes that long")
        self._warned = True
        self._warn(found)

    def _receive(self, ref: Any) -> None:
        call = self._calls[ref]
        number, actor = call.number, call.simulator.actor
        try:
            block = ray.get(ref)
        except RayTaskError as error:
            if not isinstance(error.cause, BlockFailed):
                raise error.cause from None
            self._heard[actor] = self._clock()
            self._drop(ref, "blocks_retried", False)
            self._note_failure(call, error.cause.reason, error.cause.bad_input)
            return
        except RayError as error:
            self._suspects.add(actor)
            # One that was removed on purpose may fail as often as it likes.
            self._drop(ref, "blocks_retried", self._calls.owns(actor))
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
        self._heard[actor] = self._answered
        self._suspects.discard(actor)
        self._bad.answered(call.index)
        self._tried.pop(call.index, None)
        usual = self._usual_seconds or block["seconds"]
        self._usual_seconds = 0.9 * usual + 0.1 * block["seconds"]
        with self._changed:
            self._calls.remove(ref)
            restarted = self._lives.setdefault(actor, block["life"]) != block["life"]
            # Another worker's are counted there.
            self._counts["simulator_restarts"] += restarted and self._calls.owns(actor)
            self._lives[actor] = block["life"]
            self._counts["simulator_seconds"] += block["seconds"]
            # Also of one that was given up and is replaced, whatever it was.
            replaced = call.index != self._bad.effective(self._index_of(number))
            if number < self._wanted or number in self._ready or replaced:
                self._counts["blocks_duplicate"] += 1
                return
            self._counts["blocks_received"] += 1
            self._ready[number] = block["rows"]
            self._changed.notify_all()

    def _drop(self, ref: Any, counter: str, fails: bool = True) -> None:
        with self._changed:
            self._calls.remove(ref)
            self._counts[counter] += 1
        self._failures += fails

    def _ask_if_missing(self, number: int) -> None:
        """Ask for a block again, unless it is there or another simulator has been asked for it."""
        if number >= self._wanted and number not in self._ready and not self._calls.count(number):
            self._ask(number)
