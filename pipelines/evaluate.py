"""Evaluations beside the training: a task of its own, for which no worker waits."""

import logging
import time
from typing import Any

import ray
import torch
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from ndsm.data import Dataset, load
from ndsm.runs import Run
from ndsm.runs.event_files import EventFiles
from ndsm.training import TrainingSetup
from ndsm.workflows.evaluate import evaluate_checkpoint, log_evaluation
from pipelines.resources import TRAINER

FREE_SECONDS = 1
"""Seconds to look for an idle CPU."""
AGAIN_SECONDS = 10.0
"""Seconds between attempts to find one."""

log = logging.getLogger("ndsm")


def evaluate_newest(
    run: Run, problem: TrainingSetup, dataset: Dataset | None = None
) -> tuple[dict[str, Any], bytes] | None:
    """The metrics of the newest checkpoint, and a picture of its samples.

    Args:
        dataset: the run's, as the driver read it, since this node may not see its files; read again if None.
    """
    torch.set_num_threads(1)
    # It was given no GPU, which Ray does not hide.
    config, problem = problem.config, problem.with_device("cpu")
    with run.snapshot() as here:
        if dataset is None:
            dataset = load(config.data, config.train.seed, here.scaling())
        return evaluate_checkpoint(here, problem, dataset)


class Evaluations:
    """Starts an evaluation now and then, one at a time, and notes the result in `evaluations.jsonl` and TensorBoard.

    The task takes one CPU that nobody uses, if there is one. It never waits for one: a worker that starts again, or a
    simulator, would find its CPU taken. An evaluation that fails is left out, the first one with a warning: training is
    worth more.

    Args:
        run: to evaluate.
        problem: with its configuration's `evaluate.seconds` and `evaluate.n`.
        dataset: as `evaluate_newest`.
    """

    def __init__(self, run: Run, problem: TrainingSetup, dataset: Dataset | None = None) -> None:
        self._run, self._problem = Run(run.path.resolve(), run.mirror), problem
        self._seconds = problem.config.evaluate.seconds
        self._events = EventFiles(run.tensorboard_evaluations) if self._seconds is not None else None
        self._task = ray.remote(num_cpus=1, max_retries=0)(evaluate_newest)
        self._dataset, self._sent = dataset, None
        self._running: Any = None
        self._place: PlacementGroup | None = None
        self._due, self._seen, self._failed = time.monotonic() + (self._seconds or 0), 0, False

    def look(self, training: bool) -> None:
        """Take up what is done, and start what is due.

        Args:
            training: whether the workers have just reported, so that a CPU that is free is not one they come back to.
        """
        if self._seconds is None:
            return
        if self._running is not None:
            if ray.wait([self._running], timeout=0)[0]:
                self._take_up()
        elif training and time.monotonic() > self._due:
            self._start(self._seconds)

    def stop(self) -> None:
        """End what is running."""
        if self._running is not None:
            ray.cancel(self._running, force=True)
        self._leave()
        if self._events is not None:
            self._events.close()

    def _start(self, seconds: float) -> None:
        started = time.monotonic()
        self._due = started + min(seconds, AGAIN_SECONDS)
        if not (nodes := nodes_to_spare(ray.nodes(), self._problem.config.train.cpus_per_worker)):
            return
        self._place = placement_group(
            [{"CPU": 1}], bundle_label_selector=[{"ray.io/node-id": f"in({','.join(nodes)})"}]
        )
        if not self._place.wait(FREE_SECONDS):
            self._leave()
            return
        self._due = started + seconds
        there = self._task.options(scheduling_strategy=PlacementGroupSchedulingStrategy(self._place))
        if self._sent is None:
            self._sent = ray.put(self._dataset)
        self._running = there.remote(self._run, self._problem, self._sent)

    def _leave(self) -> None:
        """Give the CPU back."""
        if self._place is not None:
            remove_placement_group(self._place)
        self._running = self._place = None

    def _take_up(self) -> None:
        found = None
        try:
            found = ray.get(self._running)
        except ray.exceptions.RayError as error:
            self._tell(getattr(error, "cause", None) or error)
        self._leave()
        if self._events is not None and found is not None and found[0]["step"] > self._seen:
            self._seen = found[0]["step"]
            try:
                log_evaluation(self._run, self._events, *found)
            except OSError as error:
                self._tell(error)

    def _tell(self, error: BaseException) -> None:
        if not self._failed:
            log.warning(
                f"an evaluation beside the training failed: {error!r}; later ones are tried, and not told of"
            )
        self._failed = True


def nodes_to_spare(nodes: list[dict[str, Any]], cpus: int = 1) -> list[str]:
    """Ids of the nodes with a CPU beyond those of the workers that may come to them.

    Args:
        nodes: as `ray.nodes()` lists them.
        cpus: of a worker.
    """
    ids = []
    for node in nodes:
        resources = node["Resources"]
        if node["Alive"] and resources.get("CPU", 0) - cpus * resources.get(TRAINER, 0) >= 1:
            ids.append(node["NodeID"])
    return ids
