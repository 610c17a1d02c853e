"""What tests wait for on a cluster: it learns of what actors and groups take and give back a moment later.

No wait has an end of its own; pytest's limit ends one for ever."""

import time
from collections.abc import Callable

import ray


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until the condition holds."""
    while not condition():
        time.sleep(0.1)


def nodes_alive() -> int:
    return sum(node["Alive"] for node in ray.nodes())


def free_cpus() -> float:
    """CPUs of the whole cluster that nobody holds."""
    return ray.available_resources().get("CPU", 0.0)


def wait_for_free_cpus(count: float) -> None:
    """Wait until exactly so many CPUs are free."""
    wait_for(lambda: free_cpus() == count)


def wait_until_all_is_free() -> None:
    """Wait until nothing holds a CPU."""
    wait_for(lambda: free_cpus() == ray.cluster_resources()["CPU"])
