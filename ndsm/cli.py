"""The command line: `ndsm COMMAND ...`.

Exit codes: 0 done; 1 a failure while working, the run can be resumed; 2 bad input, nothing was written; 130
stopped by Ctrl-C, a checkpoint was saved. `pipelines` is imported only by the commands that need Ray.
"""

import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from ndsm.config import Config, SamplerName, build_config, preset_names, read_preset
from ndsm.errors import InputError
from ndsm.interrupt import Interrupted, on_interrupt

if TYPE_CHECKING:
    from ndsm.run import Run


@dataclass(kw_only=True)
class Output:
    """What a command prints."""

    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Show no progress, only the result."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the result as one JSON object and nothing else."""


@dataclass
class TrainOptions(Output):
    """Train a preset and evaluate the result; a run of the same name is resumed."""

    preset: Annotated[str, tyro.conf.Positional]
    """A packaged preset (`ndsm presets` lists them) or a YAML file."""
    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    name: str | None = None
    """Name of the run's folder, the preset's if not given."""
    out: Path = Path("runs")
    """Folder of runs."""
    local: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train in this process, without Ray."""
    fresh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Delete a run of the same name and start over."""


@dataclass
class SampleOptions(Output):
    """Generate rows with a trained run, in the columns and units of its data."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    n: int = 10_000
    """Rows."""
    out: Path = Path("samples.parquet")
    """File to write: .parquet, .arrow, .csv or .npy; or a folder of Parquet files, which all nodes of the Ray cluster
    fill, and which the same command goes on to fill."""
    local: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fill the folder in this process, without Ray."""
    sampler: SamplerName | None = None
    """Sampler, the run's if not given."""
    steps: int | None = None
    """Network evaluations per row, the run's sample.steps if not given."""
    noise: float | None = None
    """Noise of each step of flow, flow2, ddim, dpmpp-2m and ancestral, from 0 to 1; the run's sample.noise if not given."""
    seed: int = 0
    """Seed; the same seed gives the same rows."""
    given: tuple[str, ...] = ()
    """Values of some columns, NAME=VALUE ...; the others are drawn given these."""
    label: int | None = None
    """Number of the label of all rows, for a run trained with network.classes."""
    guidance: float = 1.0
    """How far rows lean towards the label; 1 for the label's own law."""


@dataclass
class ImputeOptions(Output):
    """Complete a table: draw the missing numbers of each row given the others."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    data: Annotated[Path, tyro.conf.Positional]
    """Table with the run's columns; a number is missing where there is none or NaN."""
    draws: int = 1
    """Completed tables to draw, one after the other in the file."""
    out: Path = Path("imputed.parquet")
    """File to write, with a column `draw` before the others: .parquet, .arrow, .csv or .npy."""
    steps: int | None = None
    """Steps of generation, the run's sample.steps if not given."""
    seed: int = 0
    """Seed; the same seed gives the same rows."""


@dataclass
class EvaluateOptions(Output):
    """Generate rows with a trained run and compare them with its data."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    n: int | None = None
    """Rows to generate, the run's evaluate.n if not given."""


@dataclass
class ReportOptions(Output):
    """Write a run's report.html: how well it went, curves, mixture, nearest training rows, configuration."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""


@dataclass
class StatusOptions:
    """Tell what a live or finished run is doing."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object."""


@dataclass
class ScoreOptions(Output):
    """Log-density of each row of a table under a trained run, in nats and bits per dimension."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run directory."""
    data: Annotated[Path, tyro.conf.Positional]
    """Table with the columns of the run's data: .npy, .csv, .parquet or .arrow."""
    out: Path = Path("logp.parquet")
    """File to write, one row per row of the table; with --workers a new folder of Parquet files."""
    end: float | None = None
    """Time at which the density is taken, the last step of the run's generation if not given."""
    probes: int | None = None
    """Random directions per row for the divergence; 0: exact; not given: exact up to 64 dimensions, 8 above."""
    bound: int | None = None
    """Draws of time and noise per row for a lower bound of the reverse SDE's log-density, which then takes the place of the
    probability flow's; of runs with linear noising."""
    seed: int = 0
    """Seed of the directions and draws."""
    workers: int | None = None
    """Ray workers that share the rows of a Parquet file, one CPU each; without Ray if not given."""


