"""Work on the cluster that is no trial of Ray Tune's: plain tasks, so many at a time."""

from collections.abc import Callable, Mapping
from typing import Any

import ray

from pipelines.resources import remote_options


def run_tasks(
    function: Callable[..., None],
    shared: Any,
    jobs: list[tuple[Any, ...]],
    at_once: int,
    resources: Mapping[str, float],
) -> None:
    """Call function(shared, *job) for each job, each in a worker of Ray's; raises what one of them raises.

    Args:
        shared: what all of them need, sent once.
        at_once: jobs at the same time, if the cluster has what they take.
        resources: that each takes, as `trial_resources` says.
    """
    task = ray.remote(**remote_options(resources), max_retries=3)(function)
    reference, waiting = ray.put(shared), list(jobs)
    pending: list[Any] = []
    while waiting or pending:
        while waiting and len(pending) < at_once:
            pending.append(task.remote(reference, *waiting.pop(0)))
        done, pending = ray.wait(pending, timeout=1.0)
        ray.get(done)
