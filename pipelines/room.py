"""What a run holds of the cluster: room for its workers, which comes first, and a place for each simulator.

Ray Train asks for its workers' room when it starts, and asks in vain if simulators have taken it before. So the room is held
by a placement group until Ray Train is about to start, and each simulator has a group of its own on a node: one that starts
again after a crash finds its place, and one whose node is lost waits for that node and takes no CPU that workers come back to.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import ray
from ray import PlacementGroupID
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from ndsm.config import Train
from pipelines.cluster import find_nodes
from pipelines.resources import Cluster, Node, Waiting, capacity, lack, spread

LOOK_SECONDS = 0.5
"""Between looks at what is free."""
PLACE_SECONDS = 5.0
"""Seconds to wait for a place that was free when it was asked for; another process may have been faster."""
SETTLE_SECONDS = 5.0
"""Seconds until resources of a process that has just ended are free again; a start looks again for missing places."""


@dataclass(frozen=True)
class Place:
    """A simulator's."""

    group: PlacementGroup
    node: str
    """The node's id."""


class Room:
    """Room of one run on the cluster; a context that gives it back.

    Args:
        found: what the cluster has.
        config: how many workers, and how long to wait.
        use_gpu: one GPU for each worker.
        window_bytes: of the blocks in flight of one simulator.
        data_bytes: of the training rows, of which each node that simulates has a copy.
        say: told what is waited for.
    """

    def __init__(
        self,
        found: Cluster,
        config: Train,
        use_gpu: bool,
        window_bytes: float,
        data_bytes: float,
        say: Callable[[str], None],
    ) -> None:
        self.worker_bundle = found.worker_resources(use_gpu, config.cpus_per_worker)
        self.simulator_bundle = found.simulator_resources()
        self._least, self._most = config.worker_range
        self._asked = self._least
        """Workers that Ray Train has asked for."""
        self._window, self._data = window_bytes, data_bytes
        self.waiting = Waiting(say, config.start_seconds)
        self.workers: PlacementGroup | None = None
        """Holds the workers' room until Ray Train takes it."""
        self.places: list[Place] = []
        """Places of the simulators."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.let_workers_in()
        for place in list(self.places):
            self.free(place)

    def wait(self, simulators: int) -> None:
        """Hold room for the least number of workers and, if there are to be simulators, for one to as many as asked for.

        Raises:
            Unfinished: `train.start_seconds` have passed.
        """
        self.workers = placement_group([self.worker_bundle] * self._least)
        wait_until_ready(self.workers, self.worker_bundle, self._least, self.waiting)
        # Beside as many workers as there may be, and only then where those would come to.
        self.take(simulators, self._least)
        deadline = time.monotonic() + SETTLE_SECONDS
        while len(self.places) < simulators and time.monotonic() < deadline:
            if not self.take(simulators - len(self.places)):
                time.sleep(LOOK_SECONDS)
        while simulators and not self.places:
            able = [node for node in find_nodes() if self._by_memory(node)]
            self.waiting.on(lack(able, self.simulator_bundle, 1) or "a place for a simulator")
            time.sleep(LOOK_SECONDS)
            self.take(simulators)
        self.waiting.over()

    def take(self, count: int, workers: int | None = None) -> list[Place]:
        """Up to `count` further places for simulators, as many as there is room for now.

        Args:
            workers: there are now; room for as many as there may be is left to them. Not if None.
        """
        chosen = self._choose(count, workers)
        asked = [
            Place(
                placement_group([self.simulator_bundle], bundle_label_selector=[{"ray.io/node-id": node}]),
                node,
            )
            for node in chosen
        ]
        if not asked:
            return []
        ready = {place.group.ready(): place for place in asked}
        done, late = ray.wait(list(ready), num_returns=len(ready), timeout=PLACE_SECONDS)
        for ref in late:
            remove_placement_group(ready[ref].group)
        found = [ready[ref] for ref in done]
        self.places += found
        return found

    def room(self, workers: int) -> int:
        """Simulators that there is room for beside as many workers as there may be, with those that are there.

        Args:
            workers: there are now.
        """
        return len(self.places) + len(self._choose(10_000, workers))

    def more_workers(self) -> int:
        """Workers that there is room for beyond the least number, while that is held and all simulators are placed."""
        free = sum(capacity(node.free, self.worker_bundle) for node in find_nodes())
        return min(self._most - self._least, free)

    def free(self, place: Place) -> None:
        """Give a place back."""
        self.places.remove(place)
        remove_placement_group(place.group)

    def lost(self) -> list[Place]:
        """Places whose node is gone."""
        # Apart from what is free of it, which Ray may know a moment later.
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        return [place for place in self.places if place.node not in alive]

    def in_the_way(self) -> list[Place]:
        """Places without which workers that wait for room would have it; as few as can be.

        Ray Train asks for as many workers as the nodes' CPUs allow, whoever holds them, and goes on asking: those are meant, or
        else, if there is no room for them in any case, the least number.
        """
        return self._without(self._asked) or self._without(self._least)

    def _without(self, workers: int) -> list[Place]:
        nodes = {node.id: dict(node.free) for node in find_nodes()}
        given: list[Place] = []
        room = sum(capacity(free, self.worker_bundle) for free in nodes.values())
        while room < workers:
            # On the node where fewest have to go for one worker more.
            choices = []
            for id, free in nodes.items():
                here = [place for place in self.places if place.node == id and place not in given]
                have = capacity(free, self.worker_bundle)
                for count in range(1, len(here) + 1):
                    if capacity(_with(free, self.simulator_bundle, count), self.worker_bundle) > have:
                        choices.append((count, id, here[:count]))
                        break
            if not choices:
                return []
            count, id, gone = min(choices, key=lambda choice: choice[:2])
            nodes[id] = _with(nodes[id], self.simulator_bundle, count)
            given += gone
            room += 1
        return given

    def let_workers_in(self) -> None:
        """Give the workers' room free for Ray Train, or for others if it is over."""
        if self.workers is not None:
            remove_placement_group(self.workers)
            self.workers = None

    def watch(self, controller: str | None) -> bool:
        """Return whether Ray Train's workers have no room; say so, and end the wait after a time.

        Args:
            controller: id of Ray Train's actor, which asks for their room; None before it has started.

        Raises:
            Unfinished: `train.start_seconds` have passed.
        """
        asked = None if controller is None else _bundles_waiting(controller)
        count = self._asked = max(asked or 0, self._least)
        missing = None if asked is None else lack(find_nodes(), self.worker_bundle, count, len(self.places))
        if missing is None:
            self.waiting.over()
            return False
        self.waiting.on(f"{missing}, for {count} training workers")
        return True

    def _choose(self, count: int, workers: int | None) -> list[str]:
        nodes = find_nodes()
        here = [place.node for place in self.places]
        most = {node.id: self._by_memory(node) - here.count(node.id) for node in nodes}
        kept = 0 if workers is None else max(0, self._most - workers)
        return spread(nodes, self.simulator_bundle, count, most, (self.worker_bundle, kept))

    def _by_memory(self, node: Node) -> int:
        return node.simulators_by_memory(self._window, self._data)