@dataclass
class VarianceOptions(Output):
    """Measure the variance of the objectives' per-sample gradients at one set of weights."""

    preset: Annotated[str, tyro.conf.Positional]
    """A packaged preset or a YAML file."""
    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    objectives: str = "ndsm-eps0,ndsm-eps1,ndsm-cv,antithetic,path"
    """Which ones, separated by commas."""
    n: int = 4000
    """Recorded rows per objective."""
    steps: int = 500
    """NDSM steps after which the weights are taken."""
    out: Path | None = None
    """JSON file to write."""


@dataclass
class TuneOptions(Output):
    """Search for a better configuration than a preset's; started again, the search goes on.

    --space.FIELD LOW..HIGH (or A,B,C) searches a field between two numbers or among some values, in place of the
    preset's own range of it; a field given as --FIELD VALUE is where the search starts from.
    """

    preset: Annotated[str, tyro.conf.Positional]
    """A packaged preset or a YAML file."""
    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.FlagConversionOff]
    trials: int = 20
    """Trials that are to end; invalid combinations do not count."""
    name: str | None = None
    """Name of the search's folder, the preset's if not given."""
    out: Path = Path("tune")
    """Folder of searches; on several machines a path they all see."""
    freeze: str = ""
    """Fields that are not searched, separated by commas."""
    search: Literal["tpe", "pareto", "random", "grid", "pbt"] = "tpe"
    """Optuna's TPE; the same for quality against training time; at random; every combination of few values;
    population-based training of what may change while a model trains."""
    stop: Literal["asha", "median", "none"] = "asha"
    """What ends bad trials early, by their score after 1/9 and 1/3 of their steps."""
    metric: str | None = None
    """What trials are ranked by: swd2, fid, class_share_tv or class_share_std; fid for images and else swd2."""
    trial_kind: Literal["in-process", "train"] = "in-process"
    """A trial is a process with one CPU, or a Ray Train run with its own simulators and workers."""
    concurrent: int | None = None
    """Trials at once, as many as fit if not given."""
    scale: float = 1.0
    """Training time of a trial, as a fraction of the preset's."""
    rows: int | None = None
    """Generated rows of a score; evaluate.n or 4,000 if not given, whichever is less."""
    validation: float = 0.2
    """Share of the training rows that trials are scored by."""
    finalists: int = 2
    """Best trials that are run again, beside the preset, at its full training time."""
    seeds: int = 3
    """Fresh seeds of each."""
    pool_gb: float = 2.0
    """Size of the pool of simulated blocks that trials share, GB; 0 for none."""
    fresh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Delete a search of the same name and start over."""


@dataclass
class ReproduceData:
    """Where the images are."""

    root: Path = Path("data")
    """Folder with MNIST/raw; its files are downloaded there if they are missing."""


@dataclass
class ReproduceOptions(Output):
    """Run an experiment of the paper in full: all rows, all seeds; started again, it goes on."""

    name: Annotated[
        Literal[
            "fig2",
            "fig3",
            "fig6",
            "fig7",
            "fig8",
            "table1",
            "table2",
            "table3",
            "ablation-mixture",
            "ablation-mixture-digits",
            "ablation-mixture-latent",
        ],
        tyro.conf.Positional,
    ]
    """Figure or table of the paper, or an ablation of the mixture."""
    data: ReproduceData = field(default_factory=ReproduceData)
    rows: str | None = None
    """The only rows to run, separated by commas, such as ou-dsm,path; finished ones stay in the results. All if none."""
    scale: float = 1.0
    """Fraction of the training steps and generated rows."""
    out: Path = Path("reproduce")
    """Folder of the results; on several machines a path they all see."""
    local: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """One run after the other in this process, without Ray."""
    fresh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Delete earlier results and start over."""


