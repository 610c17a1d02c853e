"""One trial: as many steps as fit its training time, scored on held-out rows on the way.

A trial's folder says where it stands, so that the same call goes on after a crash, and a finished trial is left alone.
Time is counted in units of the preset's: what a step costs is measured beside a step of the preset, in turn and in the
same process, so that other work on the machine falls on both.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ndsm.config import Config
from ndsm.errors import InputError, Unfinished
from ndsm.runs import Run
from ndsm.simulation import rollout
from ndsm.training import DECIDE_EVERY, TrainingSetup, fit_mixture, pick_device
from ndsm.training.calibration import Costs, measure_costs
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import RunContext, begin, training_problem
from ndsm.workflows.train import train_locally
from ndsm.workflows.trained_model import TrainedModel
from tuning.folder import FINISHED, Score, SearchFolder, TrialFolder, TrialRecord
from tuning.pool import BlockPool
from tuning.remote import search_folder
from tuning.scoring import Scorer

RUNGS = (1 / 9, 1 / 3, 1.0)
"""Shares of a trial's steps after which it is scored, and may be stopped."""
TICKS = round(1 / RUNGS[0])
"""Ninths, in which a trial's progress is counted."""
PROBES = 3
"""Repetitions of a cost measurement."""
FREE_SECONDS = 60.0
"""How long a trial waits for the process that trained it before."""


@dataclass(frozen=True)
class Setting:
    """What all trials of a search share; travels by value."""

    folder: Path | str
    """The search's, absolute, or a URI."""
    preset: TrainingSetup
    """Fitted to the rows that trials learn from."""
    scorer: Scorer
    scale: float
    """Training time of a trial, in units of the preset's."""
    pool_bytes: int
    """Size of the pool of shared blocks; 0 for none."""
    nested: bool = False
    """Whether a trial is a Ray Train run of its own."""

    @property
    def search(self) -> SearchFolder:
        """The search's files."""
        return search_folder(self.folder)


Report = Callable[[dict[str, Any]], None]
"""Takes what is known after each score: number, step, share of the steps, score, loss."""


def run_trial(
    setting: Setting,
    trial: TrialFolder,
    config: Config,
    report: Report = lambda _: None,
    rungs: tuple[float, ...] = RUNGS,
    until: float = 1.0,
) -> TrialRecord:
    """Train and score a trial, or go on with it; its record, which is also in its folder.

    Args:
        config: the trial's, with any number of steps.
        report: called after each score, also those that a resumed trial had before.
        rungs: shares of the steps after which it is scored.
        until: one of them, at which it pauses; the same call with a later one goes on.
    """
    _wait_until_free(trial.run)
    record = trial.read()
    if record.status in (*FINISHED, "invalid"):
        return record
    record.status, record.reason = "running", ""
    record.starts += 1
    try:
        experiment = _prepare(setting, trial, config, record)
        trial.write(record)
        for score in record.scores:
            report(_line(record, score, {}))
        _train(setting, trial, experiment, record, report, rungs, until)
    # Any other exception is this trial's own, and a row of the result; a retry would meet it again.
    except Exception as error:
        record.status = "died" if machine_failed(error) else "failed"
        record.reason = f"{type(error).__name__}: {error}"
        if isinstance(error, InputError) and not record.steps:
            record.status, record.reason = "invalid", str(error)
    trial.write(record)
    return record


def machine_failed(error: Exception) -> bool:
    """Whether an exception tells of a process, a node, a disk or a network that was lost, and not of the trial's values."""
    from ray.exceptions import RayTaskError

    # Ray's own exceptions, also those of Ray Train that are not public; what a task raised is not one of them.
    lost = type(error).__module__.startswith("ray.") and not isinstance(error, RayTaskError)
    return lost or isinstance(error, OSError | Unfinished)


def _prepare(setting: Setting, trial: TrialFolder, config: Config, record: TrialRecord) -> RunContext:
    """The trial's run, with the number of steps that its time allows; begun if it is new."""
    run, dataset = trial.run, setting.scorer.dataset
    exists = run.exists()
    mixture = run.mixture() if exists else fit_mixture(config, dataset.train)
    problem = training_problem(config, mixture, dataset.stamp, setting.preset.spec.labels)
    problem.limiter(config.train.worker_range[0])
    if not record.steps:
        if record.number and not record.cost:
            record.cost = _cost(setting, problem, dataset.train)
        record.cost = record.cost or 1.0
        steps = setting.preset.config.train.steps * setting.scale * record.time / record.cost
        record.steps = milestone(steps, 1.0)
    train = config.train.model_copy(update={"steps": record.steps})
    problem = replace(problem, config=config.model_copy(update={"train": train}))
    experiment = RunContext(run, dataset, mixture, problem, dataset.stamp)
    begin(experiment)
    return experiment


