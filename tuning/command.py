"""`ndsm tune`: check everything, search, run the finalists, write what was learned."""

import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ndsm.cli.console import print_result
from ndsm.config import Config
from ndsm.core.global_state import environment
from ndsm.core.progress import say
from ndsm.core.uris import is_uri
from ndsm.data import Dataset, load
from ndsm.errors import InputError, Unfinished
from ndsm.training import fit_mixture
from ndsm.workflows.setup import training_problem, with_counted_labels
from pipelines.address import check_address
from pipelines.cluster import cluster
from pipelines.growth import grown, let_go
from pipelines.resources import SIMULATOR, TRAINER, Cluster, check_budget
from pipelines.room import wait_for_room
from pipelines.shared_paths import check_seen
from pipelines.train import machines_for, uses_gpu
from tuning.finalists import run_finalists
from tuning.folder import FINISHED, SearchFolder, TrialRecord
from tuning.population import changeable, run_population
from tuning.proposals import Plan, SearchName
from tuning.remote import search_folder
from tuning.scoring import Scorer, choose_metric, search_split
from tuning.search import TUNE_ENVIRONMENT, gently_interrupted, run_search
from tuning.space import Space, make_space
from tuning.stopping import StopName
from tuning.summary import Summary, summarise
from tuning.trial import Setting

TrialKind = Literal["in-process", "train"]
SCORED_ROWS = 4000
"""Generated rows of a score, if the preset's evaluation does not have fewer."""
NESTED_TRIAL_CPUS = 0.01
"""CPUs reserved for a trial that only waits for its workers; Ray refuses 0."""


@dataclass(frozen=True)
class SearchOptions:
    """Options of `ndsm tune`; its help explains each."""

    preset: str
    config: Config
    path: Path | str
    """Of the search's folder; a path or a URI."""
    ranges: dict[str, str]
    frozen: tuple[str, ...]
    trials: int
    search: SearchName
    stop: StopName
    metric: str | None
    trial_kind: TrialKind
    concurrent: int | None
    scale: float
    rows: int | None
    validation: float
    finalists: int
    seeds: int
    pool_gb: float
    fresh: bool
    json: bool = False


def tune(options: SearchOptions) -> bool:
    """Search as the options say, or go on with it; false if it was interrupted.

    Raises:
        InputError: something is wrong with what was asked, or a node does not see the folder; nothing is written.
        Unfinished: no trial was trained to its end.
    """
    _check_numbers(options)
    check_address()
    # Ray's workers may have another working directory.
    root = options.config.data.root.resolve()
    base = options.config.model_copy(
        update={
            "data": options.config.data.model_copy(update={"root": root}),
            # Trials are compared at equal shares of their steps.
            "train": options.config.train.model_copy(update={"patience": 0}),
        }
    )
    dataset = load(base.data, base.train.seed)
    if dataset.notice:
        print(f"ndsm: {dataset.notice}", file=sys.stderr)
    base = with_counted_labels(base, dataset)
    metric = choose_metric(options.metric, dataset)
    split = search_split(dataset, options.validation, metric)
    space = make_space(base, split.train.shape, options.ranges, options.frozen)
    if options.search == "pbt":
        space = changeable(space, options.ranges, base.train.steps * options.scale)
    plan = Plan(space, options.trials, options.search, options.stop, base.train.seed)
    if options.search == "grid":
        others = [params for params in space.grid() if params != space.preset()]
        plan = replace(plan, trials=min(options.trials, 1 + len(others)))
    remote = is_uri(options.path)
    folder = search_folder(options.path if remote else Path(options.path).resolve())
    settings = describe(options, space, metric, dataset)
    folder.owner.check_free()
    if options.fresh:
        folder.check_place()
    else:
        folder.check(settings)
    # The split leaves labels out where the metric does not look at them.
    labels = None if dataset.train_labels is None else dataset.train_labels[: len(split.train)]
    preset = training_problem(base, fit_mixture(base, split.train), split.stamp, labels)
    preset.limiter(base.train.worker_range[0])
    rows = options.rows or min(base.evaluate.n, SCORED_ROWS)
    setting = Setting(
        folder=folder.where,
        preset=preset,
        scorer=Scorer(split, metric, rows, base.train.seed),
        scale=options.scale,
        # Trials of several machines share no pool.
        pool_bytes=0 if remote or options.trial_kind == "train" else int(options.pool_gb * 2**30),
        nested=options.trial_kind == "train",
    )
    with environment(**TUNE_ENVIRONMENT), cluster() as connected:
        simulators, data_bytes = base.train.first_simulators, split.train.nbytes

        def check(there: Cluster) -> None:
            if setting.nested:
                gpu = uses_gpu(base.train, there)
                check_budget(there, base.train, simulators, preset.spec.block_bytes, data_bytes, gpu)
            trials_at_once(there, base, options.trial_kind, options.concurrent)

        of_trial = machines_for(base.train, simulators) if setting.nested else [{"CPU": 1.0}]
        before = connected
        connected = grown(
            connected, of_trial * (options.concurrent or 1), check, base.train.start_seconds, say
        )
        concurrent = trials_at_once(connected, base, options.trial_kind, options.concurrent)
        resources = trial_resources(connected, base, options.trial_kind, concurrent)
        check_seen(written=[] if remote else [folder.path])
        if not setting.nested:
            wait_for_room(resources, 1, base.train.start_seconds, say)
        if connected is not before:
            let_go()
        with folder.hold(), gently_interrupted(folder) as interrupted:
            if options.fresh:
                folder.remove()
            folder.begin(settings)
            announce(options, folder, space, split, metric, concurrent)
            if sum(r.status in FINISHED for r in folder.records()) < plan.trials:
                if options.search == "pbt":
                    run_population(plan, setting, concurrent, resources, told(plan))
                else:
                    run_search(plan, setting, concurrent, resources, told(plan))
            if not interrupted():
                run_finalists(plan, setting, dataset, options.finalists, options.seeds, resources)
        summary = summarise(options.preset, options.config.data.root, plan, setting, dataset)
    summary.write()
    report(summary, folder, interrupted(), options.json)
    return not interrupted()


