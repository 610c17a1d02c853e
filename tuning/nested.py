"""A trial whose training is a Ray Train run of its own, for models that one process is too small for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import ray
import torch

from ndsm.training import TrainingSetup
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import RunContext
from pipelines.cluster import find_cluster
from pipelines.simulator_pool import as_worker, workers_problem
from pipelines.train import room_for, train_on_ray, uses_gpu
from tuning.trial import relative_cost


def relative_cost_on_worker(problem: TrainingSetup, preset: TrainingSetup, data: np.ndarray) -> float:
    """`relative_cost` on what a worker of the trial will have; it is not there yet, and its room is."""
    cluster = find_cluster()
    use_gpu = uses_gpu(problem.config.train, cluster)
    problems = (workers_problem(p, use_gpu) for p in (problem, preset))
    with room_for(problem, cluster, data.nbytes, use_gpu) as room:
        room.wait(0)
        return float(as_worker(relative_cost, room, *problems, data))


def train_nested(
    experiment: RunContext, seen: Callable[[dict[str, Any], Callable[[], torch.nn.Module]], None]
) -> None:
    """Train with the run's own simulators and workers; the caller holds no CPU of the cluster.

    Args:
        seen: called with each line of metrics at whose step or before there is a checkpoint, and what gives the
            averaged weights of the newest one.
    """
    problem, run = experiment.problem, experiment.run

    def weights() -> torch.nn.Module:
        # The trial's own process holds no GPU.
        trainer, _ = start(problem.with_device("cpu"), run.find_checkpoint())
        return trainer.ema

    def line(metrics: dict[str, Any]) -> None:
        if run.mirror is not None and run.mirror.changed():
            # Rank 0 may be on another machine.
            run.pull()
        # What is scored are a checkpoint's weights, so its step counts.
        if saved := run.last_step():
            seen({**metrics, "step": min(saved, metrics["step"])}, weights)

    cluster = find_cluster()
    config, rows = problem.config.train, experiment.dataset.train
    use_gpu, simulators = uses_gpu(config, cluster), config.first_simulators
    with run.hold(), room_for(problem, cluster, rows.nbytes, use_gpu) as room:
        room.wait(simulators)
        train_on_ray(problem, run, ray.put(rows), line, room, simulators, use_gpu)
