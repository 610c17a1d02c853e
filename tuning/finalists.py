"""The best trials and the preset once more: fresh seeds, the preset's full training time, evaluation rows unseen so far."""

from collections.abc import Mapping
from pathlib import Path

from ndsm.config import Config
from ndsm.core.progress import say
from ndsm.data import Dataset
from ndsm.workflows.trained_model import TrainedModel
from tuning.folder import UNFINISHED, SearchFolder, TrialRecord
from tuning.proposals import Plan
from tuning.remote import trial_folder
from tuning.scoring import Scorer
from tuning.tasks import run_tasks
from tuning.trial import Setting, run_trial


def best_trials(records: list[TrialRecord], count: int) -> list[TrialRecord]:
    """The trials beside the preset that ended with the lowest scores."""
    done = [r for r in records if r.status == "done" and r.number]
    return sorted(done, key=lambda r: r.scores[-1].score)[:count]


def finalist_name(record: TrialRecord, seed: int) -> str:
    """Name of a finalist's folder."""
    return f"{record.name.replace(' ', '-')}-seed{seed}"


def finalist_config(plan: Plan, record: TrialRecord, seed: int) -> Config:
    """The record's configuration with another seed."""
    config = plan.space.config(record.params) if record.number else plan.space.base
    return config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})


def fresh_seeds(plan: Plan, count: int) -> list[int]:
    """Seeds that no trial had."""
    first = plan.space.base.train.seed + 1
    return list(range(first, first + count))


def run_finalists(
    plan: Plan, setting: Setting, dataset: Dataset, count: int, seeds: int, resources: Mapping[str, float]
) -> None:
    """Train and evaluate the preset and the best `count` trials on each of `seeds` seeds; those that are done are left.

    They learn from the rows that trials learned from. The best is chosen by the rows that trials were scored by, and
    judged by the data's evaluation rows (or a toy's law), which nothing was chosen by.

    Args:
        dataset: the data with its own evaluation rows.
        resources: of a run, as Ray counts.
    """
    records = setting.search.records()
    chosen = best_trials(records, count)
    preset = next((r for r in records if r.number == 0), None)
    if not chosen or preset is None:
        return
    # Blocks are the seed's own: there is nothing to share.
    alone = Setting(**{**vars(setting), "scale": 1.0, "pool_bytes": 0})
    held_out = Scorer(dataset, setting.scorer.metric, plan.space.base.evaluate.n, setting.scorer.seed)
    waiting = []
    for record in (preset, *chosen):
        for seed in fresh_seeds(plan, seeds):
            begun = TrialRecord(record.number, record.params, cost=record.cost)
            trial = setting.search.finalist(finalist_name(record, seed))
            if not trial.exists():
                trial.write(begun)
            known = trial.read()
            # A search that was killed may have left one that is trained and not judged.
            if known.status in UNFINISHED or (known.status == "done" and "held_out" not in known.metrics):
                waiting.append((trial.where, finalist_config(plan, record, seed)))
    if waiting:
        say(f"{len(waiting)} runs of the preset and the best {len(chosen)} on fresh seeds")
    # One at a time where each run has a cluster of workers of its own, of which Ray does not know here.
    at_once = 1 if setting.nested else len(waiting)
    run_tasks(run_finalist, (alone, held_out), waiting, at_once, resources)


def run_finalist(shared: tuple[Setting, Scorer], where: Path | str, config: Config) -> None:
    """Train a finalist, and evaluate it on the data's own evaluation rows."""
    import torch

    torch.set_num_threads(1)
    setting, held_out = shared
    trial = trial_folder(where)
    record = run_trial(setting, trial, config, rungs=(1.0,))
    if record.status == "done" and "held_out" not in record.metrics:
        try:
            score, metrics = held_out(TrainedModel.of(trial.run))
        # This one's own, as in a trial: the others are judged all the same.
        except Exception as error:
            record.status, record.reason = "failed", f"{type(error).__name__}: {error}"
        else:
            floor = metrics.get(f"{held_out.metric}_floor")
            record.metrics |= {"held_out": score, "held_out_floor": floor}
            lines, _ = trial.run.metrics_since(0)
            record.metrics["train_seconds"] = lines[-1]["seconds"]
        trial.write(record)


def finalist_records(folder: SearchFolder) -> list[tuple[TrialRecord, int]]:
    """The finalists that were run to their end, with their seeds."""
    found = []
    for name in folder.finalists():
        record = folder.finalist(name).read()
        if record.status == "done" and "held_out" in record.metrics:
            found.append((record, int(name.rpartition("-seed")[2])))
    return found
