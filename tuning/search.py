"""The search: which configurations are tried, on Ray Tune, and which are stopped early.

The search's state is its trials' files. A driver that is started again, after whatever end, tells the sampler and the
stopping rule what those say and goes on: finished trials are left alone, begun ones resume from their checkpoints, and
nothing is read from Ray's own files.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule
from ray.tune.search import Searcher

from ndsm.core.interrupt import on_interrupt
from ndsm.core.rng import numpy_stream, stream_seed
from ndsm.errors import InputError
from tuning.folder import FINISHED, UNFINISHED, SearchFolder, TrialRecord
from tuning.space import Space
from tuning.trial import RUNGS, TICKS, Setting, run_trial

SearchName = Literal["tpe", "pareto", "random", "grid", "pbt"]
StopName = Literal["asha", "median", "none"]

TIME_ATTRIBUTE = "ninths"
"""Ninths of a trial's steps: what stopping rules count. It goes on where a resumed trial does."""
INVALID_PER_TRIAL = 20
"""Invalid combinations in a row for each trial asked for, after which a search gives up."""


@dataclass(frozen=True)
class Plan:
    """What is searched, and how.

    Args:
        space: the parameters.
        trials: how many are to end; invalid combinations do not count.
        search: what proposes them.
        stop: what ends bad ones early.
        seed: of the proposals.
    """

    space: Space
    trials: int
    search: SearchName = "tpe"
    stop: StopName = "asha"
    seed: int = 0


class Proposals(Searcher):
    """Ray Tune's searcher: unfinished trials first, then the preset, then what Optuna proposes.

    Args:
        plan: what is searched.
        folder: where trials are written before they start.
        on_end: called with each trial's record when it has ended.
    """

    def __init__(
        self, plan: Plan, folder: SearchFolder, on_end: Callable[[TrialRecord], None] = lambda _: None
    ) -> None:
        super().__init__(metric="score", mode="min")
        self._plan, self._folder, self._on_end = plan, folder, on_end
        records = folder.records()
        # An earlier driver's sampler would begin with the proposals that it began with then.
        seed = stream_seed(plan.seed, "proposals", len(records)) % 2**32 if records else plan.seed
        self._study = make_study(replace(plan, seed=seed))
        self._asked: dict[int, optuna.Trial] = {}
        self._numbers: dict[str, int] = {}
        self._unfinished = [r for r in records if r.status in UNFINISHED]
        self._next = max((r.number for r in records), default=-1) + 1
        self._ended = sum(r.status in FINISHED for r in records)
        self._invalid = 0
        grid = plan.space.grid() if plan.search == "grid" else None
        if grid is not None:
            # The preset comes first in any case.
            tried = [plan.space.preset(), *(r.params for r in records)]
            grid = [p for p in grid if p not in tried]
            numpy_stream(plan.seed, "search grid").shuffle(grid)
        self._grid = grid
        for record in records:
            self._tell(record)

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's number and values; None to wait, FINISHED at the end."""
        if self._folder.stop_file.exists():
            return Searcher.FINISHED
        if self._unfinished:
            record = self._unfinished.pop(0)
        else:
            if self._ended + len(self._numbers) >= self._plan.trials:
                # One that runs may turn out to be invalid, and is then replaced.
                return None if self._numbers else Searcher.FINISHED
            if self._invalid >= INVALID_PER_TRIAL * self._plan.trials:
                return Searcher.FINISHED
            proposed = self._propose()
            if proposed is None:
                return Searcher.FINISHED
            record = proposed
        self._numbers[trial_id] = record.number
        return {"number": record.number, **record.params}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Take up what a trial's files say, and tell the sampler."""
        number = self._numbers.pop(trial_id)
        trial = self._folder.trial(number)
        record = trial.read()
        if record.status == "running" and error:
            record.status, record.reason = "died", "its process died again and again"
            trial.write(record)
        # Tried again by the next command, and not by this one: what killed it may still be there.
        self._ended += record.status in (*FINISHED, "died")
        self._invalid += record.status == "invalid"
        self._tell(record)
        self._on_end(record)

    def _propose(self) -> TrialRecord | None:
        """A new trial, written to its folder; the preset is number 0. None if there is nothing left to try."""
        if self._next == 0:
            return self._begin(self._plan.space.preset(), 1.0)
        for _ in range(INVALID_PER_TRIAL):
            if self._grid is not None:
                if not self._grid:
                    return None
                params, share = self._grid.pop(), 1.0
            else:
                asked = self._study.ask()
                # Multi-objective: the training time is chosen too.
                share = (
                    asked.suggest_float("time", 0.1, 1.0, log=True) if self._plan.search == "pareto" else 1.0
                )
                params = self._plan.space.suggest(asked)
                self._asked[self._next] = asked
            record = self._begin(params, share)
            try:
                self._plan.space.config(params)
                return record
            except InputError as error:
                record.status, record.reason = "invalid", str(error)
                self._folder.trial(record.number).write(record)
                self._invalid += 1
                self._tell(record)
                self._on_end(record)
        return None

    def _begin(self, params: dict[str, Any], share: float) -> TrialRecord:
        record = TrialRecord(self._next, params, share)
        self._folder.trial(record.number).write(record)
        self._next += 1
        return record

    def _tell(self, record: TrialRecord) -> None:
        """Tell Optuna how a trial ended; nothing if it has not, or may end otherwise."""
        asked = self._asked.pop(record.number, None)
        if record.status in UNFINISHED:
            return
        state = {"done": TrialState.COMPLETE, "stopped": TrialState.PRUNED}.get(
            record.status, TrialState.FAIL
        )
        values = outcome(record, self._plan.search) if state == TrialState.COMPLETE else None
        if asked is not None:
            if state == TrialState.PRUNED and self._plan.search != "pareto":
                for score in record.scores:
                    asked.report(score.score, round(score.share * TICKS))
            self._study.tell(asked, values, state)
        elif known := self._frozen(record, state, values):
            self._study.add_trial(known)

    def _frozen(
        self, record: TrialRecord, state: TrialState, values: list[float] | None
    ) -> FrozenTrial | None:
        """A trial of an earlier driver, or the preset; None if its values do not lie in the space."""
        params = dict(record.params)
        distributions = self._plan.space.distributions(params)
        if self._plan.search == "pareto":
            params["time"] = record.time
            distributions["time"] = optuna.distributions.FloatDistribution(0.1, 1.0, log=True)
        many = self._plan.search == "pareto"
        try:
            return create_trial(
                state=state,
                values=values,
                params=params,
                distributions=distributions,
                intermediate_values={} if many else {round(s.share * TICKS): s.score for s in record.scores},
            )
        except ValueError:
            return None