def parse_with_preset(command: str, kind: type[Any], args: Sequence[str]) -> Any:
    """The options of a command that takes a preset, whose values are then the options' defaults."""
    # Options are typed as in Python; YAML's spelling is what presets and config.yaml use.
    spelling = {"true": "True", "false": "False", "null": "None"}
    spelled = [spelling.get(a, a) for a in args]
    # The defaults are needed before the arguments are read: guess which one is the preset, then check.
    values = {
        i + 1
        for i, a in enumerate(args)
        if a.startswith("--") and "=" not in a and a not in ("--local", "--fresh", "--quiet", "--json")
    }
    free = [a for i, a in enumerate(args) if i not in values and not a.startswith("-")]
    preset = next((a for a in free if a in preset_names() or a.endswith((".yaml", ".yml"))), None)
    while True:
        base = build_config(read_preset(preset), preset) if preset else Config()
        options = parse(command, kind, spelled, kind(preset=preset or tyro.MISSING, config=base))
        if options.preset == preset:
            return options
        preset = options.preset


def train_command(args: Sequence[str]) -> None:
    """`ndsm train`."""
    train(parse_with_preset("train", TrainOptions, args))


def train(options: TrainOptions) -> None:
    """Train as the options say, then evaluate."""
    from ndsm import experiment as steps
    from ndsm.console import TrainingProgress, say, stage
    from ndsm.report import write_report
    from ndsm.run import Run

    config = options.config
    name = options.name or Path(options.preset).stem
    run = Run.at(options.out, config.train.storage, name)
    with stage("reading the data and fitting the mixture"):
        experiment = steps.prepare(config, run, options.fresh)
    last = 0 if options.fresh else run.last_step()
    last_metrics: dict[str, Any] = {"step": last}

    def announce() -> None:
        mixture = experiment.mixture
        if last >= config.train.steps:
            say(f"{name} is complete at step {last}")
        elif last:
            say(f"resuming {name} at step {last}")
        else:
            assert mixture is not None
            rows, d = experiment.dataset.train.shape
            say(
                f"{name}: {rows} rows of dimension {d}, {mixture.n_components} {mixture.covariance_type} components, "
                f"variances {mixture.min_variance:.3g} and up; run directory {run.path}"
            )

    if last >= config.train.steps:
        announce()
    else:
        with (
            TrainingProgress(config.train.steps, last) as progress,
            stopping(run.stop_file) as stopped,
        ):

            def show(metrics: dict[str, Any]) -> None:
                last_metrics.update(metrics)
                progress.show(metrics)

            def begun() -> None:
                announce()
                progress.warm_up()

            if options.local:
                use_threads()
                steps.begin(experiment)
                begun()
                for record in steps.train_locally(experiment):
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
            print("a checkpoint is saved; the same command goes on from there", file=to)
            raise Interrupted
    # None of a run that has been trained further since.
    known = run.evaluation() if last >= config.train.steps else None
    if known is None:
        metrics = steps.evaluate_run(run, config.evaluate.n, experiment.dataset, stage)
        show_evaluation(metrics, options.json)
    elif options.json:
        show_evaluation(known, True)
    if known is None or not run.report_html.is_file():
        with stage("writing the report"):
            write_report(run, experiment.dataset)
    say(f"results in {run.path}: report.html, samples.png, metrics.json, model.safetensors")


@contextmanager
def stopping(stop_file: Path) -> Iterator[Callable[[], bool]]:
    """While active, the first Ctrl-C asks the training to save and stop, the second ends at once."""

    def ask() -> bool:
        # Before the run is begun there is nothing to save.
        begun = stop_file.parent.is_dir()
        if begun:
            stop_file.touch()
        return begun

    try:
        with on_interrupt(ask, "saving a checkpoint", sys.stderr) as stopped:
            yield stopped
    finally:
        stop_file.unlink(missing_ok=True)


def use_threads() -> None:
    """Leave one core to the simulating thread."""
    import torch

    torch.set_num_threads(max(1, (os.cpu_count() or 1) - 1))


