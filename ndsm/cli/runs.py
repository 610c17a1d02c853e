"""Commands that train, evaluate and describe a run."""

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ndsm.cli.options import (
    EvaluateOptions,
    ReportOptions,
    StatusOptions,
    TrainOptions,
    parse,
    parse_with_preset,
)
from ndsm.core.interrupt import Interrupted, stopping
from ndsm.errors import InputError

if TYPE_CHECKING:
    from ndsm.runs import Run
    from ndsm.workflows.setup import RunContext


def train_command(args: Sequence[str]) -> None:
    """`ndsm train`."""
    train(parse_with_preset("train", TrainOptions, args))


def train(options: TrainOptions) -> None:
    """Train a run, then evaluate it."""
    from ndsm.cli.console import TrainingProgress
    from ndsm.core.global_state import usable_threads
    from ndsm.core.places import shown
    from ndsm.core.progress import say, stage
    from ndsm.runs import Run
    from ndsm.runs.identity import differing_fields
    from ndsm.workflows.prior_match import prior_match, prior_warning
    from ndsm.workflows.setup import begin, prepare
    from ndsm.workflows.train import train_locally

    if not options.local:
        # Before the data are read.
        from pipelines.address import check_address

        check_address()
    config = options.config
    name = options.name or Path(options.preset).stem
    run = Run.at(options.out, config.train.storage, name, options.fresh)
    with stage("reading the data and fitting the mixture"):
        experiment = prepare(config, run, options.fresh, continued=options.continued)
    last = 0 if options.fresh else run.last_step()
    changed = differing_fields(run.config(), experiment.config) if options.continued else []
    if not last:
        # Before the hours are spent.
        match = prior_match(experiment.problem, experiment.dataset.train)
        if warning := prior_warning(match):
            print(f"ndsm: warning: {warning}", file=sys.stderr)
    last_metrics: dict[str, Any] = {"step": last}

    def announce() -> None:
        mixture = experiment.mixture
        if last >= config.train.steps:
            say(f"{name} is complete at step {last}")
        elif last and changed:
            say(f"continuing {name} at step {last} with {', '.join(changed)}")
        elif last:
            say(f"resuming {name} at step {last}")
        else:
            assert mixture is not None
            rows, d = experiment.dataset.train.shape
            if columns := experiment.column_notice:
                say(columns)
            for notice in experiment.notices:
                print(f"ndsm: {notice}", file=sys.stderr)
            say(
                f"{name}: {rows} rows of dimension {d}, {mixture.n_components} {mixture.covariance_type} components, "
                f"variances {mixture.min_variance:.3g} and up; run directory {run.path}"
            )

    if last >= config.train.steps:
        announce()
        with run.hold():
            run.update(experiment.config)
    else:
        in_training = False
        with (
            TrainingProgress(config.train.steps, last) as progress,
            # Before that there is nothing to save, and a request to stop would be forgotten as an earlier sitting's.
            stopping(run.stop_file, lambda: in_training, "saving a checkpoint", sys.stderr) as stopped,
        ):

            def show(metrics: dict[str, Any]) -> None:
                last_metrics.update(metrics)
                progress.show(metrics)

            def begun() -> None:
                nonlocal in_training
                in_training = True
                announce()
                progress.warm_up()

            if options.local:
                # One core is left to the simulating thread.
                with usable_threads(spare=1), run.hold():
                    begin(experiment)
                    begun()
                    for record in train_locally(experiment):
                        show(record.metrics)
            else:
                from pipelines.train import run_on_ray

                run_on_ray(experiment, show, begun, say)
        if stopped() and last_metrics["step"] < config.train.steps:
            # The standard output is the JSON object's alone.
            to = sys.stderr if options.json else sys.stdout
            print(
                f"stopped at step {last_metrics['step']} of {config.train.steps}, loss {last_metrics.get('loss')}",
                file=to,
            )
            saved = run.newest_checkpoint() is not None
            print(
                "a checkpoint is saved; the same command goes on from there"
                if saved
                else "no checkpoint was due yet; the same command starts over",
                file=to,
            )
            raise Interrupted
        if last_metrics["step"] < config.train.steps and "best_step" in last_metrics:
            say(
                f"ended early at step {last_metrics['step']}: the held-out loss has not fallen since step {last_metrics['best_step']}, whose "
                "weights are kept"
            )
    # What comes now is written to the copy too.
    with run.hold():
        _judge(run, experiment, last >= config.train.steps, options.json)
    # The copy outlives this machine, and the folder of a Ray job.
    where = f"{shown(run.mirror.uri)} and {run.path}" if run.mirror else run.path
    say(f"results in {where}: report.html, samples.png, metrics.json, model.safetensors")


def _judge(run: "Run", experiment: "RunContext", was_complete: bool, as_json: bool) -> None:
    """Evaluate a finished run and write its report, unless both exist."""
    from ndsm.core.progress import stage
    from ndsm.report.page import write_report
    from ndsm.workflows.evaluate import evaluate_run

    # None of a run that has been trained further since.
    known = run.evaluation() if was_complete and run.samples_png.is_file() else None
    if known is None:
        metrics = evaluate_run(run, experiment.config.evaluate.n, experiment.dataset, stage)
        show_evaluation(metrics, as_json)
    elif as_json:
        show_evaluation(known, True)
    if known is None or not run.report_html.is_file():
        with stage("writing the report"):
            write_report(run, experiment.dataset)


def evaluate_command(args: Sequence[str]) -> None:
    """`ndsm evaluate`."""
    options = parse("evaluate", EvaluateOptions, args)
    from ndsm.core.progress import stage
    from ndsm.report.numbers import find_data
    from ndsm.report.page import write_report
    from ndsm.runs import Run
    from ndsm.workflows.evaluate import evaluate_run

    if options.n is not None and options.n < 2:
        raise InputError(f"--n: expected at least 2 rows, found {options.n}")
    run = Run.open(options.run)
    # Read once for both; where they are not to be had, each says so in its own way.
    dataset, _ = find_data(run, run.config())
    # What is opened by a URI is written there: not while it is trained.
    with run.hold() if run.mirror else nullcontext():
        show_evaluation(evaluate_run(run, options.n, dataset, stage), options.json)
        # It would go on showing the metrics from before.
        with stage("writing the report"):
            write_report(run, dataset)


def show_evaluation(metrics: dict[str, Any], as_json: bool) -> None:
    """Print metrics as a table or, for other programs, as one JSON object."""
    from ndsm.cli.console import print_evaluation, print_result

    print_result(metrics, as_json, lambda: print_evaluation(metrics))


def report_command(args: Sequence[str]) -> None:
    """`ndsm report`."""
    options = parse("report", ReportOptions, args)
    from ndsm.cli.console import print_result
    from ndsm.core.places import child, shown
    from ndsm.core.progress import stage
    from ndsm.report.page import write_report
    from ndsm.runs import Run

    run = Run.open(options.run)
    with stage("writing the report"):
        write_report(run)
    out = child(options.run, "report.html") if run.mirror else str(run.report_html)
    print_result({"out": out}, options.json, lambda: print(shown(out)))


def status_command(args: Sequence[str]) -> None:
    """`ndsm status`."""
    options = parse("status", StatusOptions, args)
    from ndsm.cli.console import print_result, print_status
    from ndsm.runs import Run
    from ndsm.runs.layout import STATUS_FILES
    from ndsm.runs.status import status

    found = status(Run.open(options.run, STATUS_FILES))
    print_result(found, options.json, lambda: print_status(found))
