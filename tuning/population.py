"""Population-based training (Jaderberg et al. 2017), for values that may change while a model trains.

All members train for a ninth of their steps and are scored; the worst quarter then take over the weights of one of the best
quarter, and its values changed a little; and so on to the end. Member 0, the preset, is never changed, so that the others are
compared with it. What a search has done is in its members' files and in `population.json`, from which it goes on.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ndsm.config import Config
from ndsm.config.roles import adjustable_names
from ndsm.core.global_state import threads
from ndsm.core.rng import numpy_stream
from ndsm.errors import InputError
from tuning.folder import UNFINISHED, SearchFolder, TrialRecord
from tuning.proposals import Plan, make_study
from tuning.remote import trial_folder
from tuning.space import Parameter, Range, Space
from tuning.tasks import run_tasks
from tuning.trial import TICKS, Setting, run_trial

CHANGEABLE = adjustable_names(Config)
"""Fields that a training can go on with other values of."""
SHARES = tuple(k / TICKS for k in range(1, TICKS + 1))
"""Shares of a member's steps after which it is scored."""
QUANTILE = 0.25
"""Members that are replaced, and those that they take over from."""
RESAMPLED = 0.25
"""Chance that a value is drawn anew in place of being changed a little."""
FACTORS = (0.8, 1.25)
LEAST_STEPS = 20 * TICKS
"""Steps of a member below which its ninths cannot be told apart."""


def changeable(space: Space, asked: Iterable[str], steps: float) -> Space:
    """The part of a space that may change while a model trains.

    Args:
        asked: fields that have to be searched.
        steps: of a member.

    Raises:
        InputError: a field was asked for that may not change, nothing is left, or there are too few steps.
    """
    if steps < LEAST_STEPS:
        raise InputError(f"--search pbt: expected at least {LEAST_STEPS} steps of a member, found {steps:g}")
    # A number of a list, such as objective.epsilon.values.0, is a parameter of its own.
    kept = tuple(p for p in space.parameters if {p.field, p.field.rpartition(".")[0]} & set(CHANGEABLE))
    fields = {p.field for p in kept}
    for field in asked:
        if field not in fields:
            raise InputError(
                f"--space.{field}: expected a field that may change while a model trains for --search pbt "
                f"({', '.join(CHANGEABLE)}), found {field}"
            )
    if not kept:
        raise InputError(
            f"--freeze: expected some of {', '.join(CHANGEABLE)} left for --search pbt, found none"
        )
    return replace(space, parameters=kept)


Execute = Callable[[Callable[..., None], Any, list[tuple[Any, ...]]], None]
"""Calls a function with what jobs share and each job."""


def run_population(
    plan: Plan,
    setting: Setting,
    concurrent: int,
    resources: Mapping[str, float],
    on_end: Callable[[TrialRecord], None],
    execute: Execute | None = None,
) -> None:
    """Train the members to their end, or until a stop is asked for.

    Args:
        concurrent: members that train at once.
        resources: of one, as Ray counts.
        on_end: called with each member's record at the end.
        execute: Ray tasks, if not given.
    """
    folder = setting.search
    execute = execute or (lambda f, shared, jobs: run_tasks(f, shared, jobs, concurrent, resources))
    _begin(plan, folder)
    for generation, share in enumerate(SHARES, 1):
        jobs = [
            (folder.trial(r.number).where, plan.space.config(r.params), share)
            for r in folder.records()
            if r.status in UNFINISHED and r.score_at(share) is None
        ]
        execute(train_member, setting, jobs)
        if folder.stop_file.exists():
            return
        if share < 1:
            replace_worst(plan, folder, generation)
    for record in folder.records():
        on_end(record)


@threads(1)
def train_member(setting: Setting, where: Path | str, config: Any, share: float) -> None:
    """Train a member, whose folder is a path or a URI, up to a share of its steps, and score it."""
    trial = trial_folder(where)
    trial.forget()
    run_trial(setting, trial, config, rungs=tuple(s for s in SHARES if s <= share), until=share)


def _begin(plan: Plan, folder: SearchFolder) -> None:
    """Write the members that are not there yet: the preset, and others at random."""
    study = make_study(plan)
    for number in range(plan.trials):
        params = plan.space.suggest(study.ask()) if number else plan.space.preset()
        trial = folder.trial(number)
        if not trial.exists():
            # Values that may change cost nothing: all members take the same steps.
            trial.write(TrialRecord(number, params, cost=1.0))


def replace_worst(plan: Plan, folder: SearchFolder, generation: int) -> dict[int, int]:
    """Have the worst members take over from the best after a generation; who takes over from whom.

    A call after a kill at any point ends as the first one would have.
    """
    donors = folder.population()
    if str(generation) not in donors:
        pairs = takeovers(folder.records(), generation, plan.seed)
        donors[str(generation)] = {str(member): donor for member, donor in pairs.items()}
        folder.write_population(donors)
    chosen = {int(member): donor for member, donor in donors[str(generation)].items()}
    for member, donor in chosen.items():
        _take_over(plan, folder, generation, member, donor)
    return chosen


def takeovers(records: list[TrialRecord], generation: int, seed: int) -> dict[int, int]:
    """For each of the worst quarter the one of the best quarter that it takes over from; the preset keeps its own."""
    share = SHARES[generation - 1]
    scored = sorted(
        (score, r.number)
        for r in records
        if r.status == "running" and (score := r.score_at(share)) is not None
    )
    count = int(QUANTILE * len(scored))
    if not count:
        return {}
    best, worst = ([number for _, number in part] for part in (scored[:count], scored[-count:]))
    rng = numpy_stream(seed, "takeovers", generation)
    return {member: int(rng.choice(best)) for member in worst if member}


def _take_over(plan: Plan, folder: SearchFolder, generation: int, member: int, donor: int) -> None:
    trial, giving = folder.trial(member), folder.trial(donor)
    record = trial.read()
    if all(change["generation"] != generation for change in record.changes):
        rng = numpy_stream(plan.seed, "changed values", generation, member)
        given = giving.read().params
        record.params = {
            p.field: changed(p, given[p.field], rng) for p in plan.space.parameters if p.field in given
        }
        with trial.successor(giving) as run:
            config = plan.space.config(record.params)
            train = config.train.model_copy(update={"steps": run.config().train.steps})
            run.begin(config.model_copy(update={"train": train}), run.data(), run.mixture())
            run.adopt_checkpoint()
        record.changes.append({"generation": generation, "from": donor, "params": record.params})
        trial.write(record)
    # The record says that the copy is whole.
    trial.succeed()


def changed(parameter: Parameter, value: Any, rng: np.random.Generator) -> Any:
    """A value near another one of the parameter, or now and then, and of a choice always, any of its values."""
    if not isinstance(parameter, Range):
        return parameter.values[rng.integers(len(parameter.values))]
    low, high = parameter.low, parameter.high
    if rng.random() < RESAMPLED:
        u = rng.random()
        found = low * (high / low) ** u if parameter.log else low + (high - low) * u
    else:
        found = float(np.clip(value * rng.choice(FACTORS), low, high))
    return round(found) if parameter.integer else float(found)
