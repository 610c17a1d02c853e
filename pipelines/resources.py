"""What a run asks of the cluster, against what the cluster has."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ndsm.errors import InputError, Unfinished

if TYPE_CHECKING:
    # Simulators import this module too, and have no use for the configuration.
    from ndsm.config import Train

STORE_SHARE = 0.3
"""Share of the object store that blocks in flight may take: more, and Ray spills them to disk."""
TRAINER, SIMULATOR = "trainer", "sim"
"""Custom resources, one for each worker and simulator. Where a cluster offers one, they run only where it is: Ray Train
counts the nodes' whole CPUs, also those that simulators hold, when it decides how many workers fit."""


@dataclass(frozen=True)
class Node:
    """A machine of the cluster; resources by Ray's names."""

    id: str
    name: str
    """Host name and address."""
    total: Mapping[str, float]
    """Resources of the node."""
    free: Mapping[str, float]
    """Resources that nobody holds now."""

    @property
    def object_store(self) -> float:
        """Bytes."""
        return self.total.get("object_store_memory", 0.0)

    def simulators_by_memory(self, window_bytes: float, data_bytes: float) -> int:
        """Simulators whose blocks in flight fit its object store beside a whole copy of the training rows."""
        room = min(STORE_SHARE * self.object_store, self.object_store - data_bytes)
        return max(0, int(room / window_bytes)) if window_bytes else 0


@dataclass(frozen=True)
class Cluster:
    """Resources of a cluster."""

    cpus: float
    gpus: float
    object_store: float
    """Bytes."""
    trainers: float | None = None
    """Of the custom resource `trainer`; None if the cluster does not offer it."""
    simulators: float | None = None
    """Of the custom resource `sim`."""
    dashboard: str | None = None
    """Address of Ray's dashboard, if it runs and this process has connected to the cluster."""
    metrics: str | None = None
    """Address of this node's metrics for Prometheus, likewise."""
    nodes: tuple[Node, ...] = ()
    """Its machines; if none are given, all of it counts as one."""

    @classmethod
    def of(
        cls,
        resources: dict[str, float],
        dashboard: str | None = None,
        metrics: str | None = None,
        nodes: Sequence[Node] = (),
    ) -> "Cluster":
        """Return the cluster that `ray.cluster_resources()` describes."""
        return cls(
            resources.get("CPU", 0),
            resources.get("GPU", 0),
            resources.get("object_store_memory", 0),
            resources.get(TRAINER),
            resources.get(SIMULATOR),
            dashboard,
            metrics,
            tuple(nodes),
        )

    def tell(self, say: Callable[[str], None]) -> None:
        """Say where the cluster can be watched, if this process has connected to it."""
        if self.dashboard:
            say(f"Ray dashboard: {self.dashboard}")
        if self.metrics:
            say(f"Metrics for Prometheus: {self.metrics}")

    def worker_resources(self, use_gpu: bool, cpus: int = 1) -> dict[str, float]:
        """Return the resources that each training worker asks for.

        Args:
            cpus: `train.cpus_per_worker`.
        """
        found = {"CPU": float(cpus)}
        if use_gpu:
            found["GPU"] = 1.0
        if self.trainers is not None:
            found[TRAINER] = 1.0
        return found

    def simulator_resources(self) -> dict[str, float]:
        """Return the resources that each simulator asks for."""
        return {"CPU": 1.0} if self.simulators is None else {"CPU": 1.0, SIMULATOR: 1.0}


def gpu_of_each(cluster: Cluster, device: str, processes: int) -> int:
    """GPUs that Ray reserves for each of so many processes: 1, or 0 where they are to work on the CPU.

    Ray hides no GPU from a process that reserved none, and all such processes would work on the first one.

    Args:
        device: of the run, as `train.device`.
        processes: that are there at once.
    """
    return int(device != "cpu" and cluster.gpus >= max(1, processes))


