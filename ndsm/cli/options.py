"""The options of each command, and how they are read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from ndsm.cli.field_help import print_help
from ndsm.config import Config, Csv, SamplerName, build_config, preset_names, read_preset
from ndsm.errors import InputError

FLAGS = ("--local", "--fresh", "--continue", "--quiet", "--json")
"""Options without a value of the commands that take a preset."""
COLUMN_TYPES = ("--data.column-types.", "--data.column_types.")
"""What options of one column's type begin with."""


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
    continued: Annotated[bool, tyro.conf.arg(name="continue"), tyro.conf.FlagCreatePairsOff] = False
    """Go on from the last checkpoint with other values of train.steps, train.lr, train.lr-schedule, train.ema or
    train.grad-clip, also of a run that is trained."""


@dataclass
class SampleOptions(Output):
    """Generate rows with a trained run, in the columns and units of its data."""

    run: Annotated[str, tyro.conf.Positional]
    """Run directory, or the URI of a run's folder in `train.storage`."""
    n: int = 10_000
    """Rows."""
    out: str = "samples.parquet"
    """File to write: .parquet, .arrow, .csv or .npy; or a folder of Parquet files, a path that all nodes of the Ray cluster see
    or a URI, which they fill, and which the same command goes on to fill."""
    local: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Fill the folder in this process, without Ray."""
    sampler: SamplerName | None = None
    """Sampler, the run's if not given."""
    steps: int | None = None
    """Network evaluations per row, the run's sample.steps if not given; with --given as of `ndsm impute`."""
    noise: float | None = None
    """Noise of each step of flow, flow2, ddim, dpmpp-2m and ancestral, from 0 to 1; the run's sample.noise if not given."""
    seed: int = 0
    """Seed; the same seed gives the same rows."""
    given: tuple[str, ...] = ()
    """Values of some columns, NAME=VALUE ...; the others are drawn given these."""
    label: str | None = None
    """Label of all rows, such as yes, 3 or 2020-01-31, for a run trained with network.classes; it is written in a column of
    its own, but not to .npy."""
    with_labels: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Draw the label of each row, too, with the shares of the training rows, and write them in their column."""
    class_weights: str | None = None
    """Shares of the labels among the rows in place of those of the training rows, LABEL=0.5,OTHER=0.5; a label that is not named
    has none. As --with-labels, with other shares."""
    mode_weights: str | None = None
    """Shares of the mixture's components among the rows in place of those of the training rows, such as 0.2,0.3,0.5; for a run
    with process.kind mixture-ou."""
    guidance: float = 1.0
    """How far rows lean towards the label; 1 for the label's own law."""


@dataclass
class CsvOptions:
    """How a table as text is written; what is not given is as for the run's own data."""

    delimiter: str | None = None
    """What separates fields: one character, or \\t."""
    decimal_point: str | None = None
    """What separates the fraction of a number: . or ,"""
    encoding: str | None = None
    """Encoding of the text, as Python calls it, such as utf-16 or cp1252."""
    skip_rows: int | None = None
    """Lines before the one with the column names."""

    def over(self, run: Csv) -> Csv:
        """These options, and the run's in place of those that are not given.

        Raises:
            InputError: one cannot be meant.
        """
        given = {name: value for name, value in vars(self).items() if value is not None}
        try:
            return Csv(**(run.model_dump() | given))
        except InputError as error:
            raise InputError(f"data.csv.{error}") from None


@dataclass
class ImputeOptions(Output):
    """Complete a table: draw the missing numbers of each row given the others."""

    run: Annotated[str, tyro.conf.Positional]
    """Run directory, or the URI of a run's folder in `train.storage`."""
    data: Annotated[str, tyro.conf.Positional]
    """Table with the run's columns, a path or a URI; a number is missing where there is none or NaN."""
    draws: int = 1
    """Completed tables to draw, one after the other in the file."""
    out: Path = Path("imputed.parquet")
    """File to write, with a column `draw` before the others: .parquet, .arrow, .csv or .npy."""
    steps: int | None = None
    """Times of the path from the mixture to the data, 40 if not given."""
    particles: int | None = None
    """Completions of each row among which draws are taken by their weights, the run's sample.particles if not given."""
    seed: int = 0
    """Seed; the same seed gives the same rows."""
    csv: Annotated[CsvOptions, tyro.conf.arg(name="data.csv")] = field(default_factory=CsvOptions)


@dataclass
class EvaluateOptions(Output):
    """Generate rows with a trained run and compare them with its data."""

    run: Annotated[str, tyro.conf.Positional]
    """Run directory, or the URI of a run's folder in `train.storage`."""
    n: int | None = None
    """Rows to generate, the run's evaluate.n if not given."""


@dataclass
class ReportOptions(Output):
    """Write a run's report.html: how well it went, curves, mixture, nearest training rows, configuration."""

    run: Annotated[str, tyro.conf.Positional]
    """Run directory, or the URI of a run's folder in `train.storage`."""


@dataclass
class StatusOptions:
    """Tell what a live or finished run is doing."""

    run: Annotated[str, tyro.conf.Positional]
    """Run directory, or the URI of a run's folder in `train.storage`."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON object."""


