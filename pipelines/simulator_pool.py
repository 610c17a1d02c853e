"""The simulators of a run: how many it needs, and how many it has while nodes come and go."""

from collections.abc import Callable
from typing import Any

import numpy as np
import ray
import torch

from ndsm.experiment import start
from ndsm.training import Problem
from ndsm.training.calibration import Costs, measure_costs
from pipelines.board import open_board
from pipelines.handles import SimulatorHandle
from pipelines.resources import Cluster, SimulatorScaling, simulators_needed
from pipelines.simulators import start_simulators


class SimulatorPool:
    """The simulators of a run, and the board that tells workers about them.

    Args:
        problem, data: what they simulate.
        found: what the cluster has.
        count: to begin with.
    """

    def __init__(self, problem: Problem, data: Any, found: Cluster, count: int) -> None:
        self._problem, config = problem, problem.config.train
        self._start = lambda n: start_simulators(n, problem.spec, data, found.simulator_resources())
        self._handles: list[SimulatorHandle] = self._start(count)
        self._leaving: list[SimulatorHandle] = []
        self._scaling = SimulatorScaling(1) if config.simulators == "auto" and count else None
        self._before: dict[str, Any] = {}
        self.board = open_board(self._handles)

    def adapt(self, line: dict[str, Any]) -> None:
        """Have as many simulators as a new line of metrics asks for, with `train.simulators auto`."""
        before, self._before = self._before, line
        if self._scaling is None or line["seconds"] <= before.get("seconds", line["seconds"]):
            return
        seconds = line["seconds"] - before["seconds"]
        worked = max(0.0, line["simulator_seconds"] - before["simulator_seconds"])
        count = len(self._handles)
        # Nodes come and go.
        most = room_for_simulators(self._problem, Cluster.of(ray.cluster_resources()))
        wanted = self._scaling.decide(count, line["stall_fraction"], worked / seconds / count, most)
        # Those that left the board a line ago are asked for nothing any more.
        self._end(self._leaving)
        self._leaving = self._handles[wanted:]
        if wanted != count:
            self._handles = self._handles[:wanted] + self._start(max(0, wanted - count))
            self.board.set_simulators.remote(self._handles)

    def stop(self) -> None:
        """End all of them."""
        self._end(self._handles + self._leaving)
        ray.kill(self.board)

    def _end(self, handles: list[SimulatorHandle]) -> None:
        for handle in handles:
            handle.stop()


def room_for_simulators(problem: Problem, found: Cluster) -> int:
    """Simulators that fit beside as many workers as the run may have."""
    config = problem.config.train
    return found.room_for_simulators(config.worker_range[1], config.window * problem.spec.block_bytes)


def workers_problem(problem: Problem, use_gpu: bool) -> Problem:
    """A run's problem as its workers get it: Ray does not hide a machine's GPUs from a worker that was given none."""
    return problem.with_device("cuda" if use_gpu else "cpu")


def as_worker(function: Callable[..., Any], found: Cluster, use_gpu: bool, *args: Any) -> Any:
    """What a function gives in a task with what a training worker asks for."""

    def work(*args: Any) -> Any:
        torch.set_num_threads(1)
        return function(*args)

    resources = found.worker_resources(use_gpu)
    cpus, gpus = resources.pop("CPU"), resources.pop("GPU", 0)
    # As a simulator: a trial of Ray Tune holds no room for it.
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, resources=resources, scheduling_strategy="DEFAULT")(work)
    return ray.get(task.remote(*args))


def calibrated(problem: Problem, data: Any, found: Cluster, use_gpu: bool, say: Callable[[str], None]) -> int:
    """Simulators that the run needs, by the measured costs of a block and of a step; 0 for none.

    Args:
        data: reference to the training rows.
        say: is told what was measured and decided.
    """
    least, most = problem.config.train.worker_range
    workers = workers_problem(problem, use_gpu)

    def measure(data: np.ndarray) -> Costs:
        return measure_costs(workers, data, start(workers, None, least)[0], least)

    costs: Costs = as_worker(measure, found, use_gpu, data)
    room = room_for_simulators(problem, found)
    count = simulators_needed(costs.block, costs.use, most, room, costs.own_block)
    say(
        f"train.simulators auto: a block takes {costs.block:.3g} s and is used up in {costs.use:.3g} s, steps take "
        f"{costs.step:.3g} s: {f'{count} simulators' if count else 'each worker simulates by itself'}"
    )
    return count