def check_budget(
    cluster: Cluster, train: "Train", simulators: int, block_bytes: int, data_bytes: int, use_gpu: bool
) -> None:
    """Raise an error if simulators, the least number of workers, the training rows and blocks in flight do not fit the cluster.

    Args:
        simulators: to begin with.
        block_bytes, data_bytes: of a block and of all training rows, of which each node that simulates has a whole copy.

    Raises:
        InputError: they do not; one sentence with what to change. Ray itself would wait for ever.
    """
    workers, most = train.worker_range
    needed = simulators + workers * train.cpus_per_worker
    if needed > cluster.cpus:
        each = f" of {train.cpus_per_worker} CPUs" if train.cpus_per_worker > 1 else ""
        raise InputError(
            f"the cluster has {cluster.cpus:g} CPUs, but {simulators} simulators and {workers} training "
            f"workers{each} need {needed}; lower train.simulators or train.workers, add nodes, or use --local"
        )
    if use_gpu and workers > cluster.gpus:
        raise InputError(
            f"the cluster has {cluster.gpus:g} GPUs, but {workers} training workers on cuda need {workers}; "
            "lower train.workers or set train.device cpu"
        )
    for name, needed, there in (
        (TRAINER, workers, cluster.trainers),
        (SIMULATOR, simulators, cluster.simulators),
    ):
        if there is not None and needed > there:
            raise InputError(
                f"the cluster has {there:g} of the resource '{name}', but the run needs {needed}; lower train.workers or "
                "train.simulators, or add nodes that offer it"
            )
    # A worker without a simulator of its own shares one, with a window of its own.
    windows = max(simulators, most) if simulators else 0
    in_flight = train.window * windows * block_bytes
    room = STORE_SHARE * cluster.object_store
    if in_flight > room:
        raise InputError(
            f"blocks in flight would take {in_flight / 2**20:.0f} MB (train.window {train.window} x "
            f"{windows} simulators x {block_bytes / 2**20:.1f} MB), but only {room / 2**20:.0f} MB, 30 % of the "
            "object store, are meant for them; lower train.window, train.simulators or train.block_mb"
        )
    if data_bytes > cluster.object_store - in_flight:
        raise InputError(
            f"the training rows take {data_bytes / 2**20:.0f} MB, more than the object store's "
            f"{cluster.object_store / 2**20:.0f} MB beside the blocks in flight; lower data.n or enlarge the object store"
        )
    _check_nodes(cluster, train, simulators, train.window * block_bytes, data_bytes, use_gpu)


def _check_nodes(
    cluster: Cluster, train: "Train", simulators: int, window_bytes: int, data_bytes: int, use_gpu: bool
) -> None:
    """Raise `InputError` if too few nodes have an object store for a whole copy of the rows: stores do not add up."""
    able = [n for n in cluster.nodes if capacity(n.total, cluster.simulator_resources())]
    fitting = sum(
        min(
            capacity(n.total, cluster.simulator_resources()), n.simulators_by_memory(window_bytes, data_bytes)
        )
        for n in able
    )
    short = [n for n in able if not n.simulators_by_memory(window_bytes, data_bytes)]
    if simulators <= fitting or not short:
        short = []
    if train.simulators in (0, "auto"):
        # Workers may simulate by themselves, on whatever node they come to.
        bundle = cluster.worker_resources(use_gpu, train.cpus_per_worker)
        workers = [n for n in cluster.nodes if capacity(n.total, bundle)]
        short += [n for n in workers if data_bytes > n.object_store]
    if short:
        best = max(short, key=lambda node: node.object_store)
        raise InputError(
            f"the training rows take {data_bytes / 2**20:.0f} MB, of which every node that simulates needs a whole copy beside "
            f"its blocks in flight, but the object store of node {best.name} has {best.object_store / 2**20:.0f} MB; lower "
            "data.n, or start the node with a larger --object-store-memory"
        )


def capacity(resources: Mapping[str, float], bundle: Mapping[str, float]) -> int:
    """How often a node's resources hold a bundle."""
    return min(int(resources.get(name, 0.0) / each + 1e-9) for name, each in bundle.items() if each)


def remote_options(bundle: Mapping[str, float]) -> dict[str, Any]:
    """The options of `ray.remote` by which a task or an actor takes a bundle, which has CPUs."""
    others = {name: each for name, each in bundle.items() if name not in ("CPU", "GPU")}
    return {"num_cpus": bundle["CPU"], "num_gpus": bundle.get("GPU", 0), "resources": others}


def without(resources: Mapping[str, float], bundle: Mapping[str, float]) -> dict[str, float]:
    """Resources that are left beside a bundle."""
    return dict(resources) | {name: resources.get(name, 0.0) - each for name, each in bundle.items()}


def lack(nodes: Sequence[Node], bundle: Mapping[str, float], count: int, own: float = 0.0) -> str | None:
    """Return which resources of `count` bundles are not free, such as "2 CPU: 3 of 4 in use by others"; None if all of it is.

    Args:
        own: CPUs among those in use that are this run's.
    """
    if sum(capacity(node.free, bundle) for node in nodes) >= count:
        return None
    for name, each in bundle.items():
        total, free = (
            sum(r.get(name, 0.0) for r in rs) for rs in ([n.total for n in nodes], [n.free for n in nodes])
        )
        if free < (needed := each * count):
            held = own if name == "CPU" else 0.0
            others = f"{max(0.0, total - free - held):g} of {total:g} in use by others"
            return f"{needed:g} {name}: {others}" + (f", {held:g} by this run" if held else "")
    words = " and ".join(f"{each:g} {name}" for name, each in bundle.items())
    return f"{words} on one node, {count} times: what is free is on different nodes"