def _check_numbers(options: SearchOptions) -> None:
    """Raise InputError if a number is out of range or options contradict one another."""
    least = {"trials": 1, "concurrent": 1, "rows": 2, "finalists": 0, "seeds": 1}
    for name, low in least.items():
        value = getattr(options, name)
        if value is not None and value < low:
            raise InputError(f"--{name}: expected at least {low}, found {value}")
    if not 0 < options.scale <= 1:
        raise InputError(f"--scale: expected more than 0 and at most 1, found {options.scale:g}")
    if not 0 < options.validation < 1:
        raise InputError(f"--validation: expected a share between 0 and 1, found {options.validation:g}")
    if options.search == "pbt" and options.trial_kind != "in-process":
        raise InputError(f"--search pbt: expected --trial-kind in-process, found {options.trial_kind}")
    if options.trial_kind == "train" and options.config.train.simulators == "auto":
        # A trial's pool of simulators would grow into the resources of other trials.
        raise InputError("--trial-kind train: expected a number as train.simulators, found auto")
    if options.config.train.storage is not None:
        raise InputError(
            f"train.storage: expected none for a search, whose runs are kept in --out, found {options.config.train.storage}; give "
            "a path that all nodes share, or a URI, as --out"
        )
    if options.pool_gb < 0:
        raise InputError(f"--pool-gb: expected 0 or more, found {options.pool_gb:g}")


def describe(options: SearchOptions, space: Space, metric: str, dataset: Dataset) -> dict[str, object]:
    """What `search.json` holds, and a search that goes on has to be equal in."""
    return {
        "preset": options.preset,
        "config": options.config.model_dump(mode="json"),
        "space": space.describe(),
        "search": options.search,
        "stop": options.stop,
        "metric": metric,
        "trial_kind": options.trial_kind,
        "scale": options.scale,
        "rows": options.rows,
        "validation": options.validation,
        "data": dataset.stamp,
    }


def trial_cpus(config: Config, kind: TrialKind) -> float:
    """CPUs that a trial and the processes it starts take."""
    if kind == "in-process":
        return 1.0
    train = config.train
    return train.first_simulators + train.worker_range[0] * train.cpus_per_worker + NESTED_TRIAL_CPUS