def sample_command(args: Sequence[str]) -> None:
    """`ndsm sample`."""
    options = parse("sample", SampleOptions, args)
    from ndsm.console import print_result, stage
    from ndsm.data import TableWriter
    from ndsm.experiment import Generator, given_row
    from ndsm.generation import FILE_ROWS
    from ndsm.run import Run

    if options.n < 1:
        raise InputError(f"--n: expected at least 1 row, found {options.n}")
    if options.steps is not None and options.steps < 2:
        raise InputError(f"--steps: expected at least 2, found {options.steps}")
    if options.seed < 0:
        raise InputError(f"--seed: expected 0 or more, found {options.seed}")
    if options.noise is not None and not 0 <= options.noise <= 1:
        raise InputError(f"--noise: expected a number from 0 to 1, found {options.noise:g}")
    labelled = options.label is not None
    if options.given and (labelled or options.guidance != 1 or options.sampler or options.noise is not None):
        raise InputError(
            "--given: expected none of --label, --guidance, --sampler and --noise beside it, found one"
        )
    if options.guidance != 1 and not labelled:
        raise InputError("--guidance: expected a --label for rows to lean towards, found none")
    run = Run.open(options.run)
    if not options.out.suffix:
        if options.given or labelled:
            raise InputError(f"--given, --label: expected a file as --out, found the folder {options.out}")
        sample_to_folder(run, options)
        return
    if options.n > FILE_ROWS and not options.given and options.label is None:
        print(
            f"a folder as --out, such as {options.out.with_suffix('')}, is filled by all nodes of a Ray cluster, and by the "
            "same command after a stop",
            file=sys.stderr,
        )
    generator, scaling = Generator.of(run), run.scaling()
    named = f"sampling {options.n} rows", options.n
    with TableWriter(options.out, run.schema()) as out:
        if options.given:
            row = given_row(run.schema().dimension_names, _values(options.given)).repeat(options.n, 0)
            with stage(*named) as advance:
                out.write(generator.impute(row, scaling, 1, options.seed, options.steps, advance)[0])
        else:
            generated = generator.rows(
                options.n,
                options.seed,
                options.steps,
                options.sampler,
                label=options.label,
                guidance=options.guidance,
                noise=options.noise,
            )
            with stage(*named) as advance:
                for rows in generated:
                    out.write(scaling.invert(rows))
                    advance(len(rows))
    found = {"out": options.out, "rows": options.n}
    print_result(found, options.json, lambda: print(f"{options.n} rows in {options.out}"))


def score_command(args: Sequence[str]) -> None:
    """`ndsm score`."""
    options = parse("score", ScoreOptions, args)
    from ndsm.console import print_result, stage
    from ndsm.run import Run
    from ndsm.scoring import RowScorer, advice, open_rows, score_table

    for name, value in (("probes", options.probes), ("seed", options.seed)):
        if value is not None and value < 0:
            raise InputError(f"--{name}: expected 0 or more, found {value}")
    if options.workers is not None and options.workers < 1:
        raise InputError(f"--workers: expected at least 1, found {options.workers}")
    run = Run.open(options.run)
    table = open_rows(run, options.data)
    if options.bound is not None and options.bound < 2:
        raise InputError(f"--bound: expected at least 2 draws, found {options.bound}")
    settings = {
        "end": options.end, "probes": options.probes, "seed": options.seed, "bound": options.bound
    }  # fmt: skip
    named = f"scoring {table.rows} rows", table.rows
    if options.workers is None:
        scorer = RowScorer(run, **settings)
        with stage(*named) as advance:
            mean = score_table(scorer, table, options.out, advance)
    else:
        from pipelines.score import score_on_ray

        with stage(named[0]):
            mean = score_on_ray(run, options.data, options.out, options.workers, settings)
    print_result(
        {"out": options.out, "rows": table.rows, "mean_log_density": mean},
        options.json,
        lambda: print(f"{table.rows} rows in {options.out}, mean log-density {mean:.4f} nats"),
    )
    if warning := advice(run, table):
        print(f"ndsm: warning: {warning}", file=sys.stderr)


def sample_to_folder(run: "Run", options: SampleOptions) -> None:
    """Fill a folder with Parquet files, here or on a cluster."""
    from ndsm.console import print_result, say
    from ndsm.experiment import Generator
    from ndsm.generation import Part, PartFolder, Request
    from ndsm.run import Run

    # Actors on this machine work in other folders.
    run = Run(run.path.resolve())
    folder = PartFolder(
        options.out.resolve(),
        run,
        Request(options.n, options.seed, options.steps, options.sampler, noise=options.noise),
    )
    total = len(folder.parts)
    done = total - len(folder.missing())
    if done:
        say(f"{done} of {total} files are there already")

    def tell(part: Part) -> None:
        nonlocal done
        done += 1
        say(f"{done}/{total} {part.file}: {part.rows} rows")

    if options.local:
        generator = Generator.of(run)
        for part in folder.missing():
            folder.make(generator, part)
            tell(part)
    elif done < total:
        from pipelines.generate import generate_on_ray

        generate_on_ray(folder, tell)
    print_result(
        {"out": options.out, "rows": options.n, "files": total},
        options.json,
        lambda: print(f"{options.n} rows in {options.out}: {total} files and _generation.json"),
    )