def spread(
    nodes: Sequence[Node],
    bundle: Mapping[str, float],
    count: int,
    most: Mapping[str, int],
    kept: tuple[Mapping[str, float], int] = ({}, 0),
) -> list[str]:
    """Ids of the nodes for up to `count` bundles: each goes to the node with the most room left.

    Args:
        most: bundles that a node may take; none if it is not named.
        kept: another bundle, and how many of it are to find room afterwards.
    """
    free = {node.id: dict(node.free) for node in nodes}
    keep, times = kept
    for _ in range(times):
        fits = [id for id in free if capacity(free[id], keep)]
        if fits:
            # Where the others have least room.
            chosen = min(fits, key=lambda id: (capacity(free[id], bundle), id))
            free[chosen] = without(free[chosen], keep)
    left, found = dict(most), []
    for _ in range(count):
        fits = [id for id in free if left.get(id, 0) > 0 and capacity(free[id], bundle)]
        if not fits:
            break
        chosen = max(fits, key=lambda id: (capacity(free[id], bundle), id))
        free[chosen] = without(free[chosen], bundle)
        left[chosen] -= 1
        found.append(chosen)
    return found


WAIT_SECONDS = 60.0
"""After which a wait is told of again."""


class Waiting:
    """Tells what is waited for: at once, when it changes, and each minute; and ends the wait.

    Args:
        say: told.
        limit: seconds, after which the wait is given up.
        clock: seconds, never going back.
    """

    def __init__(
        self, say: Callable[[str], None], limit: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._say, self._limit, self._clock = say, limit, clock
        self._since: float | None = None
        self._said, self._said_at = "", 0.0

    def on(self, what: str) -> None:
        """Wait on for `what`.

        Raises:
            Unfinished: the limit has passed.
        """
        now = self._clock()
        self._since = now if self._since is None else self._since
        if now - self._since >= self._limit:
            raise Unfinished(
                f"gave up after train.start_seconds ({self._limit:g} s) of waiting for {what}; the same command tries again"
            )
        if what != self._said or now - self._said_at >= WAIT_SECONDS:
            self._say(f"waiting for {what}")
            self._said, self._said_at = what, now

    @property
    def seconds(self) -> float:
        """For how long it has lasted; 0 if nothing is waited for."""
        return 0.0 if self._since is None else self._clock() - self._since

    def over(self) -> None:
        """End the wait."""
        self._since, self._said = None, ""


IN_WORKER = 0.1
"""A worker simulates by itself if that takes less than this share of a step: an actor would cost more than it saves."""
MARGIN = 1.25
"""Simulators are to be able to make so many times what the workers use."""


def simulators_needed(
    block_seconds: float, use_seconds: float, workers: int, most: int, own_seconds: float | None = None
) -> int:
    """Simulators with which the workers do not wait; 0 if each worker should simulate by itself.

    Args:
        block_seconds: of one CPU to simulate a block.
        use_seconds: in which one worker uses a block up.
        most: simulators that there is room for.
        own_seconds: of a worker's own device to simulate a block, if that is not such a CPU.
    """
    load = block_seconds / use_seconds
    own = load if own_seconds is None else own_seconds / use_seconds
    return 0 if own <= IN_WORKER else min(most, max(1, math.ceil(MARGIN * load * workers)))


class SimulatorScaling:
    """How many simulators to have, from how long workers wait and simulators work; a policy without clocks or actors.

    Args:
        least: simulators to have in any case.
    """

    STALL = 0.02
    """Share of the time that workers may wait."""
    IDLE = 0.6
    """Simulators that work less than this share of the time are too many."""
    AGREE = 3
    """Reports in a row that must ask for the same direction: a single one may be a hiccup."""

    def __init__(self, least: int) -> None:
        self.least = least
        self._same = 0

    def decide(self, count: int, stall: float, busy: float, most: int) -> int:
        """Simulators to have from now on.

        Args:
            count: simulators there are.
            stall: share of the time since the last report that the worker who waited most waited for blocks.
            busy: share of the time that each simulator worked, on average.
            most: simulators that there is room for now.
        """
        wanted = count
        if stall > self.STALL:
            # Workers took 1 - stall of what they could; whoever is not busy would not help by being more.
            wanted = math.ceil(count / (1 - min(stall, 0.5))) if busy > self.IDLE else count
        elif busy < self.IDLE:
            wanted = math.ceil(MARGIN * busy * count)
        wanted = min(most, max(self.least, wanted))
        direction = (wanted > count) - (wanted < count)
        self._same = direction if direction * self._same <= 0 else self._same + direction
        if abs(self._same) < self.AGREE:
            return count
        self._same = 0
        return wanted