def outcome(record: TrialRecord, search: SearchName) -> list[float]:
    """What the sampler is to make small: the score, and for `pareto` also the training time."""
    assert record.score is not None
    return [record.score, record.time] if search == "pareto" else [record.score]


def make_study(plan: Plan) -> optuna.Study:
    """Optuna's sampler of a plan's kind; random values for one that proposes nothing itself."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    samplers: Mapping[str, Callable[[], optuna.samplers.BaseSampler]] = {
        # Conditional parameters in groups; trials that still run count as bad, so that others look elsewhere.
        "tpe": lambda: optuna.samplers.TPESampler(
            multivariate=True, group=True, constant_liar=True, n_startup_trials=8, seed=plan.seed
        ),
        "pareto": lambda: optuna.samplers.TPESampler(constant_liar=True, n_startup_trials=8, seed=plan.seed),
    }
    sampler = samplers.get(plan.search, lambda: optuna.samplers.RandomSampler(seed=plan.seed))()
    return optuna.create_study(
        sampler=sampler, directions=["minimize"] * (2 if plan.search == "pareto" else 1)
    )


@dataclass(frozen=True)
class _Earlier:
    """A trial of an earlier driver, as far as a stopping rule looks at it."""

    trial_id: str


class GentleStop(FIFOScheduler):
    """A stopping rule whose victims save their state and end by themselves, which leaves no process behind.

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
        """Pass it on."""
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


def trial_function(config: dict[str, Any], setting: Setting, space: Space) -> None:
    """What runs in a trial's own process."""
    import torch

    torch.set_num_threads(1)
    number = config["number"]
    trial = setting.search.trial(number)
    params = {key: value for key, value in config.items() if key != "number"}
    chosen = space.base if number == 0 else space.config(params)
    run_trial(setting, trial, chosen, lambda line: tune.report(ticked(line)))


def run_search(
    plan: Plan,
    setting: Setting,
    concurrent: int,
    resources: dict[str, float],
    on_end: Callable[[TrialRecord], None],
) -> None:
    """Run trials on the cluster this process is connected to, until enough have ended or a stop was asked for.

    Args:
        concurrent: trials at once.
        resources: of one, as Tune counts.
        on_end: called with the record of each trial that ended.
    """
    folder = setting.search
    # Trials see relative paths as this process does, report what they have, and our handler is asked on Ctrl-C.
    function = tune.with_parameters(trial_function, setting=setting, space=plan.space)
    tuner = tune.Tuner(
        tune.with_resources(function, resources),
        tune_config=tune.TuneConfig(
            search_alg=Proposals(plan, folder, on_end),
            scheduler=stopping_rule(plan.stop if plan.search != "pareto" else "none", folder),
            num_samples=-1,
            max_concurrent_trials=concurrent,
            # A process imports and starts for seconds, more than a small trial takes.
            reuse_actors=True,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=folder.ray.name,
            storage_path=str(folder.path),
            verbose=0,
            failure_config=tune.FailureConfig(max_failures=2),
        ),
    )
    # Tune prints a heading and more even when it is to be silent.
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
        tuner.fit()


def _trial_name(trial: Any) -> str:
    return f"trial-{trial.config['number']:04d}"


TUNE_ENVIRONMENT = {
    # Our own handler lets trials save; Tune's would stop them where they are.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # Relative paths of the configuration mean the same in trials as here.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # An invalid trial has no score.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}


@contextmanager
def gently_interrupted(folder: SearchFolder) -> Iterator[Callable[[], bool]]:
    """While active, the first Ctrl-C asks all trials to save and stop, the second ends at once."""

    def ask() -> bool:
        folder.stop_file.touch()
        for record in folder.records():
            if record.status == "running":
                folder.trial(record.number).ask_to_stop()
        return True

    with on_interrupt(ask, "saving the trials that run", sys.stdout) as interrupted:
        yield interrupted
    # After the second Ctrl-C it stays until the next start: trials that still save have yet to find it.
    folder.stop_file.unlink(missing_ok=True)