def _values(given: Sequence[str]) -> dict[str, float]:
    """The columns and values of NAME=VALUE words."""
    found = {}
    for word in given:
        name, _, value = word.rpartition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise InputError(f"--given: expected NAME=VALUE with a number, found {word!r}") from None
    return found


def impute_command(args: Sequence[str]) -> None:
    """`ndsm impute`."""
    options = parse("impute", ImputeOptions, args)
    import numpy as np

    from ndsm.console import print_result, stage
    from ndsm.data import TableSchema, TableWriter, open_table
    from ndsm.experiment import Generator
    from ndsm.run import Run

    for name in ("draws", "steps", "seed"):
        found, least = getattr(options, name), {"draws": 1, "steps": 2, "seed": 0}[name]
        if found is not None and found < least:
            raise InputError(f"--{name}: expected at least {least}, found {found}")
    run = Run.open(options.run)
    schema, scaling = run.schema(), run.scaling()
    named = bool(schema.columns) and options.data.suffix.lower() != ".npy"
    table = open_table(options.data, [name for name, _ in schema.columns] if named else None)
    rows = np.concatenate(list(table.batches(np.float64, missing=True)))
    generator, total = Generator.of(run), options.draws * int(np.isnan(rows).any(1).sum())
    with stage(f"drawing the missing numbers of {total} rows", total) as advance:
        drawn = generator.impute(rows, scaling, options.draws, options.seed, options.steps, advance)
    with TableWriter(options.out, TableSchema((("draw", "int32"), *table.schema.flat().columns))) as out:
        for k, completed in enumerate(drawn):
            out.write(np.column_stack([np.full(len(rows), k), completed]))
    print_result(
        {"out": options.out, "draws": options.draws, "rows": len(rows)},
        options.json,
        lambda: print(f"{options.draws} x {len(rows)} rows in {options.out}"),
    )


def evaluate_command(args: Sequence[str]) -> None:
    """`ndsm evaluate`."""
    options = parse("evaluate", EvaluateOptions, args)
    from ndsm.console import stage
    from ndsm.experiment import evaluate_run
    from ndsm.report import find_data, write_report
    from ndsm.run import Run

    if options.n is not None and options.n < 2:
        raise InputError(f"--n: expected at least 2 rows, found {options.n}")
    run = Run.open(options.run)
    # Read once for both; where they are not to be had, each says so in its own way.
    dataset, _ = find_data(run, run.config())
    show_evaluation(evaluate_run(run, options.n, dataset, stage), options.json)
    # It would go on showing the metrics from before.
    with stage("writing the report"):
        write_report(run, dataset)


def show_evaluation(metrics: dict[str, Any], as_json: bool) -> None:
    """Print metrics as a table or, for other programs, as one JSON object."""
    from ndsm.console import print_evaluation, print_result

    print_result(metrics, as_json, lambda: print_evaluation(metrics))


def report_command(args: Sequence[str]) -> None:
    """`ndsm report`."""
    options = parse("report", ReportOptions, args)
    from ndsm.console import print_result, stage
    from ndsm.report import write_report
    from ndsm.run import Run

    run = Run.open(options.run)
    with stage("writing the report"):
        write_report(run)
    print_result({"out": run.report_html}, options.json, lambda: print(run.report_html))


def status_command(args: Sequence[str]) -> None:
    """`ndsm status`."""
    options = parse("status", StatusOptions, args)
    from ndsm.console import print_result, print_status
    from ndsm.run import Run
    from ndsm.status import status

    found = status(Run.open(options.run))
    print_result(found, options.json, lambda: print_status(found))


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
    import json

    from ndsm.console import print_result, print_variance, stage
    from ndsm.gradient_variance import gradient_variance

    names = [name.strip() for name in options.objectives.split(",")]
    found = gradient_variance(options.config, names, options.n, options.steps, stage)
    result = {"preset": options.preset, **found}
    print_result(result, options.json, lambda: print_variance(result))
    if options.out is not None:
        options.out.write_text(json.dumps(result, indent=1), encoding="utf-8")


