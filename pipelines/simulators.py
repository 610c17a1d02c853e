"""Rollout actors: block = f(index), and nothing else.

A simulator holds the data (shared memory, not a copy), the mixture and the grid. It has no random state and
never sees the network, so a call that is retried on another machine after a crash returns the identical block.
"""

import os
import time
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
import ray
import torch

from ndsm.errors import InputError, described
from ndsm.simulation import RolloutSpec, rollout
from pipelines.handles import BlockFailed, SimulatorHandle
from pipelines.resources import remote_options
from pipelines.versions import check_software, software


class Block(TypedDict):
    """What a simulator returns."""

    rows: np.ndarray
    """(spec.rows, width) float32."""
    index: int
    stamp: str
    """The simulator's (data, mixture, process, grid)."""
    life: int
    """Differs between the lives of an actor that was restarted."""
    seconds: float
    """Time spent on it."""


class Simulator:
    """Simulates blocks on one CPU.

    Args:
        driver: the driver's `software()`.
    """

    def __init__(self, driver: dict[str, str]) -> None:
        # One CPU is what the actor asks Ray for; more threads would take the trainer's.
        torch.set_num_threads(1)
        self._driver = driver
        self._inputs: tuple[RolloutSpec, np.ndarray] | None = None

    def block(self, index: int, inputs: list[Any]) -> Block:
        """Block number `index`.

        Args:
            inputs: references to the spec (process, grid and what is recorded) and to the rows that trajectories start from.

        Raises:
            InputError: this node has other software than the driver.
            BlockFailed: the simulation failed.
        """
        if self._inputs is None:
            # Here and not in the constructor, whose errors Ray would answer by starting the actor again.
            check_software(self._driver)
            spec, rows = ray.get(inputs)
            self._inputs = spec, rows
        spec, data = self._inputs
        started = time.perf_counter()
        try:
            rows = rollout(spec, data, index)
        except Exception as error:
            raise BlockFailed(index, described(error), isinstance(error, InputError)) from error
        return {
            "rows": rows,
            "index": index,
            "stamp": spec.stamp,
            "life": os.getpid(),
            "seconds": time.perf_counter() - started,
        }


def start_simulators(
    count: int,
    spec: RolloutSpec,
    data: Any,
    resources: Mapping[str, float] = {"CPU": 1.0},
    strategies: Sequence[Any] | None = None,
) -> list[SimulatorHandle]:
    """`count` simulators; `data` refers to the (N, d) float32 rows, which each node fetches once.

    Returned blocks belong to the caller of `block`, so a dead trainer's blocks are freed with it; the actors
    end with the driver.

    Args:
        resources: of each.
        strategies: Ray's scheduling strategy for each; anywhere if not given.
    """
    actor = ray.remote(**remote_options(resources), max_restarts=-1, max_task_retries=-1)(Simulator)
    inputs = [ray.put(spec), data]
    # "DEFAULT" is said explicitly: started from a trial of Ray Tune they would have to fit into what the trial itself holds.
    there = ["DEFAULT"] * count if strategies is None else strategies
    return [
        SimulatorHandle(actor.options(scheduling_strategy=strategy).remote(software()), inputs)
        for strategy in there
    ]
