"""Blocks from simulator actors, in order, for one training worker.

One thread keeps at most `window` blocks per simulator in flight or waiting; the training step takes them in the
order of their numbers and copies each once into its ring. A block that arrives early waits; how fast, how many
or how often broken the simulators are does not change which rows a step sees.
"""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError, RayTaskError

from pipelines.simulators import SimulatorHandle

MAX_FAILURES_IN_A_ROW = 5
"""After so many failed calls without one success the simulators are beyond help."""


class Ingest:
    """The in-flight window of one worker; a `BlockSource`.

    Args:
        simulators: handles; this worker's share.
        index_of: global index of this worker's block number.
        first: the first number.
        window: blocks per simulator in flight or waiting.
        stamp: blocks that carry another are dropped and asked for again.
    """

    def __init__(
        self,
        simulators: list[SimulatorHandle],
        index_of: Callable[[int], int],
        first: int,
        window: int,
        stamp: str,
    ) -> None:
        self._simulators, self._index_of, self._stamp = simulators, index_of, stamp
        self._limit = window * len(simulators)
        self._next_number = self._wanted = first
        self._pending: dict[Any, tuple[int, SimulatorHandle]] = {}
        self._ready: dict[int, np.ndarray] = {}
        self._changed = threading.Condition()
        self._stopped = False
        self._error: Exception | None = None
        self._received = self._retried = self._foreign = self._failures = self._restarts = 0
        self._lives: dict[Any, int] = {}
        self._thread = threading.Thread(target=self._run, daemon=True, name="ingest")
        self._thread.start()

    def take(self, number: int) -> np.ndarray:
        """Block `number`, (rows, width): a read-only view of shared memory, freed when it is dropped.

        Raises:
            Exception: what a simulator raised, or that all calls fail.
        """
        with self._changed:
            self._wanted = number
            self._changed.notify_all()
            self._changed.wait_for(lambda: number in self._ready or self._error is not None)
            if number not in self._ready:
                assert self._error is not None
                raise self._error
            self._wanted = number + 1
            self._changed.notify_all()
            return self._ready.pop(number)

    def counters(self) -> dict[str, int]:
        """Blocks received, asked for again after a failure, dropped for their stamp; restarts of simulators.

        Ray repeats the calls that a restarted simulator had in flight by itself: those are not counted as
        asked for again.
        """
        return {
            "blocks_received": self._received,
            "simulator_restarts": self._restarts,
            "blocks_retried": self._retried,
            "blocks_foreign": self._foreign,
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
                self._fill_window()
                if not self._pending:
                    with self._changed:
                        self._changed.wait(timeout=0.5)
                    continue
                done, _ = ray.wait(list(self._pending), num_returns=1, timeout=0.1)
                for ref in done:
                    self._receive(ref, *self._pending.pop(ref))
        except Exception as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _fill_window(self) -> None:
        busy = [simulator.actor for _, simulator in self._pending.values()]
        while self._next_number - self._wanted < self._limit:
            simulator = min(self._simulators, key=lambda s: busy.count(s.actor))
            busy.append(simulator.actor)
            self._ask(self._next_number, simulator)
            self._next_number += 1

    def _ask(self, number: int, simulator: SimulatorHandle) -> None:
        self._pending[simulator.block(self._index_of(number))] = (number, simulator)

    def _receive(self, ref: Any, number: int, simulator: SimulatorHandle) -> None:
        try:
            block = ray.get(ref)
        except RayTaskError as error:
            # The simulation itself failed; the same index would fail again, anywhere.
            raise error.cause from None
        except RayError as error:
            self._retried += 1
            self._failures += 1
            if self._failures >= MAX_FAILURES_IN_A_ROW:
                raise RuntimeError(
                    f"{self._failures} calls to simulators failed in a row, the last: {error}"
                ) from None
            self._ask(number, self._simulators[number % len(self._simulators)])
            return
        if block["stamp"] != self._stamp:
            self._foreign += 1
            self._failures += 1
            if self._failures >= MAX_FAILURES_IN_A_ROW:
                raise RuntimeError(
                    f"simulators return blocks of another run: expected stamp {self._stamp}, found {block['stamp']}"
                )
            self._ask(number, self._simulators[number % len(self._simulators)])
            return
        self._failures = 0
        self._restarts += self._lives.setdefault(simulator.actor, block["life"]) != block["life"]
        self._lives[simulator.actor] = block["life"]
        with self._changed:
            self._ready[number] = block["rows"]
            self._received += 1
            self._changed.notify_all()
