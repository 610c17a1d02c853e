"""The independent runs of a study as Ray tasks, one CPU each, and a GPU where a run may use one."""

from collections.abc import Callable
from pathlib import Path

import ray

from ndsm.core.interrupt import Interrupted
from ndsm.core.progress import say
from ndsm.core.uris import is_uri
from ndsm.data.mnist import mnist_files
from ndsm.errors import Unfinished
from ndsm.reproduce import Job, Result, run_job
from pipelines.cluster import cluster
from pipelines.resources import gpu_of_each
from pipelines.room import wait_for_room
from pipelines.sent_files import SentFiles
from pipelines.shared_paths import check_seen


def run_on_ray(jobs: list[Job], runs: Path | str, on_done: Callable[[Job, Result], None]) -> None:
    """Run the jobs in parallel, as many as the cluster has CPUs, and of those that may use a GPU as many as it has GPUs.

    A task whose process dies is started again and resumes from its run's checkpoint.

    Args:
        runs: absolute path of the run directories, the same for all nodes, or a URI.
        on_done: called here with each job's result, in the order they finish.

    Raises:
        InputError: a node does not see the folder, or MNIST's files are nowhere; nothing is written.
        Unfinished: a job failed; the others have had their turn.
        Interrupted: a stop was asked for.
    """
    with cluster() as found:
        check_seen(written=[] if is_uri(runs) else [Path(runs)])
        images = images_of(jobs)
        # Without a GPU reserved they would all see the first one, and train on it together.
        gpus = [gpu_of_each(found, job.config.train.device, 1) for job in jobs]
        if any(gpus):
            say(f"{sum(gpus)} runs take a GPU each, {found.gpus:g} at once; train.device cpu uses the CPUs")
        least = {"CPU": 1.0, "GPU": float(min(gpus, default=0))}
        wait_for_room(least, 1, max(job.config.train.start_seconds for job in jobs), say)
        tasks = [ray.remote(num_cpus=1, num_gpus=n, max_retries=3)(run_with_images) for n in gpus]
        pending = {
            task.remote(run_job, job, runs, images): job for task, job in zip(tasks, jobs, strict=True)
        }
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
    if stops := [error for error in failures if isinstance(error, Interrupted)]:
        raise stops[0]
    if failures:
        first = " ".join(str(failures[0]).split())
        raise Unfinished(
            f"{len(failures)} of {len(jobs)} runs failed, the first one by {type(failures[0]).__name__}: {first}; the same "
            "command tries them again"
        ) from failures[0]


def images_of(jobs: list[Job]) -> SentFiles | None:
    """MNIST's files for the nodes that run jobs which learn it and have none; None if no job does."""
    roots = {job.config.data.root for job in jobs if "mnist" in job.config.data.name}
    files = [file for root in roots for file in mnist_files(root)]
    return SentFiles(files) if files else None


def run_with_images(
    run: Callable[[Job, Path | str], Result], job: Job, runs: Path | str, images: SentFiles | None
) -> Result:
    """`run_job`, on a node that may have no images."""
    if images is not None:
        images.place()
    return run(job, runs)
