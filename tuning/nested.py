"""A trial whose training is a Ray Train run of its own, for models that one process is too small for."""

from collections.abc import Callable
from typing import Any

import numpy as np
import ray
import torch

from ndsm.experiment import Experiment, start
from ndsm.training import Problem
from pipelines.resources import Cluster
from pipelines.simulator_pool import as_worker, workers_problem
from pipelines.train import train_on_ray, uses_gpu
from tuning.trial import relative_cost


def relative_cost_on_worker(problem: Problem, preset: Problem, data: np.ndarray) -> float:
    """`relative_cost` on what a worker of the trial will have; it is not there yet, and its room is."""
    found = Cluster.of(ray.cluster_resources())
    use_gpu = uses_gpu(problem.config.train, found)
    problems = (workers_problem(p, use_gpu) for p in (problem, preset))
    return float(as_worker(relative_cost, found, use_gpu, *problems, data))


def train_nested(
    experiment: Experiment, seen: Callable[[dict[str, Any], Callable[[], torch.nn.Module]], None]
) -> None:
    """Train with the run's own simulators and workers; the caller holds no CPU of the cluster.

    Args:
        seen: called with each line of metrics at whose step or before there is a checkpoint, and what gives the
            averaged weights of the newest one.
    """
    problem, run = experiment.problem, experiment.run

    def weights() -> torch.nn.Module:
        # The trial's own process holds no GPU.
        trainer, _ = start(problem.with_device("cpu"), run.load_checkpoint())
        return trainer.ema

    def line(metrics: dict[str, Any]) -> None:
        # What is scored are a checkpoint's weights, so its step counts.
        if saved := run.last_step():
            seen({**metrics, "step": min(saved, metrics["step"])}, weights)

    found = Cluster.of(ray.cluster_resources())
    config, data = problem.config.train, ray.put(experiment.dataset.train)
    with run.hold():
        train_on_ray(problem, run, data, line, found, config.first_simulators, uses_gpu(config, found))
