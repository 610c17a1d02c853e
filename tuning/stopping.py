"""Which trials are stopped early: Ray Tune's rules, obeyed by stop files."""

from dataclasses import dataclass
from typing import Any, Literal

from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule

from tuning.folder import FINISHED, SearchFolder
from tuning.trial import RUNGS, TICKS

StopName = Literal["asha", "median", "none"]

TIME_ATTRIBUTE = "ninths"
"""Ninths of a trial's steps: what stopping rules count. It goes on where a resumed trial does."""


@dataclass(frozen=True)
class _Earlier:
    """Stand-in for a trial of an earlier driver, with what stopping rules read."""

    trial_id: str


class GentleStop(FIFOScheduler):
    """Wraps a stopping rule: trials that it stops save their state and end by themselves, so no process is left behind.

    Args:
        rule: ASHA or the like.
        folder: where the trials' stop files are.
    """

    def __init__(self, rule: Any, folder: SearchFolder) -> None:
        super().__init__()
        self._rule, self._folder = rule, folder
        for record in folder.records():
            if record.status in FINISHED:
                earlier = _Earlier(f"earlier-{record.number}")
                rule.on_trial_add(None, earlier)
                for score in record.scores:
                    line = {"share": score.share, "score": score.score}
                    rule.on_trial_result(None, earlier, ticked(line))

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Forward the trial to the rule."""
        self._rule.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Continue in any case; a trial that the rule would stop finds its stop file."""
        decision = self._rule.on_trial_result(tune_controller, trial, result)
        if decision != self.CONTINUE and result["share"] < 1:
            self._folder.trial(trial.config["number"]).ask_to_stop()
        return self.CONTINUE


def stopping_rule(name: StopName, folder: SearchFolder) -> FIFOScheduler:
    """Tune's scheduler of that name."""
    common = {"time_attr": TIME_ATTRIBUTE, "metric": "score", "mode": "min"}
    match name:
        case "asha":
            factor = RUNGS[1] / RUNGS[0]
            return GentleStop(
                ASHAScheduler(**common, max_t=TICKS, grace_period=1, reduction_factor=factor), folder
            )
        case "median":
            # No time slices: a trial that waits for others to catch up would have to be paused. Not hard, because it
            # otherwise refuses what a trial reports that earlier drivers let go on.
            rule = MedianStoppingRule(
                **common,
                grace_period=1,
                min_samples_required=3,
                min_time_slice=float("inf"),
                hard_stop=False,
            )
            return GentleStop(rule, folder)
        case "none":
            return FIFOScheduler()


def ticked(line: dict[str, Any]) -> dict[str, Any]:
    """A trial's report with the time that stopping rules count."""
    return {**line, TIME_ATTRIBUTE: round(line["share"] * TICKS)}
