"""The simulators of a run: how many it needs, and how many it has while nodes come and go."""

from collections.abc import Callable
from typing import Any

import numpy as np
import ray
import torch
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ndsm.training import TrainingSetup
from ndsm.training.calibration import Costs, measure_costs
from ndsm.workflows.resuming import start
from pipelines.coordinator import open_coordinator, sealed
from pipelines.handles import SimulatorHandle
from pipelines.resources import SimulatorScaling, remote_options, simulators_needed
from pipelines.room import Place, Room
from pipelines.simulators import start_simulators


class SimulatorPool:
    """The simulators of a run, and the coordinator that tells workers about them.

    Args:
        problem, data: what they simulate.
        room: has places for them; those that it has are used.
        count: to begin with; those without a place start when there is room.
        say: told how many have none.
    """

    def __init__(
        self,
        problem: TrainingSetup,
        data: Any,
        room: Room,
        count: int,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        config = problem.config.train
        self._spec, self._data, self._room, self._wanted = problem.spec, data, room, count
        for place in room.places[count:]:
            room.free(place)
        if len(room.places) < count:
            say(f"{len(room.places)} of {count} simulators have room; the others start when there is more")
        self._placed = self._start(list(room.places))
        self._leaving: list[tuple[SimulatorHandle, Place]] = []
        self._scaling = SimulatorScaling(1) if config.simulators == "auto" and count else None
        self._before: dict[str, Any] = {}
        self._workers = config.worker_range[0]
        self.coordinator = open_coordinator(self.handles)

    @property
    def handles(self) -> list[SimulatorHandle]:
        """Those in use."""
        return [handle for handle, _ in self._placed]

    def adapt(self, line: dict[str, Any]) -> None:
        """Have as many simulators as were asked for, or with `train.simulators auto` as a new line of metrics asks for."""
        # Those that left the coordinator a line ago are asked for nothing any more.
        self._end(self._leaving)
        self._leaving = []
        workers = line["workers"]
        # Workers that a lost node took with it come back with another one.
        self._workers = max(self._workers, workers)
        before = self.handles
        self._replace_lost(workers)
        self._scale(line)
        if self.handles != before:
            self.coordinator.set_simulators.remote(sealed(self.handles))

    def _replace_lost(self, workers: int) -> None:
        """Start those anew whose node is gone, and those that had no place, as far as there is room now."""
        if not self._placed:
            # Workers that simulate by themselves would not use them.
            return
        lost = self._room.lost()
        missing = self._wanted - len(self._placed) + len(lost)
        if missing <= 0:
            return
        places = self._room.take(missing, None if workers >= self._workers else workers)
        # Without another one in its place a lost simulator stays on the coordinator: a list without any means something else.
        gone = [pair for pair in self._placed if pair[1] in lost][: len(places)]
        self._placed = [pair for pair in self._placed if pair not in gone] + self._start(places)
        self._leaving += gone

    def make_way(self) -> str | None:
        """Give places up that workers wait for; a sentence if there were any.

        The workers find a shorter list when they start; without any simulator on it each simulates by itself.
        """
        gone = self._room.in_the_way()
        if not gone:
            return None
        leaving = [pair for pair in self._placed if pair[1] in gone]
        self._placed = [pair for pair in self._placed if pair[1] not in gone]
        self.coordinator.set_simulators.remote(sealed(self.handles))
        self._end(leaving)
        those = (
            f"{len(self._placed)} of {self._wanted} simulators stay"
            if self._placed
            else "workers simulate by themselves"
        )
        return f"{len(leaving)} of the run's simulators leave their CPUs to the workers that wait for room: {those}"

    def come_back(self) -> None:
        """Start simulators again after all of them have made way, where there is room beside the workers; none are at work."""
        if not self._placed and self._wanted:
            self._placed = self._start(self._room.take(self._wanted, 0))
            if self._placed:
                self.coordinator.set_simulators.remote(sealed(self.handles))

    def _scale(self, line: dict[str, Any]) -> None:
        before, self._before = self._before, line
        if (
            self._scaling is None
            or not self._placed
            or line["seconds"] <= before.get("seconds", line["seconds"])
        ):
            return
        seconds = line["seconds"] - before["seconds"]
        worked = max(0.0, line["simulator_seconds"] - before["simulator_seconds"])
        count = len(self._placed)
        # Nodes, and what others use of them, come and go.
        most = self._room.room(line["workers"])
        self._wanted = self._scaling.decide(count, line["stall_fraction"], worked / seconds / count, most)
        self._leaving += self._placed[self._wanted :]
        places = self._room.take(self._wanted - count, line["workers"]) if self._wanted > count else []
        self._placed = self._placed[: self._wanted] + self._start(places)

    def _start(self, places: list[Place]) -> list[tuple[SimulatorHandle, Place]]:
        if not places:
            return []
        groups = [place.group for place in places]
        handles = start_simulators(len(places), self._spec, self._data, self._room.simulator_bundle, groups)
        return list(zip(handles, places, strict=True))

    def stop(self) -> None:
        """End all of them."""
        self._end(self._placed + self._leaving)
        ray.kill(self.coordinator)

    def _end(self, placed: list[tuple[SimulatorHandle, Place]]) -> None:
        for handle, place in placed:
            handle.stop()
            self._room.free(place)


def workers_problem(problem: TrainingSetup, use_gpu: bool) -> TrainingSetup:
    """A run's problem as its workers get it: Ray does not hide a machine's GPUs from a worker that was given none."""
    return problem.with_device("cuda" if use_gpu else "cpu")


def as_worker(function: Callable[..., Any], room: Room, *args: Any) -> Any:
    """Run a function in a task with the resources of a training worker, in the room held for one, and return its result."""

    def work(*args: Any) -> Any:
        torch.set_num_threads(cpus)
        return function(*args)

    assert room.workers is not None
    cpus = int(room.worker_bundle["CPU"])
    there = PlacementGroupSchedulingStrategy(room.workers)
    task = ray.remote(**remote_options(room.worker_bundle), scheduling_strategy=there)(work)
    return ray.get(task.remote(*args))


def calibrated(
    problem: TrainingSetup, data: Any, room: Room, use_gpu: bool, say: Callable[[str], None]
) -> int:
    """Simulators that the run needs, by the measured costs of a block and of a step; 0 for none.

    Args:
        data: reference to the training rows.
        room: holds the workers' room; places are taken for as many simulators.
        say: is told what was measured and decided.
    """
    least, most = problem.config.train.worker_range
    workers = workers_problem(problem, use_gpu)

    def measure(data: np.ndarray) -> Costs:
        return measure_costs(workers, data, start(workers, None, least)[0], least)

    costs: Costs = as_worker(measure, room, data)
    # Workers of the least number have their room already.
    count = simulators_needed(costs.block, costs.use, most, max(1, room.room(least)), costs.own_block)
    room.take(count - len(room.places), least)
    say(
        f"train.simulators auto: a block takes {costs.block:.3g} s and is used up in {costs.use:.3g} s, steps take "
        f"{costs.step:.3g} s: {f'{count} simulators' if count else 'each worker simulates by itself'}"
    )
    return count