def reproduce_command(args: Sequence[str]) -> None:
    """`ndsm reproduce`."""
    options = parse("reproduce", ReproduceOptions, args)
    from ndsm.console import print_result, print_study, say
    from ndsm.reproduce import STUDIES, Folder, Job, Result, run_here, stop_file
    from ndsm.run import Run

    if not 0 < options.scale <= 1:
        raise InputError(f"--scale: expected more than 0 and at most 1, found {options.scale:g}")
    path = options.out / options.name
    study = STUDIES[options.name]
    data = study.data_fields(options.data.root.resolve())
    methods = None if options.rows is None else [row.strip() for row in options.rows.split(",")]
    folder = Folder(path, options.name, study, options.scale, data, options.fresh, methods)
    jobs, runs = folder.missing(), (path / "runs").resolve()
    total = len(folder.jobs)
    say(f"{study.title}: {total - len(jobs)} of {total} runs done; results in {path}")

    def done(job: Job, result: Result) -> None:
        folder.add(job, result)
        row = result[0][0]
        left = len(folder.missing())
        numbers = ", ".join(f"{key} {row[key]:.4g}" for key in study.shown)
        say(f"{total - left}/{total} {job.name}: {numbers}, trained {row['train_seconds']:.0f} s")

    def ask() -> bool:
        jobs = [(Run(runs / job.name), job.config.train.steps) for job in folder.missing()]
        # Of a run that is not begun, or trained and only evaluated, there is nothing to save.
        if training := any(run.exists() and run.last_step() < steps for run, steps in jobs):
            stop_file(runs).touch()
        return training

    stop_file(runs).unlink(missing_ok=True)
    try:
        with on_interrupt(ask, "saving checkpoints", sys.stderr):
            if options.local:
                run_here(jobs, runs, done)
            elif jobs:
                from pipelines.reproduce import run_on_ray

                run_on_ray(jobs, runs, done)
    except (Interrupted, KeyboardInterrupt):
        left = len(folder.missing())
        say(f"stopped: {total - left} of {total} runs done; the same command goes on from their checkpoints")
        raise
    finally:
        stop_file(runs).unlink(missing_ok=True)
    folder.finish()
    print_result(
        folder.results,
        options.json,
        lambda: print_study(study.title, study.shown, folder.groups(), folder.results["floor"]),
    )
    say(f"{path}: results.json, figure.png")


def tune_command(args: Sequence[str]) -> None:
    """`ndsm tune`."""
    rest, ranges = split_options(args, "--space.")
    options = parse_with_preset("tune", TuneOptions, rest)
    from tuning.command import SearchOptions, tune

    name = options.name or Path(options.preset).stem
    own = ("name", "out", "freeze", "quiet")
    given = {key: value for key, value in vars(options).items() if key not in own}
    frozen = tuple(field.strip() for field in options.freeze.split(",") if field.strip())
    if not tune(SearchOptions(**given, path=options.out / name, ranges=ranges, frozen=frozen)):
        raise Interrupted


def split_options(args: Sequence[str], prefix: str) -> tuple[list[str], dict[str, str]]:
    """The other arguments, and the values of the options that begin with `prefix` by what follows it."""
    rest: list[str] = []
    found: dict[str, str] = {}
    waiting = iter(args)
    for argument in waiting:
        if not argument.startswith(prefix):
            rest.append(argument)
            continue
        name, given, value = argument.removeprefix(prefix).partition("=")
        if not given and (value := next(waiting, "--")).startswith("--"):
            raise InputError(
                f"{argument}: expected a range such as 1e-4..1e-2 or choices such as a,b, found none"
            )
        found[name.replace("-", "_")] = value
    return rest, found


