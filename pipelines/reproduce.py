"""The independent runs of a study as Ray tasks, one CPU each."""

from collections.abc import Callable
from pathlib import Path

import ray

from ndsm.reproduce import Job, Result, run_job
from pipelines.cluster import cluster


def run_on_ray(jobs: list[Job], runs: Path, on_done: Callable[[Job, Result], None]) -> None:
    """Run the jobs in parallel, as many as the cluster has CPUs.

    A task whose process dies is started again and resumes from its run's checkpoint.

    Args:
        runs: absolute path of the run directories, the same for all nodes.
        on_done: called here with each job's result, in the order they finish.

    Raises:
        Exception: what the first failing job raised, after all others have had their turn.
    """
    with cluster():
        task = ray.remote(num_cpus=1, max_retries=3)(run_job)
        pending = {task.remote(job, runs): job for job in jobs}
        failures: list[BaseException] = []
        while pending:
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(ready)
            try:
                result = ray.get(ready)
            # What the job raised, or the death of its process again and again.
            except ray.exceptions.RayError as error:
                failures.append(getattr(error, "cause", None) or error)
            else:
                on_done(job, result)
    if failures:
        raise failures[0]
