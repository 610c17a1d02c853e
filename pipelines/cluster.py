"""The Ray cluster that a command works on."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray._private.state import available_resources_per_node

from ndsm.core.cores import usable_cores
from ndsm.core.interrupt import handlers, keep
from ndsm.core.progress import say
from pipelines.resources import Cluster, Node


@contextmanager
def cluster(tell: Callable[[str], None] = say) -> Iterator[Cluster]:
    """The cluster at RAY_ADDRESS, or a local one that is stopped at the end.

    Args:
        tell: told where it can be watched.
    """
    # Ray Train's log lines and Ray's own belong into Ray's log files, not between our lines.
    os.environ.setdefault("RAY_TRAIN_ENABLE_CONSOLE_LOGGING", "0")
    started, dashboard, metrics = not ray.is_initialized(), None, None
    before = handlers()
    if started:
        options: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "configure_logging": True,
        }
        if os.environ.get("RAY_ADDRESS"):
            context = ray.init(**options)
        else:
            # "local" always starts one: without it Ray would join what `ray start` last noted on this machine,
            # and wait minutes for it if it has died since.
            context = ray.init(
                address="local",
                # Ray knows of containers' limits, and not of the cores that a batch system binds a job to.
                num_cpus=usable_cores(),
                include_dashboard=True,
                dashboard_host="127.0.0.1",
                **options,
            )
        dashboard = f"http://{context.dashboard_url}" if context.dashboard_url else None
        metrics = metrics_address()
        # Ray's own ends the process with a stack of C++ before anything is saved.
        keep(before)
    for name in ("ray.train", "ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        found = find_cluster(dashboard, metrics)
        found.tell(tell)
        yield found
    finally:
        if started:
            ray.shutdown()


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
