"""Measured seconds of a block and of a step on this machine, for `train.simulators auto` and for planning."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ndsm.core.global_state import threads
from ndsm.simulation import rollout
from ndsm.training.setup import TrainingSetup
from ndsm.training.step import Trainer


@dataclass(frozen=True)
class Costs:
    """Seconds of work of one worker and one simulator."""

    block: float
    """Seconds in which one CPU simulates a block."""
    own_block: float
    """Seconds in which the worker's device simulates a block."""
    step: float
    """Seconds of one optimiser step."""
    use: float
    """Seconds in which one worker consumes a block."""
    epsilon: float
    """Extra seconds of a step that updates ε; 0 if ε is fixed."""


def measure_costs(
    problem: TrainingSetup,
    data: np.ndarray,
    trainer: Trainer,
    world: int,
    seconds: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
) -> Costs:
    """Time blocks and a worker's steps for about `seconds` each; the trainer is not the same afterwards.

    Args:
        data: rows, (N, d) float32.
        world: workers that share a step's rows.
        clock: seconds so far, of the world or of this process.
    """
    limiter = problem.limiter(world)
    block = rollout(problem.spec, data, 0)
    device = trainer.device
    index = torch.arange(limiter.batch_rows) % len(block)
    rows = torch.from_numpy(block)[index].to(device)

    def step(number: int) -> None:
        trainer.steps = number
        # Reading a number waits for a GPU to have done its work.
        float(trainer.step(rows)[0])

    # A simulator has one CPU.
    with threads(1):
        block_seconds = own_seconds = _median_seconds(lambda: rollout(problem.spec, data, 0), seconds, clock)
    if device.type != "cpu":
        spec = problem.spec.on(device)
        own_seconds = _median_seconds(lambda: rollout(spec, data, 0), seconds, clock)
    step_seconds = _median_seconds(lambda: step(1), seconds, clock)
    learning = 0.0
    if trainer.epsilon.learns:
        # As at step 0.
        learning = max(0.0, _median_seconds(lambda: step(0), seconds, clock) - step_seconds)
    uses = limiter.block_rows * limiter.samples_per_insert / limiter.batch_rows
    return Costs(block_seconds, own_seconds, step_seconds, uses * step_seconds, learning)


def _median_seconds(action: Callable[[], object], seconds: float, clock: Callable[[], float]) -> float:
    """Median time of an action, repeated for about so long and at least three times, after one to warm up."""
    action()
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        started = clock()
        action()
        times.append(clock() - started)
    return float(np.median(times))
