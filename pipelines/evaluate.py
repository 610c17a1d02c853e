"""Evaluations beside the training: a task of its own, for which no worker waits."""

import time
from contextlib import suppress
from typing import Any

import ray
import torch

from ndsm.data import load
from ndsm.experiment import evaluate_checkpoint, note_evaluation
from ndsm.run import Run
from ndsm.tracking import EventFiles
from ndsm.training import Problem


def evaluate_newest(run: Run, problem: Problem) -> tuple[dict[str, Any], bytes] | None:
    """The metrics of the newest checkpoint, and a picture of its samples."""
    torch.set_num_threads(1)
    config = problem.config
    with run.beside() as here:
        return evaluate_checkpoint(here, problem, load(config.data, config.train.seed, here.scaling()))


class Evaluations:
    """Starts an evaluation now and then, one at a time, and notes the result in `evaluations.jsonl` and TensorBoard.

    The task asks Ray for one CPU, and waits until nobody uses one. An evaluation that fails is left out: training is worth
    more.

    Args:
        run: to evaluate.
        problem: with its configuration's `evaluate.seconds` and `evaluate.n`.
    """

    def __init__(self, run: Run, problem: Problem) -> None:
        self._run, self._problem = Run(run.path.resolve(), run.mirror), problem
        self._seconds = problem.config.evaluate.seconds
        self._events = EventFiles(run.tensorboard_evaluations) if self._seconds is not None else None
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
            self._running, self._started = self._task.remote(self._run, self._problem), time.monotonic()

    def stop(self) -> None:
        """End what is running."""
        if self._running is not None:
            ray.cancel(self._running, force=True)
        if self._events is not None:
            self._events.close()

    def _take_up(self) -> None:
        try:
            found = ray.get(self._running)
        except ray.exceptions.RayError:
            found = None
        self._running = None
        if self._events is not None and found is not None and found[0]["step"] > self._seen:
            self._seen = found[0]["step"]
            with suppress(OSError):
                note_evaluation(self._run, self._events, *found)
