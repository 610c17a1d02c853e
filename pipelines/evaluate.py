"""Evaluations beside the training: a task of its own, for which no worker waits."""

import time
from typing import Any

import ray
import torch

from ndsm.config import Config
from ndsm.data import load
from ndsm.experiment import evaluate_checkpoint
from ndsm.run import Run


def evaluate_newest(run: Run, config: Config) -> dict[str, Any] | None:
    """The metrics of the newest checkpoint."""
    torch.set_num_threads(1)
    with run.beside() as here:
        return evaluate_checkpoint(here, config, load(config.data, config.train.seed, here.scaling()))


class Evaluations:
    """Starts an evaluation now and then, one at a time, and notes the result in `evaluations.jsonl`.

    The task asks Ray for one CPU, and waits until nobody uses one. An evaluation that fails is left out: training is worth
    more.

    Args:
        run: to evaluate.
        config: with its `evaluate.seconds` and `evaluate.n`.
    """

    def __init__(self, run: Run, config: Config) -> None:
        self._run, self._config = Run(run.path.resolve(), run.mirror), config
        self._seconds = config.evaluate.seconds
        self._task = ray.remote(num_cpus=1, max_retries=0)(evaluate_newest)
        self._running: Any = None
        self._started, self._seen = time.monotonic(), 0

    def look(self) -> None:
        """Take up what is done, and start what is due."""
        if self._seconds is None:
            return
        if self._running is not None:
            if ray.wait([self._running], timeout=0)[0]:
                self._take_up()
        elif time.monotonic() - self._started > self._seconds:
            self._running, self._started = self._task.remote(self._run, self._config), time.monotonic()

    def stop(self) -> None:
        """End what is running."""
        if self._running is not None:
            ray.cancel(self._running, force=True)

    def _take_up(self) -> None:
        try:
            metrics = ray.get(self._running)
        except ray.exceptions.RayError:
            metrics = None
        self._running = None
        if metrics is not None and metrics["step"] > self._seen:
            self._seen = metrics["step"]
            self._run.append_evaluation(metrics)
