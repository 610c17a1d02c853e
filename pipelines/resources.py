"""What a run asks of the cluster, against what the cluster has."""

from dataclasses import dataclass

from ndsm.config import Train
from ndsm.errors import InputError

STORE_SHARE = 0.3
"""Share of the object store that blocks in flight may take: more, and Ray spills them to disk."""


@dataclass(frozen=True)
class Cluster:
    """What there is."""

    cpus: float
    gpus: float
    object_store: float
    """Bytes."""


def check_budget(cluster: Cluster, train: Train, block_bytes: int, data_bytes: int, use_gpu: bool) -> None:
    """Nothing, if simulators, workers and blocks in flight fit the cluster.

    Raises:
        InputError: they do not; one sentence with what to change. Ray itself would wait for ever.
    """
    worker_cpus = train.workers
    needed = train.simulators + worker_cpus
    if needed > cluster.cpus:
        raise InputError(
            f"the cluster has {cluster.cpus:g} CPUs, but {train.simulators} simulators and {train.workers} training "
            f"workers need {needed}; lower train.simulators or train.workers, add nodes, or use --local"
        )
    if use_gpu and train.workers > cluster.gpus:
        raise InputError(
            f"the cluster has {cluster.gpus:g} GPUs, but {train.workers} training workers on cuda need {train.workers}; "
            "lower train.workers or set train.device cpu"
        )
    # A worker without a simulator of its own shares one, with a window of its own.
    windows = max(train.simulators, train.workers)
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
