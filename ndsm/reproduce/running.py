"""Training of one run of a study, resumed if it exists, with its measurements."""

import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ndsm.core.atomic_file import write_whole
from ndsm.core.global_state import threads
from ndsm.core.interrupt import Interrupted
from ndsm.core.places import Flag, Place
from ndsm.core.uris import is_uri
from ndsm.data import load
from ndsm.metrics import evaluate
from ndsm.reproduce.study import Job
from ndsm.runs import Run
from ndsm.training import Record, Trainer
from ndsm.workflows.figures import image_rows
from ndsm.workflows.setup import RunContext, begin, prepare
from ndsm.workflows.train import train_locally
from ndsm.workflows.trained_model import TrainedModel

PICTURED = 64
"""Images of a run that are kept for the figure."""

Result = tuple[list[dict[str, Any]], np.ndarray]
"""Rows for results.json, and generated points (n, 2) in the data's units or images (64, 784) for the figure."""


def stop_file(runs: Path | str) -> Path | Flag:
    """Return the file whose presence asks a study's runs in the folder `runs`, on any machine, to save and stop."""
    return Flag(Place(runs), "stop") if is_uri(runs) else Path(runs) / "stop"


@threads(1)
def run_job(job: Job, runs: Path | str) -> Result:
    """Train (or resume) the run `runs`/NAME of a job, generate, and measure.

    Returns the job's row and, if it asks for that, one for the mixture alone.

    Args:
        runs: a path or a URI.

    Raises:
        Interrupted: `stop_file(runs)` appeared before it was trained; a checkpoint is saved.
    """
    stop = stop_file(runs)
    if stop.exists():
        raise Interrupted
    if not is_uri(runs):
        return _train(job, Run(Path(runs) / job.name), stop)
    with tempfile.TemporaryDirectory(prefix="ndsm-") as folder:
        run = Run.at(Path(folder), str(runs), job.name)
        found = _train(job, run, stop)
        run.push()
        return found


def _train(job: Job, run: Run, stop: Path | Flag) -> Result:
    """Train the run of a job, generate, and measure."""
    experiment = prepare(job.config, run)
    begin(experiment)
    moments = _Moments(job, experiment)
    for _ in train_locally(experiment, moments.watch):
        if stop.exists():
            run.stop_file.touch()
    if run.last_step() < job.config.train.steps:
        raise Interrupted
    n, seed = job.config.evaluate.n, job.config.train.seed
    model = TrainedModel.of(run)
    moments.complete(model)
    samples = model.all_rows(n, seed)
    prior = model.prior_rows(n, seed) if job.prior else None
    truth = experiment.dataset
    if truth.toy is not None:
        # Rows differ in whether they standardise; distances are compared in one unit.
        truth = load(job.config.data.unscaled(), seed)
        samples = model.scaling.invert(samples)
        prior = None if prior is None else model.scaling.invert(prior)
    metrics = evaluate(truth, samples, prior, seed)
    row = {"row": job.row, "seed": seed, "setting": job.setting}
    steps, seconds = job.config.train.steps, run.metrics_since(0)[0][-1]["seconds"]
    kept = {key: metrics[key] for key in job.keys}
    rows = [{**row, "steps": steps, "train_seconds": seconds, **kept, **moments.found()}]
    if prior is not None:
        kept = {key: metrics["prior"][key] for key in job.keys}
        rows.append({**row, "row": "prior", "steps": 0, "train_seconds": 0.0, **kept})
    if truth.toy is None:
        original = model.scaling.invert(samples[:PICTURED])
        samples = original if (images := image_rows(truth, original)) is None else images
    return rows, samples


class _Moments:
    """Evaluations of the averaged weights while they are trained: `curve.jsonl` in the run directory.

    `cpu_seconds` is processor time of training and simulation together, without the evaluations: other work on the
    machine does not change it, and on one core it is the training time. `clock.json` keeps the times at the last
    checkpoint, which a resumed run goes on from.
    """

    def __init__(self, job: Job, experiment: RunContext) -> None:
        self._job, self._experiment = job, experiment
        folder = experiment.run.path
        self._file, self._clock = folder / "curve.jsonl", folder / "clock.json"
        self._lines: list[dict[str, Any]] = []
        if self._file.is_file():
            # A line that a full disk cut short is no line.
            whole = self._file.read_text(encoding="utf-8").rpartition("\n")[0]
            self._lines = [json.loads(line) for line in whole.splitlines()]
        known = self._lines[-1:]
        if self._clock.is_file():
            known.append(json.loads(self._clock.read_text(encoding="utf-8")))
        self._seconds = max((times["seconds"] for times in known), default=0.0)
        self._cpu_seconds = max((times["cpu_seconds"] for times in known), default=0.0)
        self._since = (time.monotonic(), time.process_time())

    def watch(self, record: Record, trainer: Trainer) -> None:
        """Add the time since the last record, and evaluate if the next moment has come."""
        now = (time.monotonic(), time.process_time())
        self._seconds += now[0] - self._since[0]
        self._cpu_seconds += now[1] - self._since[1]
        self._since = now
        if record.checkpoint:
            write_whole(self._clock, json.dumps(self._times(record.step)).encode())
        job = self._job
        if job.moments and record.step >= (len(self._lines) + 1) * job.config.train.steps // job.moments:
            context = self._experiment
            model = TrainedModel.trained_on(context.dataset, context.problem, trainer.ema)
            self._evaluate(record.step, model)
            self._since = (time.monotonic(), time.process_time())

    def complete(self, model: TrainedModel) -> None:
        """Make the last evaluation of a trained run that was killed before it."""
        steps = self._job.config.train.steps
        if self._job.moments and (not self._lines or self._lines[-1]["step"] < steps):
            self._evaluate(steps, model)

    def _evaluate(self, step: int, model: TrainedModel) -> None:
        job = self._job
        rows = model.all_rows(job.moment_rows, job.seed)
        metrics = evaluate(self._experiment.dataset, rows, None, job.seed)
        kept = {key: metrics[key] for key in job.keys if isinstance(metrics[key], (int, float))}
        line = {**self._times(step), **kept}
        self._lines.append(line)
        write_whole(self._file, "".join(json.dumps(line) + "\n" for line in self._lines).encode())

    def _times(self, step: int) -> dict[str, float]:
        return {
            "step": step,
            "seconds": round(self._seconds, 3),
            "cpu_seconds": round(self._cpu_seconds, 3),
        }

    def found(self) -> dict[str, Any]:
        """Return the training times without the evaluations, and the lines; empty if no curve was asked for."""
        if not self._lines:
            return {}
        last = self._lines[-1]
        return {"train_seconds": last["seconds"], "cpu_seconds": last["cpu_seconds"], "curve": self._lines}


def run_here(jobs: list[Job], runs: Path | str, on_done: Callable[[Job, Result], None]) -> None:
    """Run jobs one after the other in this process.

    Raises:
        Interrupted: see `run_job`.
    """
    for job in jobs:
        on_done(job, run_job(job, runs))
