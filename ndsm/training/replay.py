"""From simulators to batches: the ring, its limiter, and what a source of blocks in order is.

Blocks have one global order (their index is their random stream). Worker `rank` of `world` takes the indices
first_index + number · world + rank for number = 0, 1, ...; the ring of a resumed worker is filled again with
exactly the blocks it held.
"""

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ndsm.core.rng import torch_stream
from ndsm.training.limiter import SamplesPerInsert
from ndsm.training.ring_buffer import Ring

DRAWS_PER_STREAM = 64
"""Steps whose row choices come from one stream: seeding one per step would cost as much as drawing."""


COUNTERS = {
    "blocks_sent": "asked for",
    "blocks_received": "answers that were kept",
    "blocks_retried": "calls that failed; asked for again",
    "blocks_foreign": "answers dropped because they are another run's; asked for again",
    "blocks_duplicate": "answers dropped because the same block had come from another simulator",
    "blocks_lost": "on their way or waiting when the workers were started again",
    "blocks_in_flight": "not answered yet",
    "blocks_waiting": "received and not taken yet",
    "blocks_skipped": "blocks that could not be simulated, and that another one took the place of",
    "simulators": "simulators in use; 0: a thread of the worker",
    "simulator_restarts": "simulators that came back as a new process",
    "simulator_seconds": "time that simulators worked on the answers",
}
"""What a source counts since it was opened: sent = received + retried + foreign + duplicate + lost + in flight at any
time, and received = taken + waiting."""
OF_THE_MOMENT = ("blocks_in_flight", "blocks_waiting", "blocks_skipped", "simulators")
"""Counters of the present state; the others accumulate."""


def counts_after_restart(counts: dict[str, float]) -> dict[str, float]:
    """Cumulative counters for restarted workers: blocks that the workers before had not taken count as lost."""
    if not counts:
        return {}
    kept = {name: value for name, value in counts.items() if name not in OF_THE_MOMENT}
    kept["blocks_received"] -= counts["blocks_waiting"]
    kept["blocks_lost"] += counts["blocks_waiting"] + counts["blocks_in_flight"]
    return kept


class BlockSource(Protocol):
    """Blocks of one worker, in order, made ahead of time by someone else."""

    def take(self, number: int) -> np.ndarray:
        """Block `number` of this worker; called with consecutive numbers, waits until it is there."""
        ...

    def counters(self) -> dict[str, float]:
        """`COUNTERS` so far."""
        ...

    def close(self) -> None:
        """Stop making blocks."""
        ...


class Replay:
    """Batches of recorded rows for one worker.

    Args:
        open_source: starts the source at a block number.
        limiter: how often rows may be used.
        width: numbers per row.
        seed, rank: the stream (seed, "batch", rank) chooses rows.
        start_step: steps already taken since block number 0; the ring is refilled to that point.
        device: where the ring lives.
    """

    def __init__(
        self,
        open_source: Callable[[int], BlockSource],
        limiter: SamplesPerInsert,
        width: int,
        *,
        seed: int,
        rank: int = 0,
        start_step: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.limiter, self._seed, self._rank = limiter, seed, rank
        self.ring = Ring(limiter.ring_blocks, limiter.block_rows, width, device)
        self._next = max(0, limiter.blocks_for(start_step) - limiter.ring_blocks) if start_step else 0
        self._first = self._next
        self._reused = (limiter.blocks_for(start_step) if start_step else 0) - self._first
        self.source = open_source(self._next)
        self._device = torch.device(device)
        self._stream, self._fractions = -1, torch.empty(0)
        self.wait_seconds = 0.0
        """Time spent waiting for blocks."""

    @property
    def blocks_inserted(self) -> int:
        """Blocks inserted since block number 0."""
        return self._next

    def fill(self, step: int) -> None:
        """Wait for and insert the blocks that step number `step` needs."""
        while self._next < self.limiter.blocks_for(step + 1):
            started = time.perf_counter()
            block = self.source.take(self._next)
            self.wait_seconds += time.perf_counter() - started
            self.ring.insert(block, self._next)
            self._next += 1

    def batch(self, step: int) -> Tensor:
        """Rows of step number `step` (0 is the first since block number 0), (batch_rows, width).

        The same step gives the same rows, whatever happened to the process in between.
        """
        self.fill(step)
        stream, offset = divmod(step, DRAWS_PER_STREAM)
        if stream != self._stream:
            generator = torch_stream(self._seed, "batch", self._rank, stream)
            shape = (DRAWS_PER_STREAM, self.limiter.batch_rows)
            # float64: a float32 fraction cannot address every row of a ring of millions.
            self._fractions = torch.rand(shape, generator=generator, dtype=torch.float64).to(self._device)
            self._stream = stream
        return self.ring.draw(self._fractions[offset])

    def progress(self, step: int) -> dict[str, float]:
        """After `step` steps since block number 0: blocks inserted, and rows drawn per row inserted."""
        drawn = step * self.limiter.batch_rows
        return {
            "blocks_inserted": self._next,
            "samples_per_insert": drawn / (self._next * self.limiter.block_rows),
        }

    def counters(self) -> dict[str, float]:
        """Blocks taken from the source, those of them that had been in the ring before a restart; `COUNTERS`."""
        taken = self._next - self._first
        return {
            "blocks_taken": taken,
            "blocks_reused": min(taken, self._reused),
            **self.source.counters(),
        }
