"""What a run asks of the cluster, against what the cluster has."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from ndsm.config import Train
from ndsm.errors import InputError

STORE_SHARE = 0.3
"""Share of the object store that blocks in flight may take: more, and Ray spills them to disk."""
TRAINER, SIMULATOR = "trainer", "sim"
"""Custom resources, one for each worker and simulator. Where a cluster offers one, they run only where it is: Ray Train
counts the nodes' whole CPUs, also those that simulators hold, when it decides how many workers fit."""


@dataclass(frozen=True)
class Cluster:
    """What there is."""

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

    @classmethod
    def of(
        cls, resources: dict[str, float], dashboard: str | None = None, metrics: str | None = None
    ) -> "Cluster":
        """From what `ray.cluster_resources()` returns."""
        return cls(
            resources.get("CPU", 0),
            resources.get("GPU", 0),
            resources.get("object_store_memory", 0),
            resources.get(TRAINER),
            resources.get(SIMULATOR),
            dashboard,
            metrics,
        )

    def tell(self, say: Callable[[str], None]) -> None:
        """Say where the cluster can be watched, if this process has connected to it."""
        if self.dashboard:
            say(f"Ray dashboard: {self.dashboard}")
        if self.metrics:
            say(f"Metrics for Prometheus: {self.metrics}")

    def worker_resources(self, use_gpu: bool) -> dict[str, float]:
        """What each training worker asks for."""
        found = {"CPU": 1.0}
        if use_gpu:
            found["GPU"] = 1.0
        if self.trainers is not None:
            found[TRAINER] = 1.0
        return found

    def simulator_resources(self) -> dict[str, float]:
        """Custom resources of each simulator, beside its CPU."""
        return {} if self.simulators is None else {SIMULATOR: 1.0}

    def room_for_simulators(self, workers: int, window_bytes: int) -> int:
        """Simulators that fit beside so many workers, with `window_bytes` in flight each; at least 1."""
        room = min(self.cpus - workers, STORE_SHARE * self.object_store / window_bytes)
        return max(1, int(room if self.simulators is None else min(room, self.simulators)))


def gpu_of_each(cluster: Cluster, device: str, processes: int) -> int:
    """GPUs that Ray reserves for each of so many processes: 1, or 0 where they are to work on the CPU.

    Ray hides no GPU from a process that reserved none, and all such processes would work on the first one.

    Args:
        device: of the run, as `train.device`.
        processes: that are there at once.
    """
    return int(device != "cpu" and cluster.gpus >= max(1, processes))


def check_budget(
    cluster: Cluster, train: Train, simulators: int, block_bytes: int, data_bytes: int, use_gpu: bool
) -> None:
    """Nothing, if simulators, the least number of workers and blocks in flight fit the cluster.

    Raises:
        InputError: they do not; one sentence with what to change. Ray itself would wait for ever.
    """
    workers, most = train.worker_range
    needed = simulators + workers
    if needed > cluster.cpus:
        raise InputError(
            f"the cluster has {cluster.cpus:g} CPUs, but {simulators} simulators and {workers} training "
            f"workers need {needed}; lower train.simulators or train.workers, add nodes, or use --local"
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
