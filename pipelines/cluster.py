"""The Ray cluster that a command works on."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import ray
from ray._private.state import available_resources_per_node

from ndsm.core.progress import say
from pipelines.joining import connected
from pipelines.resources import Cluster, Node


@contextmanager
def cluster(tell: Callable[[str], None] = say) -> Iterator[Cluster]:
    """The cluster at RAY_ADDRESS, or a local one that is stopped at the end.

    Args:
        tell: told where it can be watched, and which one was joined where there is a choice.

    Raises:
        InputError: there is no cluster at RAY_ADDRESS, or none that this process may join.
    """
    # Ray Train's log lines and Ray's own belong into Ray's log files, not between our lines.
    os.environ.setdefault("RAY_TRAIN_ENABLE_CONSOLE_LOGGING", "0")
    with nullcontext() if ray.is_initialized() else connected(tell) as context:
        for name in ("ray.train", "ray.data", "ray.tune"):
            logging.getLogger(name).setLevel(logging.ERROR)
        dashboard = (
            f"http://{context.dashboard_url}" if context is not None and context.dashboard_url else None
        )
        found = find_cluster(dashboard, metrics_address() if context is not None else None)
        found.tell(tell)
        yield found


def is_joined() -> bool:
    """Whether the cluster is one that was there before, not one that this process started for itself."""
    node = ray._private.worker._global_node
    return node is not None and not node.is_head()


def find_cluster(dashboard: str | None = None, metrics: str | None = None) -> Cluster:
    """What the cluster that this process is connected to has."""
    return Cluster.of(ray.cluster_resources(), dashboard, metrics, find_nodes())


def find_nodes() -> list[Node]:
    """The machines that are alive, and what of them is free."""
    free = available_resources_per_node()
    return [
        Node(
            n["NodeID"],
            f"{n['NodeManagerHostname']} ({n['NodeManagerAddress']})",
            n["Resources"],
            free[n["NodeID"]],
        )
        for n in ray.nodes()
        if n["Alive"] and n["NodeID"] in free
    ]


def metrics_address() -> str | None:
    """Where this node's agent exports metrics for Prometheus, if it does; every node has one."""
    here = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == here and node.get("MetricsExportPort"):
            return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    return None