def completion_command(args: Sequence[str]) -> None:
    """`ndsm completion bash|zsh`."""
    import contextlib
    import io
    import re

    from ndsm.completion import completion_script

    words = {}
    for name, (command, _) in COMMANDS.items():
        words[name] = {"completion": ["bash", "zsh"], "bench": ["variance"]}.get(name, [])
        page = io.StringIO()
        # The help text has the options of every command, whatever they are made from.
        if name not in ("completion", "presets", "doctor"):
            with contextlib.redirect_stdout(page), contextlib.suppress(SystemExit):
                command([*words[name], "--help"])
        found = sorted(set(re.findall(r"--[a-z](?:[\w.-]*\w)?", page.getvalue())))
        presets = preset_names() if "--data.name" in found else []
        words[name] = [*words[name], *presets, *found]
    print(completion_script(args[0] if args else "nothing", words), end="")


def presets_command(args: Sequence[str]) -> None:
    """`ndsm presets`."""
    from importlib import resources

    for name in preset_names():
        text = (resources.files("ndsm") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
        print(f"{name:12} {text.splitlines()[0].removeprefix('# ')}")


def doctor_command(args: Sequence[str]) -> None:
    """`ndsm doctor`."""
    import torch

    from ndsm.versions import versions

    for package, version in versions().items():
        print(f"{package} {version}")
    print(f"{os.cpu_count()} cores")
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    print(f"GPUs: {', '.join(names) if names else 'none; training runs on the CPU'}")
    from pipelines.train import cluster

    with cluster() as found:
        print(
            f"Ray answers: {found.cpus:g} CPUs, {found.gpus:g} GPUs, object store {found.object_store / 2**30:.1f} GB"
        )


COMMANDS: dict[str, tuple[Callable[[Sequence[str]], None], str]] = {
    "train": (train_command, "train a preset or a configuration file, and evaluate it"),
    "sample": (sample_command, "generate rows with a trained run"),
    "impute": (impute_command, "complete a table with missing numbers"),
    "evaluate": (evaluate_command, "compare generated rows with the data"),
    "report": (report_command, "write a run's page: quality, curves, mixture, configuration"),
    "status": (status_command, "tell what a live or finished run is doing"),
    "score": (score_command, "log-density of each row of a table under a trained run"),
    "bench": (bench_command, "measure gradient variances: ndsm bench variance PRESET"),
    "reproduce": (
        reproduce_command,
        "run an experiment of the paper: fig2, fig3, fig6, fig7, fig8, table1 to 3, ablation-mixture",
    ),
    "tune": (tune_command, "search for a better configuration than a preset's"),
    "completion": (completion_command, "print a completion script: ndsm completion bash|zsh"),
    "presets": (presets_command, "list the packaged presets"),
    "doctor": (doctor_command, "check the installation, cores, GPUs and Ray"),
}


def parse(command: str, kind: type[Any], args: Sequence[str], default: Any = None) -> Any:
    """The options of a command; a wrong one ends the process with exit code 2.

    What the command shows from here on is what its `Output` asks for.
    """
    extra = {} if default is None else {"default": default}
    options = tyro.cli(
        kind, args=list(args), prog=f"ndsm {command}", config=(tyro.conf.AvoidSubcommands,), **extra
    )
    if isinstance(options, Output):
        from ndsm.console import set_quiet

        set_quiet(options.quiet or options.json)
    return options


def usage() -> str:
    """The list of commands."""
    lines = [f"  {name:10} {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ["usage: ndsm COMMAND [options]", "", *lines, "", "ndsm COMMAND --help tells each one's options"]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; its exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        return 0 if args else 2
    if args[0] == "--version":
        from importlib.metadata import version

        print(f"ndsm {version('ndsm')}")
        return 0
    from ndsm.console import set_quiet

    # torch's own, on the first directional derivative.
    warnings.filterwarnings("ignore", message=r".*jit\.script.*", category=FutureWarning)
    try:
        if args[0] not in COMMANDS:
            raise InputError(f"no command {args[0]!r}: expected one of {', '.join(COMMANDS)}")
        COMMANDS[args[0]][0](args[1:])
    except InputError as error:
        print(f"ndsm: {error}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt):
        return 130
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    except Exception as error:
        if os.environ.get("NDSM_TRACEBACK"):
            raise
        print(f"ndsm: {type(error).__name__}: {error}", file=sys.stderr)
        print(
            "the run can be resumed by the same command; NDSM_TRACEBACK=1 shows where it failed",
            file=sys.stderr,
        )
        return 1
    finally:
        set_quiet(False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