def _cost(setting: Setting, problem: TrainingSetup, data: np.ndarray) -> float:
    """`relative_cost` where the trial's steps will be taken."""
    if setting.nested:
        from tuning.nested import relative_cost_on_worker

        return relative_cost_on_worker(problem, setting.preset, data)
    return relative_cost(problem, setting.preset, data)


def _train(
    setting: Setting,
    trial: TrialFolder,
    experiment: RunContext,
    record: TrialRecord,
    report: Report,
    rungs: tuple[float, ...],
    until: float,
) -> None:
    """Train to the end, to where it pauses or until asked to stop, with a score at each rung."""
    run, scorer = trial.run, setting.scorer
    due = [share for share in rungs if share < 1 and all(s.share < share for s in record.scores)]
    pool, made, read = _pool(setting, experiment), record.blocks_made, record.blocks_read

    def count() -> None:
        if pool:
            record.blocks_made, record.blocks_read = made + pool.made, read + pool.read

    def seen(metrics: dict[str, Any], weights: Callable[[], torch.nn.Module]) -> None:
        # A search that was asked to stop before this run was begun.
        if setting.search.stop_file.exists():
            run.stop_file.touch()
        trial.take_request()
        step = metrics["step"]
        while due and step >= milestone(record.steps, due[0]):
            share = due.pop(0)
            if due and step >= milestone(record.steps, due[0]):
                continue
            model = TrainedModel.trained_on(experiment.dataset, experiment.problem, weights())
            count()
            _add(record, Score(step, share, scorer(model)[0]), trial, report, metrics)
            if share >= until:
                run.stop_file.touch()

    if setting.nested:
        from tuning.nested import train_nested

        train_nested(experiment, seen)
    else:
        milestones = [milestone(record.steps, share) for share in due]
        for _ in train_locally(
            experiment,
            lambda line, trainer: seen(line.metrics, lambda: trainer.ema),
            make_block=pool.block if pool else None,
            milestones=milestones,
        ):
            pass
        count()
    if run.last_step() < record.steps:
        paused = until < 1 and record.score_at(until) is not None
        # Without a score nothing has judged it: whoever stopped it did so from outside, and it goes on next time.
        if record.scores and not paused and not setting.search.stop_file.exists():
            record.status, record.reason = (
                "stopped",
                f"after {record.scores[-1].share:.0%} of its steps: worse than others",
            )
        return
    model = TrainedModel.of(run)
    score, metrics = scorer(model)
    kept = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
    record.metrics = {**kept, "prior": scorer.prior(model)}
    record.status = "done"
    _add(record, Score(record.steps, 1.0, score), trial, report, {})


def _pool(setting: Setting, experiment: RunContext) -> BlockPool | None:
    if not setting.pool_bytes:
        return None
    spec, data = experiment.problem.spec, experiment.dataset.train
    return BlockPool(setting.search.pool, spec.stamp, lambda i: rollout(spec, data, i), setting.pool_bytes)


def _add(
    record: TrialRecord, score: Score, trial: TrialFolder, report: Report, metrics: dict[str, Any]
) -> None:
    record.scores.append(score)
    trial.write(record)
    report(_line(record, score, metrics))


def _line(record: TrialRecord, score: Score, metrics: dict[str, Any]) -> dict[str, Any]:
    numbers: dict[str, Any] = {
        key: metrics[key] for key in ("loss", "grad_norm", "lr", "steps_per_s") if key in metrics
    }
    return {
        "number": record.number,
        "step": score.step,
        "share": score.share,
        "score": score.score,
        **numbers,
    }


def milestone(steps: float, share: float) -> int:
    """The step at a share of all steps, at which the training loop looks up."""
    return max(DECIDE_EVERY, round(steps * share / DECIDE_EVERY) * DECIDE_EVERY)


def relative_cost(problem: TrainingSetup, preset: TrainingSetup, data: np.ndarray) -> float:
    """Time of a step with the simulation of its rows, in units of the preset's.

    Medians of repetitions in turn: processor time, or the clock's where a GPU works.

    Args:
        data: (N, d) rows that blocks start from.
    """
    device = pick_device(problem.config.train.device)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    trainers = [(p, start(p, None)[0]) for p in (problem, preset)]
    rounds = [
        [_step_cost(p, measure_costs(p, data, t, 1, 0.0, clock)) for p, t in trainers] for _ in range(PROBES)
    ]
    cost, preset_cost = (statistics.median(costs) for costs in zip(*rounds, strict=True))
    return cost / preset_cost


def _step_cost(problem: TrainingSetup, costs: Costs) -> float:
    """Seconds of a step with its share of a block and of ε's learning."""
    return costs.step * (1 + costs.block / costs.use) + costs.epsilon / problem.config.objective.epsilon.every


def _wait_until_free(run: Run) -> None:
    """Wait until no other process trains the run; processes of a killed search live on for some seconds."""
    deadline = time.monotonic() + FREE_SECONDS
    while (owner := run.owner.read()) is not None and owner.alive and time.monotonic() < deadline:
        time.sleep(0.2)
