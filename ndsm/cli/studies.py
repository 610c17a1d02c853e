"""Commands that compare many trainings: gradient variances, the paper's experiments, searches."""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ndsm.cli.options import (
    ReproduceOptions,
    TuneOptions,
    VarianceOptions,
    parse,
    parse_with_preset,
    split_options,
)
from ndsm.core.interrupt import Interrupted, stopping
from ndsm.errors import InputError

if TYPE_CHECKING:
    from ndsm.reproduce import Folder


def bench_command(args: Sequence[str]) -> None:
    """`ndsm bench variance`."""
    if not args or args[0] != "variance":
        raise InputError(
            f"ndsm bench: expected 'variance', found {args[0]!r}"
            if args
            else "ndsm bench: expected 'variance'"
        )
    options = parse_with_preset("bench variance", VarianceOptions, args[1:])
    if options.out is not None and not options.out.parent.is_dir():
        raise InputError(f"--out: expected a folder {options.out.parent}, found none")
    if options.out is not None and options.out.is_dir():
        raise InputError(f"--out: expected a file name, found the folder {options.out}")
    import json

    from ndsm.cli.console import print_result, print_variance
    from ndsm.core.atomic_file import write_whole
    from ndsm.core.progress import stage
    from ndsm.workflows.gradient_variance import gradient_variance

    names = [name.strip() for name in options.objectives.split(",")]
    found = gradient_variance(options.config, names, options.n, options.steps, stage)
    result = {"preset": options.preset, **found}
    print_result(result, options.json, lambda: print_variance(result))
    if options.out is not None:
        write_whole(options.out, json.dumps(result, indent=1).encode())


def reproduce_command(args: Sequence[str]) -> None:
    """`ndsm reproduce`."""
    options = parse("reproduce", ReproduceOptions, args)
    from ndsm.core.places import child, shown
    from ndsm.core.uris import is_uri
    from ndsm.reproduce import STUDIES, Folder
    from ndsm.reproduce.remote import StudyCopy

    if not 0 < options.scale <= 1:
        raise InputError(f"--scale: expected more than 0 and at most 1, found {options.scale:g}")
    if not options.local:
        from pipelines.address import check_address

        check_address()
    study = STUDIES[options.name]
    data = study.data_fields(options.data.root.resolve())
    methods = None if options.rows is None else [row.strip() for row in options.rows.split(",")]
    settings = options.name, study, options.scale, data
    if not is_uri(options.out):
        path = Path(options.out) / options.name
        folder = Folder(path, *settings, options.fresh, methods)
        with folder.hold():
            _run_study(options, folder, path, (path / "runs").resolve())
        return
    uri = child(options.out, options.name)
    copy = StudyCopy(uri, [job.name for job in study.jobs(options.scale, data)])
    with tempfile.TemporaryDirectory(prefix="ndsm-") as name, copy.hold():
        copy.pull(path := Path(name) / options.name, options.fresh)
        folder = Folder(path, *settings, False, methods)
        folder.after_write = lambda: copy.push(path)
        with folder.hold():
            _run_study(options, folder, shown(uri), child(uri, "runs"))


def _run_study(options: ReproduceOptions, folder: "Folder", place: Path | str, runs: Path | str) -> None:
    """Run what has no result yet, and print the results.

    Args:
        place: where they are.
        runs: where the runs are, a path or a URI.
    """
    from ndsm.cli.console import print_result, print_study
    from ndsm.core.places import Place
    from ndsm.core.progress import say
    from ndsm.core.uris import is_uri
    from ndsm.reproduce import Job, Result, number, run_here, stop_file
    from ndsm.runs import Run
    from ndsm.runs.mirror import LEASE

    study = folder.study
    jobs = folder.missing()
    total = len(folder.jobs)
    say(f"{study.title}: {total - len(jobs)} of {total} runs done; results in {place}")

    def done(job: Job, result: Result) -> None:
        folder.add(job, result)
        row = result[0][0]
        left = len(folder.missing())
        numbers = ", ".join(f"{key} {number(row, key):.4g}" for key in study.shown)
        say(f"{total - left}/{total} {job.name}: {numbers}, trained {row['train_seconds']:.0f} s")

    def begun() -> bool:
        if is_uri(runs):
            begun = {name.partition("/")[0] for name in Place(runs).names() if name.endswith("/config.yaml")}
            return any(job.name in begun for job in folder.missing())
        jobs = [(Run(Path(runs) / job.name), job.config.train.steps) for job in folder.missing()]
        # Of a run that is not begun, or trained and only evaluated, there is nothing to save.
        return any(run.exists() and run.last_step() < steps for run, steps in jobs)

    def saved() -> bool:
        if is_uri(runs):
            return not any(name.endswith(LEASE) for name in Place(runs).names())
        owners = [Run(Path(runs) / job.name).owner.read() for job in folder.missing()]
        return not any(owner is not None and owner.alive for owner in owners)

    # A killed command's would stop this one.
    stop_file(runs).unlink(missing_ok=True)
    try:
        with stopping(stop_file(runs), begun, "saving checkpoints", sys.stderr, saved):
            if options.local:
                run_here(jobs, runs, done)
            elif jobs:
                from pipelines.reproduce import run_on_ray

                run_on_ray(jobs, runs, done)
    except (Interrupted, KeyboardInterrupt):
        left = len(folder.missing())
        say(f"stopped: {total - left} of {total} runs done; the same command goes on from their checkpoints")
        raise
    folder.finish()
    print_result(
        folder.results,
        options.json,
        lambda: print_study(study.title, study.shown, folder.groups(), folder.results["floor"]),
    )
    say(f"{place}: results.json, figure.png")


def tune_command(args: Sequence[str]) -> None:
    """`ndsm tune`."""
    rest, ranges = split_options(args, "--space.")
    options = parse_with_preset("tune", TuneOptions, rest)
    from ndsm.core.places import child
    from ndsm.core.uris import is_uri
    from tuning.command import SearchOptions, tune

    name = options.name or Path(options.preset).stem
    path = child(options.out, name) if is_uri(options.out) else Path(options.out) / name
    own = ("name", "out", "freeze", "quiet")
    given = {key: value for key, value in vars(options).items() if key not in own}
    frozen = tuple(field.strip() for field in options.freeze.split(",") if field.strip())
    if not tune(SearchOptions(**given, path=path, ranges=ranges, frozen=frozen)):
        raise Interrupted