def _with(free: Mapping[str, float], bundle: Mapping[str, float], count: int) -> dict[str, float]:
    """Free resources once so many bundles are given back."""
    return dict(free) | {name: free.get(name, 0.0) + count * each for name, each in bundle.items()}


def wait_until_ready(
    group: PlacementGroup, bundle: Mapping[str, float], count: int, waiting: Waiting
) -> None:
    """Wait until a group of so many bundles has its room; it is removed if it gets none.

    Raises:
        Unfinished: it took too long.
    """
    ready = group.ready()
    try:
        # Before anything is said: a moment passes in any case.
        while not ray.wait([ready], timeout=LOOK_SECONDS)[0]:
            waiting.on(lack(find_nodes(), bundle, count) or f"room for {count} processes")
    except BaseException:
        remove_placement_group(group)
        raise
    waiting.over()


def wait_for_room(
    bundle: Mapping[str, float], count: int, seconds: float, say: Callable[[str], None]
) -> None:
    """Wait until so many bundles are free at the same time, and hold nothing.

    Args:
        bundle: what one process takes; 0 of a resource is as none.

    Raises:
        Unfinished: `seconds` have passed.
    """
    bundle = {name: each for name, each in bundle.items() if each}
    group = placement_group([bundle] * count)
    wait_until_ready(group, bundle, count, Waiting(say, seconds))
    remove_placement_group(group)


def remove_groups_of(actor: str) -> None:
    """Remove the placement groups of an actor that is dead: Ray itself does that when the driver ends."""
    for group in _groups(actor):
        remove_placement_group(PlacementGroup(PlacementGroupID(group.placement_group_id)))


def _bundles_waiting(actor: str) -> int | None:
    """Bundles in the placement groups that an actor waits for; None if it has one with room, 0 if it has none."""
    waiting = 0
    for group in _groups(actor):
        if group.state == gcs_pb2.PlacementGroupTableData.CREATED:
            return None
        waiting += len(group.bundles)
    return waiting


def _groups(actor: str) -> list[gcs_pb2.PlacementGroupTableData]:
    """Placement groups that an actor made and that are not removed; `ray.util.placement_group_table` does not say whose."""
    table = ray._private.state.state._connect_and_get_accessor().get_placement_group_table()
    groups = [gcs_pb2.PlacementGroupTableData.FromString(entry) for entry in table]
    removed = gcs_pb2.PlacementGroupTableData.REMOVED
    return [g for g in groups if g.creator_actor_id.hex() == actor and g.state != removed]