@dataclass
class ScoreOptions(Output):
    """Log-density of each row of a table under a trained run, in nats and bits per dimension."""

    run: Annotated[str, tyro.conf.Positional]
    """Run directory, or the URI of a run's folder in `train.storage`."""
    data: Annotated[str, tyro.conf.Positional]
    """Table with the columns of the run's data: .npy, .csv, .tsv, .parquet, .arrow or a folder of .parquet files; a path or a
    URI."""
    out: str = "logp.parquet"
    """File to write, one row per row of the table; with --workers a new folder of Parquet files, a path that all nodes see or a URI."""
    end: float | None = None
    """Time at which the density is taken, the last step of the run's generation if not given."""
    probes: int | None = None
    """Random directions per row for the divergence; 0: exact; not given: exact up to 64 dimensions, 8 above."""
    bound: int | None = None
    """Draws of time and noise per row for a lower bound of the reverse SDE's log-density, which then takes the place of the
    probability flow's; of runs with linear noising."""
    seed: int = 0
    """Seed of the directions and draws."""
    csv: Annotated[CsvOptions, tyro.conf.arg(name="data.csv")] = field(default_factory=CsvOptions)
    workers: int | None = None
    """Ray workers that share the rows of a Parquet file or folder, one CPU each; without Ray if not given."""


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
    out: str = "tune"
    """Folder of searches; on several machines a path they all see, or a URI."""
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
    out: str = "reproduce"
    """Folder of the results; on several machines a path they all see, or a URI."""
    local: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """One run after the other in this process, without Ray."""
    fresh: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Delete earlier results and start over."""


def parse(command: str, kind: type[Any], args: Sequence[str], default: Any = None) -> Any:
    """The options of a command; a wrong one ends the process with exit code 2.

    What the command shows from here on is what its `Output` asks for.
    """
    extra = {} if default is None else {"default": default}
    options = tyro.cli(
        kind, args=list(args), prog=f"ndsm {command}", config=(tyro.conf.AvoidSubcommands,), **extra
    )
    if isinstance(options, Output):
        from ndsm.core.progress import set_quiet

        set_quiet(options.quiet or options.json)
    if getattr(options, "out", None) is not None:
        from ndsm.core.places import check_lasting

        storage = options.config.train.storage if isinstance(options, TrainOptions) else None
        if storage is None:
            check_lasting(str(options.out), "--out")
        else:
            check_lasting(storage, "train.storage")
    return options


def parse_with_preset(command: str, kind: type[Any], args: Sequence[str]) -> Any:
    """The options of a command that takes a preset, whose values are then the options' defaults."""
    args, types = _split(args, COLUMN_TYPES, "a type such as int[18,90] or quantile")
    # Options are typed as in Python; YAML's spelling is what presets and config.yaml use.
    spelling = {"true": "True", "false": "False", "null": "None"}
    spelled = []
    for argument in args:
        name, equals, value = argument.partition("=") if argument.startswith("--") else ("", "", argument)
        spelled.append(name + equals + spelling.get(value, value))
    # The defaults are needed before the arguments are read: guess which one is the preset, then check.
    values = {i + 1 for i, a in enumerate(args) if a.startswith("--") and "=" not in a and a not in FLAGS}
    free = [a for i, a in enumerate(args) if i not in values and not a.startswith("-")]
    preset = next((a for a in free if a in preset_names() or a.endswith((".yaml", ".yml"))), None)
    while True:
        tree = read_preset(preset) if preset else {}
        if types:
            # A name may have points in it.
            data = dict(tree.get("data") or {})
            tree = {**tree, "data": {**data, "column_types": {**(data.get("column_types") or {}), **types}}}
        base = build_config(tree, preset or "the options")
        default = kind(preset=preset or tyro.MISSING, config=base)
        if {"-h", "--help"} & set(args):
            print_help(command, default, base)
        options = parse(command, kind, spelled, default)
        if options.preset == preset:
            return options
        preset = options.preset


def split_options(args: Sequence[str], prefix: str) -> tuple[list[str], dict[str, str]]:
    """The other arguments, and the values of the options that begin with `prefix` by the field that follows it."""
    rest, found = _split(args, [prefix], "a range such as 1e-4..1e-2 or choices such as a,b")
    return rest, {name.replace("-", "_"): value for name, value in found.items()}


def _split(args: Sequence[str], prefixes: Sequence[str], expected: str) -> tuple[list[str], dict[str, str]]:
    """The other arguments, and the values of the options that begin with one of the prefixes by what follows it, as it is written.

    Raises:
        InputError: one has no value, of which `expected` says what it should be.
    """
    rest: list[str] = []
    found: dict[str, str] = {}
    waiting = iter(args)
    for argument in waiting:
        prefix = next((p for p in prefixes if argument.startswith(p)), None)
        if prefix is None:
            rest.append(argument)
            continue
        name, given, value = argument.removeprefix(prefix).partition("=")
        if not given and (value := next(waiting, "--")).startswith("--"):
            raise InputError(f"{argument}: expected {expected}, found none")
        found[name] = value
    return rest, found
