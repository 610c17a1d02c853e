"""Rollout actors: block = f(index), and nothing else.

A simulator holds the data (shared memory, not a copy), the mixture and the grid. It has no random state and
never sees the network, so a call that is retried on another machine after a crash returns the identical block.
"""

import os
from typing import Any, TypedDict

import numpy as np
import ray
import torch

from ndsm.processes import RolloutSpec, rollout


class Block(TypedDict):
    """What a simulator returns."""

    rows: np.ndarray
    """(spec.rows, width) float32."""
    index: int
    stamp: str
    """The simulator's (data, mixture, process, grid)."""
    life: int
    """Differs between the lives of an actor that was restarted."""


class Simulator:
    """Simulates blocks on one CPU.

    Args:
        spec: process, grid and what is recorded.
        data: (N, d) float32 rows, read-only in shared memory.
    """

    def __init__(self, spec: RolloutSpec, data: np.ndarray) -> None:
        # One CPU is what the actor asks Ray for; more threads would take the trainer's.
        torch.set_num_threads(1)
        self._spec, self._data = spec, data

    def block(self, index: int) -> Block:
        """Block number `index`."""
        rows = rollout(self._spec, self._data, index)
        return {"rows": rows, "index": index, "stamp": self._spec.stamp, "life": os.getpid()}


def start_simulators(count: int, spec: RolloutSpec, data: Any) -> list[Any]:
    """Handles of `count` simulators; `data` is an object reference, fetched once per node.

    Returned values belong to the caller of `block`, so a dead trainer's blocks are freed with it; the actors
    end with the driver.
    """
    actor = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(Simulator)
    return [actor.remote(spec, data) for _ in range(count)]
