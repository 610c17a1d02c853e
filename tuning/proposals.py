"""Which configurations are tried: the plan of a search, and the searcher that proposes its trials to Ray Tune."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import optuna
from optuna.trial import FrozenTrial, TrialState, create_trial
from ray.tune.search import Searcher

from ndsm.core.rng import numpy_stream, stream_seed
from ndsm.errors import InputError
from tuning.folder import FINISHED, UNFINISHED, SearchFolder, TrialRecord
from tuning.space import Space
from tuning.stopping import StopName
from tuning.trial import TICKS

SearchName = Literal["tpe", "pareto", "random", "grid", "pbt"]

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
        """Read a trial's files and report its outcome to the sampler."""
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
        elif earlier := self._frozen(record, state, values):
            self._study.add_trial(earlier)

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
    """Objective values to minimise: the score, and for `pareto` also the training time."""
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
