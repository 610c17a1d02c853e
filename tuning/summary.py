"""What a search found: the best configuration as a preset, and the numbers that say so."""

import statistics
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import create_trial

from ndsm.config import Config, chosen_values, merge
from ndsm.data import Dataset
from tuning.finalists import best_trials, finalist_records
from tuning.folder import FINISHED, SearchFolder, TrialRecord
from tuning.page import tune_page
from tuning.proposals import Plan
from tuning.trial import RUNGS, Setting, milestone


@dataclass(frozen=True)
class Finalist:
    """A configuration's runs on fresh seeds."""

    record: TrialRecord
    """The trial it comes from."""
    seeds: list[int]
    chosen_by: list[float]
    """Scores on the rows that trials were scored by."""
    held_out: list[float]
    """The same metric on the data's evaluation rows."""
    seconds: list[float]
    """Training time on the clock."""
    floor: float | None

    @property
    def mean(self) -> float:
        """Mean held-out metric."""
        return statistics.fmean(self.held_out)

    @property
    def spread(self) -> float:
        """Its standard deviation over seeds; 0 for one seed."""
        return statistics.stdev(self.held_out) if len(self.held_out) > 1 else 0.0


@dataclass(frozen=True)
class Summary:
    """Everything the report shows."""

    preset: str
    root: Path
    """The configuration's data.root as it was given: trials have it absolute."""
    plan: Plan
    setting: Setting
    dataset: Dataset
    records: list[TrialRecord]
    finalists: list[Finalist]

    @property
    def folder(self) -> SearchFolder:
        """The search's files."""
        return self.setting.search

    @property
    def metric(self) -> str:
        """What trials are ranked by."""
        return self.setting.scorer.metric

    @property
    def best(self) -> TrialRecord | None:
        """The finalist with the lowest mean score, if it beats the preset on the evaluation rows too, or else the preset.

        Without finalists the best trial that ended; None without one.
        """
        if self.finalists:
            chosen = min(self.finalists, key=lambda f: statistics.fmean(f.chosen_by))
            preset = self.preset_runs
            return (chosen if preset is None or chosen.mean <= preset.mean else preset).record
        done = [r for r in self.records if r.status == "done"]
        return min(done, key=lambda r: r.scores[-1].score, default=None)

    @property
    def preset_runs(self) -> Finalist | None:
        """The preset's runs on fresh seeds; None if none has ended."""
        return next((f for f in self.finalists if f.record.number == 0), None)

    def finalist(self, record: TrialRecord | None) -> Finalist | None:
        """The runs on fresh seeds of a trial."""
        return next((f for f in self.finalists if record and f.record.number == record.number), None)

    @property
    def improvement(self) -> float | None:
        """1 - best/preset of the mean held-out metric on fresh seeds; None before both were run."""
        best, preset = self.finalist(self.best), self.preset_runs
        return 1 - best.mean / preset.mean if best and preset and preset.mean else None

    def sentence(self) -> str:
        """How it went, in a sentence."""
        if self.best is None:
            return "no trial has ended yet"
        best = self.finalist(self.best)
        if best is None:
            return f"best so far: {self.best.name}, {self.metric} {self.best.score:.4g}, not yet run on fresh seeds"
        preset = self.preset_runs
        if preset is None:
            return f"best: {self.best.name}, {self.metric} {_plus_minus(best)}; the preset's own runs failed"
        if best is preset:
            return f"the preset was not beaten: {self.metric} {_plus_minus(preset)} over {len(preset.seeds)} fresh seeds"
        return (
            f"best: {self.best.name}, {self.metric} {_plus_minus(best)} against the preset's {_plus_minus(preset)} over "
            f"{len(best.seeds)} fresh seeds at the same training time ({100 * (self.improvement or 0):.1f} % lower)"
        )

    def config(self, record: TrialRecord) -> Config:
        """A trial's configuration with as many steps as the preset's training time allows: a finalist's."""
        base = self.plan.space.base
        config = self.plan.space.config(record.params) if record.number else base
        steps = milestone(base.train.steps / (record.cost or 1.0), 1.0)
        return config.model_copy(
            update={
                "data": config.data.model_copy(update={"root": self.root}),
                "train": config.train.model_copy(update={"steps": steps}),
            }
        )

    def importance(self) -> tuple[float, dict[str, float]]:
        """How much of the scores' variance each parameter explains (PED-ANOVA), and after which share of the steps.

        Stopped trials have no last score: the latest moment is taken that half of the trials were scored at. Parameters
        that not all of those have are left out.
        """
        ended = [r for r in self.records if r.status in FINISHED and r.scores]
        reached = [
            share for share in RUNGS if 2 * sum(r.score_at(share) is not None for r in ended) >= len(ended)
        ]
        if not reached or len(ended) < 4:
            return 0.0, {}
        share = reached[-1]
        scored = [(r, value) for r in ended if r.number and (value := r.score_at(share)) is not None]
        common = [p.field for p in self.plan.space.parameters if all(p.field in r.params for r, _ in scored)]
        study = optuna.create_study()
        for r, value in scored:
            distributions = self.plan.space.distributions(r.params)
            study.add_trial(create_trial(value=value, params=r.params, distributions=distributions))
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                importances = optuna.importance.get_param_importances(
                    study, evaluator=evaluator, params=common
                )
        # Too few trials, or none of them differ.
        except (ValueError, RuntimeError):
            return share, {}
        return share, dict(importances)

    def front(self) -> list[tuple[float, float, TrialRecord]]:
        """Training time (units of the preset's), score and trial of what no other beats in both, by time."""
        ended = [r for r in self.records if r.status in FINISHED]
        points = [(s.share * r.time * self.setting.scale, s.score, r) for r in ended for s in r.scores]
        front: list[tuple[float, float, TrialRecord]] = []
        for time, score, record in sorted(points, key=lambda p: p[:2]):
            if not front or score < front[-1][1]:
                front.append((time, score, record))
        return front

    def to_json(self) -> dict[str, Any]:
        """What `summary.json` holds."""
        best = self.best
        share, importance = self.importance()
        return {
            "preset": self.preset,
            "metric": self.metric,
            "sentence": self.sentence(),
            "best": None if best is None else best.number,
            "improvement": self.improvement,
            "trials": [
                {
                    "number": r.number,
                    "status": r.status,
                    "reason": r.reason,
                    "score": r.score,
                    "share": r.scores[-1].share if r.scores else 0.0,
                    "time": r.time,
                    "steps": r.steps,
                    "cost": r.cost,
                    "starts": r.starts,
                    "params": r.params,
                    "changes": r.changes,
                    "floor": r.metrics.get(f"{self.metric}_floor"),
                    "prior": r.metrics.get("prior"),
                }
                for r in self.records
            ],
            "finalists": [
                {
                    "number": f.record.number,
                    "seeds": f.seeds,
                    "score": f.chosen_by,
                    "held_out": f.held_out,
                    "train_seconds": f.seconds,
                    "floor": f.floor,
                    "steps": self.config(f.record).train.steps,
                }
                for f in self.finalists
            ],
            "importance": {"share": share, "fields": importance},
            "blocks": {
                "made": sum(r.blocks_made for r in self.records),
                "read": sum(r.blocks_read for r in self.records),
            },
        }

    def write(self) -> None:
        """Write best.yaml, summary.json and tune-report.html."""
        best = self.best
        if best is not None:
            self.folder.write_text("best.yaml", preset_text(self.config(best), self.sentence()))
        self.folder.write_json("summary.json", self.to_json())
        self.folder.write_text("tune-report.html", tune_page(self))


def summarise(preset: str, root: Path, plan: Plan, setting: Setting, dataset: Dataset) -> Summary:
    """What a search's files say."""
    records = setting.search.records()
    runs: dict[int, list[tuple[TrialRecord, int]]] = {}
    for record, seed in finalist_records(setting.search):
        runs.setdefault(record.number, []).append((record, seed))
    finalists = []
    for record in [r for r in records if r.number == 0] + best_trials(records, len(records)):
        if found := runs.get(record.number):
            finalists.append(
                Finalist(
                    record,
                    [seed for _, seed in found],
                    [r.scores[-1].score for r, _ in found],
                    [r.metrics["held_out"] for r, _ in found],
                    [r.metrics["train_seconds"] for r, _ in found],
                    found[0][0].metrics["held_out_floor"],
                )
            )
    return Summary(preset, root, plan, setting, dataset, records, finalists)


def preset_text(config: Config, comment: str) -> str:
    """A preset file: what differs from the defaults, under a line of comment."""
    return f"# {comment}\n" + yaml.safe_dump(merge({}, chosen_values(config)), sort_keys=False)


def _plus_minus(finalist: Finalist) -> str:
    return f"{finalist.mean:.4g} ± {finalist.spread:.2g}"
