"""Blocks that one thread of this process makes ahead of time."""

import math
import queue
import threading
import time
from collections.abc import Callable

import numpy as np

from ndsm.training.replay import COUNTERS

CLOSE_SECONDS = 2.0
"""How long the block that is being made is waited for at the end: who is to end has little time, and one whose drift hangs never
returns."""


class ThreadSource:
    """Blocks made by one thread of this process, at most `window` ahead.

    Args:
        make: the block of a number, (rows, width).
        first: the first number.
        window: finished blocks that may wait.
        failed: given the number of a block that could not be made and why; returns if it is to be tried again, and what it
            raises is raised by `take`. If None, the error itself is.
        limit: seconds after which a block that `take` waits for counts as one that hangs. Its thread cannot be ended and is left
            to itself; another one takes its place.
        skipped: number of blocks that were left out, for the counters.
    """

    def __init__(
        self,
        make: Callable[[int], np.ndarray],
        first: int,
        window: int,
        failed: Callable[[int, Exception], None] | None = None,
        limit: float = math.inf,
        skipped: Callable[[], int] = lambda: 0,
    ) -> None:
        self._make, self._failed, self._limit, self._skipped = make, failed, limit, skipped
        self._ready: queue.Queue[np.ndarray | Exception] = queue.Queue(maxsize=window)
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._number = first
        self._since: float | None = None
        self._made = self._taken = self._retried = 0
        self._seconds = 0.0
        self._error: Exception | None = None
        self._thread = self._start()

    def _start(self) -> threading.Thread:
        thread = threading.Thread(target=self._run, daemon=True, name="rollouts")
        self._thread = thread
        thread.start()
        return thread

    def _is_current(self) -> bool:
        return self._thread is threading.current_thread()

    def _run(self) -> None:
        while not self._stop.is_set():
            number, started = self._number, time.perf_counter()
            self._since = time.monotonic()
            item: np.ndarray | Exception | None
            try:
                item = self._make(number)
            except Exception as error:
                item = error
            with self._lock:
                if not self._is_current():
                    # It was given up; another thread is making the block, or has made it.
                    return
                self._since = None
                self._seconds += time.perf_counter() - started
                if isinstance(item, Exception):
                    item = self._verdict(number, item)
                    self._retried += item is None
                if item is None:
                    continue
                self._made, self._number = self._made + 1, number + 1
            self._put(item)
            if isinstance(item, Exception):
                return

    def _verdict(self, number: int, error: Exception) -> Exception | None:
        """What `take` is to raise for a block that failed; None if it is to be tried again."""
        if self._failed is None:
            return error
        try:
            self._failed(number, error)
        except Exception as final:
            final.__cause__ = error
            return final
        return None

    def _put(self, item: np.ndarray | Exception) -> None:
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=0.2)
                return
            except queue.Full:
                continue

    def take(self, number: int) -> np.ndarray:
        """The next block; it is `number` because blocks are made and taken in order."""
        while self._error is None:
            try:
                item = self._ready.get(timeout=min(1.0, self._limit))
            except queue.Empty:
                self._give_up_if_it_hangs()
                continue
            if not isinstance(item, Exception):
                self._taken += 1
                return item
            self._error = item
        raise self._error

    def _give_up_if_it_hangs(self) -> None:
        with self._lock:
            if self._since is None or time.monotonic() - self._since < self._limit:
                return
            error = TimeoutError(f"the simulation did not return in {self._limit:g} s")
            self._error, self._retried = self._verdict(self._number, error), self._retried + 1
            if self._error is None:
                self._start()

    def counters(self) -> dict[str, float]:
        """`COUNTERS`."""
        made, retried = self._made, self._retried
        return dict.fromkeys(COUNTERS, 0) | {
            "blocks_sent": made + retried,
            "blocks_received": made,
            "blocks_retried": retried,
            "blocks_waiting": made - self._taken,
            "blocks_skipped": self._skipped(),
            "simulator_seconds": self._seconds,
        }

    def close(self) -> None:
        """Stop the thread and wait for its current block, unless that takes long."""
        self._stop.set()
        self._thread.join(timeout=CLOSE_SECONDS)
