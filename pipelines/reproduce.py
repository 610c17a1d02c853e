"""The independent runs of a study as Ray tasks, one CPU each."""

from collections.abc import Callable
from pathlib import Path

import ray

from ndsm.reproduce import Job, Result, run_job
from pipelines.train import cluster

# The jobs' numbers are floating-point sums; numpy and torch would otherwise use all cores in every task.
_ONE_THREAD = {"env_vars": {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}}


def run_on_ray(jobs: list[Job], runs: Path, on_done: Callable[[Job, Result], None]) -> None:
    """Run the jobs in parallel, as many as the cluster has CPUs.

    A task whose process dies is started again and resumes from its run's checkpoint.

    Args:
        runs: absolute path of the run directories, the same for all nodes.
        on_done: called here with each job's result, in the order they finish.

    Raises:
        Exception: what the first failing job raised; the others' results so far have been given to `on_done`.
    """
    with cluster():
        task = ray.remote(num_cpus=1, max_retries=3, runtime_env=_ONE_THREAD)(run_job)
        pending = {task.remote(job, runs): job for job in jobs}
        while pending:
            (ready,), _ = ray.wait(list(pending), num_returns=1)
            job = pending.pop(ready)
            try:
                result = ray.get(ready)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            on_done(job, result)
