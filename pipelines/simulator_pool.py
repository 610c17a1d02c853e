"""The simulators of a run: how many it needs, and how many it has while nodes come and go.

Where workers hold all CPUs that are left, no simulator has room, and workers would wait for blocks without an end. Then **guests** take
their place: simulators that ask Ray for nothing and run on the workers' CPUs. They are slow, but the blocks are those of every other
simulator, and a drift that crashes ends a guest's process and not a worker's.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy, PlacementGroupSchedulingStrategy

from ndsm.training import TrainingSetup
from ndsm.training.calibration import Costs, measure_costs
from ndsm.workflows.resuming import start
from pipelines.coordinator import open_coordinator, sealed
from pipelines.handles import SimulatorHandle
from pipelines.resources import SimulatorScaling, remote_options, simulators_needed
from pipelines.room import Place, Room
from pipelines.simulators import start_simulators

LEAVE_SECONDS = 10.0
"""Until a simulator that left the coordinator's list ends: by then no worker asks it for anything."""


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
        self._say = say
        self._placed = self._start(list(room.places))
        self._guests: list[SimulatorHandle] = []
        self._hosts: set[str] = set()
        """Nodes that guests were started for."""
        self._leaving: list[tuple[SimulatorHandle, Place | None, float]] = []
        self._scaling = SimulatorScaling(1) if config.simulators == "auto" and count else None
        self._before: dict[str, Any] = {}
        self._workers = config.worker_range[0]
        self.coordinator = open_coordinator(self.handles)

    @property
    def handles(self) -> list[SimulatorHandle]:
        """Those in use."""
        return [handle for handle, _ in self._placed] + self._guests

    def adapt(self, line: dict[str, Any]) -> None:
        """Have as many simulators as a new line of metrics asks for, with `train.simulators auto`."""
        # Workers that a lost node took with it come back with another one.
        self._workers = max(self._workers, line["workers"])
        before = self.handles
        self._scale(line)
        self._publish(before)

    def look(self, nodes: Sequence[str]) -> None:
        """Give up simulators whose node is gone, and start those that have no place, as far as there is room now.

        To be called every few seconds, also while workers wait for blocks; not while they wait for room.

        Args:
            nodes: ids of the workers' nodes, one for each worker; empty while none is at work.
        """
        self._end([entry for entry in self._leaving if time.monotonic() - entry[2] > LEAVE_SECONDS])
        if not self._wanted:
            return
        workers, before = len(nodes), self.handles
        self._workers = max(self._workers, workers)
        lost = self._room.lost()
        gone = [pair for pair in self._placed if pair[1] in lost]
        missing = self._wanted - len(self._placed) + len(gone)
        if missing > 0:
            # Room for the workers that may come back is left to them.
            places = self._room.take(missing, None if workers >= self._workers else workers)
            # A list without any is of no use to workers that may still be at work.
            if places or len(gone) < len(self._placed) or nodes:
                self._leave(gone)
                self._placed = [pair for pair in self._placed if pair not in gone] + self._start(places)
        if not self._placed and nodes:
            self._invite(nodes)
        # Workers go on with the guests while those that have room again load what they need.
        elif self._guests and any(handle.is_alive() for handle, _ in self._placed):
            self._dismiss()
            self._say(f"{len(self._placed)} of {self._wanted} simulators have room again")
        self._publish(before)

    def make_way(self) -> str | None:
        """Give places up that workers wait for; a sentence if there were any. The workers find a shorter list when they start."""
        # No worker is at work that could still ask them.
        self._end(list(self._leaving))
        gone = self._room.in_the_way()
        if not gone:
            return None
        before = self.handles
        leaving = [pair for pair in self._placed if pair[1] in gone]
        self._placed = [pair for pair in self._placed if pair[1] not in gone]
        self._publish(before)
        self._leave(leaving)
        self._end(list(self._leaving))
        return (
            f"{len(leaving)} of the run's simulators leave their CPUs to the workers that wait for room: "
            f"{len(self._placed)} of {self._wanted} stay"
        )

    def _publish(self, before: list[SimulatorHandle]) -> None:
        if self.handles != before:
            self.coordinator.set_simulators.remote(sealed(self.handles))

    def _invite(self, nodes: Sequence[str]) -> None:
        """Have a guest for each worker on its node."""
        if self._guests and self._hosts == set(nodes):
            return
        if not self._guests:
            self._say(
                f"no simulator has room: until one has, {len(nodes)} run on the workers' CPUs, which slows both"
            )
        self._dismiss()
        # One whose node is lost may come back on any, until this is called again.
        there = [NodeAffinitySchedulingStrategy(node, soft=True) for node in nodes]
        self._guests = start_simulators(len(nodes), self._spec, self._data, {"CPU": 0.0}, there)
        self._hosts = set(nodes)

    def _dismiss(self) -> None:
        now = time.monotonic()
        self._leaving += [(handle, None, now) for handle in self._guests]
        self._guests = []

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
        decided = self._scaling.decide(count, line["stall_fraction"], worked / seconds / count, most)
        if decided == count:
            # Those that were lost stay wanted.
            return
        self._wanted = decided
        self._leave(self._placed[self._wanted :])
        places = self._room.take(self._wanted - count, line["workers"]) if self._wanted > count else []
        self._placed = self._placed[: self._wanted] + self._start(places)

    def _start(self, places: list[Place]) -> list[tuple[SimulatorHandle, Place]]:
        if not places:
            return []
        there = [PlacementGroupSchedulingStrategy(place.group) for place in places]
        handles = start_simulators(len(places), self._spec, self._data, self._room.simulator_bundle, there)
        return list(zip(handles, places, strict=True))

    def stop(self) -> None:
        """End all of them."""
        self._leave(self._placed)
        self._dismiss()
        self._end(list(self._leaving))
        ray.kill(self.coordinator)

    def _leave(self, placed: Sequence[tuple[SimulatorHandle, Place]]) -> None:
        """Take note that these are to end once no worker asks them any more."""
        now = time.monotonic()
        self._leaving += [(handle, place, now) for handle, place in placed]

    def _end(self, leaving: Sequence[tuple[SimulatorHandle, Place | None, float]]) -> None:
        self._leaving = [entry for entry in self._leaving if entry not in leaving]
        for handle, place, _ in leaving:
            handle.stop()
            if place is not None:
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