def trials_at_once(connected: Cluster, config: Config, kind: TrialKind, asked: int | None) -> int:
    """How many trials run at once: as many as asked for, or as the cluster has room for.

    Raises:
        InputError: there is room for less.
    """
    takes = {"CPUs": (connected.cpus, trial_cpus(config, kind))}
    if kind == "train":
        workers, simulators = config.train.worker_range[0], config.train.first_simulators
        if uses_gpu(config.train, connected):
            takes["GPUs"] = connected.gpus, workers
        if connected.trainers is not None:
            takes[f"of the resource '{TRAINER}'"] = connected.trainers, workers
        if connected.simulators is not None and simulators:
            takes[f"of the resource '{SIMULATOR}'"] = connected.simulators, simulators
    elif connected.gpus and config.train.device != "cpu" and connected.nodes:
        # Each has a share of a GPU, and a CPU beside it.
        there = sum(node.total.get("CPU", 0.0) for node in connected.nodes if node.total.get("GPU"))
        takes = {"CPUs on nodes with a GPU": (there, 1.0)}
    what, (there, each) = min(takes.items(), key=lambda item: item[1][0] / item[1][1])
    room = int(there / each)
    if (asked or 1) > room:
        raise InputError(
            f"--concurrent: expected at most {room}, found {asked or 1}: the cluster has {there:g} {what} and a trial "
            f"takes {each:g}"
        )
    return asked or room


def trial_resources(connected: Cluster, config: Config, kind: TrialKind, concurrent: int) -> dict[str, float]:
    """What Ray reserves for a trial's own process; of a GPU 1/k of it, with the least k for which so many trials find room.

    Another share would leave a part of each GPU that no trial can take, and trials that wait for it.

    Raises:
        InputError: trials are to train on GPUs, and the cluster has none.
    """
    if kind == "train":
        return {"CPU": NESTED_TRIAL_CPUS}
    if config.train.device == "cuda" and not connected.gpus:
        raise InputError("train.device: expected a cluster with GPUs for 'cuda', found none; use auto or cpu")
    if not connected.gpus or config.train.device == "cpu":
        return {"CPU": 1}
    totals = [node.total for node in connected.nodes] or [{"CPU": connected.cpus, "GPU": connected.gpus}]
    for k in range(1, concurrent + 1):
        # A share of one GPU: shares do not add up over several.
        room = (min(int(t.get("CPU", 0.0)), k * int(t.get("GPU", 0.0))) for t in totals)
        if sum(room) >= concurrent:
            break
    return {"CPU": 1, "GPU": 1 / k}


def announce(
    options: SearchOptions, folder: SearchFolder, space: Space, split: Dataset, metric: str, concurrent: int
) -> None:
    """Say what is going to happen."""
    records = folder.records()
    ended = sum(r.status in FINISHED for r in records)
    if records:
        say(f"resuming {Path(str(folder)).name}: {ended} of {options.trials} trials have ended")
    say(
        f"{options.preset}: {options.search} over {len(space.parameters)} fields, {options.trials} trials of "
        f"{options.scale:g} x the preset's training time, {concurrent} at once; scored by {metric} on "
        f"{len(split.validation)} of the training rows; results in {folder}"
    )


def told(plan: Plan) -> Callable[[TrialRecord], None]:
    """Prints a line for each trial that ends."""
    started, console = time.monotonic(), sys.stdout

    def show(record: TrialRecord) -> None:
        if record.status == "running":
            return
        score = (
            ""
            if record.score is None
            else f" {record.score:.4g} at {record.scores[-1].share:.0%} of its steps"
        )
        reason = f": {record.reason}" if record.status in ("failed", "invalid", "died") else ""
        say(f"{time.monotonic() - started:6.0f} s  {record.name} {record.status}{score}{reason}", console)

    return show


def report(summary: Summary, folder: SearchFolder, interrupted: bool, as_json: bool) -> None:
    """Say how it ended.

    Raises:
        Unfinished: no trial was trained to its end.
    """
    print_result(summary.to_json(), as_json, lambda: print(summary.sentence()))
    if interrupted:
        say("stopped; the same command goes on from here")
    best = "" if summary.best is None else "best.yaml, "
    say(f"{folder}: {best}summary.json, tune-report.html; TensorBoard logs in {folder}/ray")
    if summary.best is None and not interrupted:
        raise Unfinished(nothing_done(summary.records))


def nothing_done(records: list[TrialRecord]) -> str:
    """Why a search has no result, in a sentence."""
    ended = Counter(record.status for record in records)
    counts = ", ".join(f"{n} {status}" for status, n in ended.items()) or "none was begun"
    reason = next((f"; {r.name}: {' '.join(r.reason.split())}" for r in records if r.reason), "")
    again = "; the same command tries those that died again" if ended["died"] else ""
    return f"no trial was trained to its end ({counts}){reason}{again}"
