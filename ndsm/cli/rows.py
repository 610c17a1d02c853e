"""Commands that draw, complete and score rows with a trained run."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ndsm.cli.options import ImputeOptions, SampleOptions, ScoreOptions, parse
from ndsm.errors import InputError

if TYPE_CHECKING:
    from ndsm.data import TableSchema
    from ndsm.data.labels import Labels
    from ndsm.runs import Run


def sample_command(args: Sequence[str]) -> None:
    """`ndsm sample`."""
    options = parse("sample", SampleOptions, args)
    from ndsm.cli.console import print_result
    from ndsm.core.places import shown
    from ndsm.core.progress import stage
    from ndsm.core.uris import is_uri
    from ndsm.data import TableWriter
    from ndsm.data.table_formats import FORMATS
    from ndsm.runs import Run
    from ndsm.runs.layout import MODEL_FILES
    from ndsm.workflows.sample_shards import FILE_ROWS
    from ndsm.workflows.trained_model import TrainedModel

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
    with_labels = options.with_labels or options.class_weights is not None
    if with_labels and (options.given or labelled):
        raise InputError(
            f"{'--with-labels' if options.with_labels else '--class-weights'}: expected neither --given nor --label beside it, found one"
        )
    if options.mode_weights is not None and options.given:
        raise InputError("--mode-weights: expected no --given beside it, found one")
    if options.guidance != 1 and not (labelled or with_labels):
        raise InputError("--guidance: expected a --label for rows to lean towards, found none")
    run = Run.open(options.run, MODEL_FILES)
    if is_uri(options.out) and Path(shown(options.out)).suffix in FORMATS:
        raise InputError(
            f"--out: expected a path for a file, or a folder at a URI, found {shown(options.out)}"
        )
    if is_uri(options.out) or not Path(options.out).suffix:
        if not options.local:
            from pipelines.address import check_address

            check_address()
        if options.given or labelled or with_labels or options.mode_weights is not None:
            raise InputError(
                "--given, --label, --with-labels, --class-weights, --mode-weights: expected a file as --out, found the folder "
                f"{options.out}"
            )
        sample_to_folder(run, options)
        return
    target = Path(options.out)
    if options.n > FILE_ROWS and not options.given and options.label is None:
        print(
            f"a folder as --out, such as {target.with_suffix('')}, is filled by all nodes of a Ray cluster, and by the "
            "same command after a stop",
            file=sys.stderr,
        )
    model = TrainedModel.of(run)
    named = f"sampling {options.n} rows", options.n
    labels = run.labels()
    number = None if options.label is None else labels.number_of_text(options.label)
    # A .npy file has one type for all numbers, and no names.
    nameless = target.suffix.lower() == ".npy"
    if with_labels and nameless:
        raise InputError(f"--with-labels: expected a file with named columns as --out, found {options.out}")
    extra = [labels.field] if (labelled and not nameless) or with_labels else []
    modes = None if options.mode_weights is None else numbers_of("--mode-weights", options.mode_weights)
    classes = None if options.class_weights is None else class_weights(options.class_weights, labels)
    with TableWriter(target, run.schema(), extra=extra) as out:
        if options.given:
            given = given_values(options.given, model.schema)
            with stage(*named) as advance:
                out.write(model.sample_given(given, options.n, options.seed, options.steps, advance))
        else:
            generated = model.sample(
                options.n, options.seed, options.steps, label=number, with_labels=with_labels,
                class_weights=classes, sampler=options.sampler, guidance=options.guidance, noise=options.noise,
                mode_weights=modes,
            )  # fmt: skip
            with stage(*named) as advance:
                for rows, numbers in generated:
                    out.write(rows, extra=[labels.array(numbers)] if extra else [])
                    advance(len(rows))
    found = {"out": options.out, "rows": options.n}
    print_result(found, options.json, lambda: print(f"{options.n} rows in {options.out}"))


def sample_to_folder(run: "Run", options: SampleOptions) -> None:
    """Fill a folder with Parquet files, here or on a cluster."""
    from ndsm.cli.console import print_result
    from ndsm.core.progress import say
    from ndsm.runs import Run
    from ndsm.workflows.sample_shards import SampleRequest, Shard, ShardFolder
    from ndsm.workflows.trained_model import TrainedModel

    # Actors on this machine work in other folders.
    run = Run(run.path.resolve())
    model = TrainedModel.of(run)
    # The call alone refuses a sampler that does not suit the run: before there is a folder.
    model.rows(1, options.seed, options.steps, options.sampler, noise=options.noise)
    folder = ShardFolder(
        options.out,
        run,
        SampleRequest(options.n, options.seed, options.steps, options.sampler, noise=options.noise),
    )
    total = len(folder.parts)
    done = total - len(folder.missing())
    if done:
        say(f"{done} of {total} files are there already")

    def tell(part: Shard) -> None:
        nonlocal done
        done += 1
        say(f"{done}/{total} {part.file}: {part.rows} rows")

    try:
        if options.local:
            for part in folder.missing():
                folder.make(model, part)
                tell(part)
        elif done < total:
            from pipelines.generate import generate_on_ray

            generate_on_ray(folder, tell)
    except KeyboardInterrupt:
        there = total - len(folder.missing())
        say(f"stopped: {there} of {total} files are there; the same command makes the others")
        raise
    print_result(
        {"out": options.out, "rows": options.n, "files": total},
        options.json,
        lambda: print(f"{options.n} rows in {folder.place}: {total} files and _generation.json"),
    )


def numbers_of(option: str, text: str) -> list[float]:
    """Parse numbers with commas between them.

    Raises:
        InputError: a part is no number.
    """
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"{option}: expected numbers with commas between them, found {text!r}") from None


def class_weights(text: str, labels: "Labels") -> list[float]:
    """Parse LABEL=WEIGHT,...: the weight of each label, 0 for those that are not named.

    Raises:
        InputError: a label is unknown or named twice, or a weight is no number.
    """
    found: dict[int, float] = {}
    for word in text.split(","):
        name, _, value = word.rpartition("=")
        number = labels.number_of_text(name)
        if number in found:
            raise InputError(f"--class-weights: expected each label once, found {name!r} again")
        found[number] = numbers_of("--class-weights", value)[0]
    return [found.get(number, 0.0) for number in range(len(labels.values))]


def given_values(given: Sequence[str], schema: "TableSchema") -> dict[str, float]:
    """Parse NAME=VALUE words; values of columns of true/false and of times may be written as such."""
    from ndsm.data.cells import from_text

    kinds = {field.name: field.type for field in schema.flat().arrow_schema()}
    found = {}
    for word in given:
        name, _, value = word.rpartition("=")
        try:
            found[name] = from_text(value, kinds.get(name))
        except ValueError:
            raise InputError(f"--given: expected NAME=VALUE with a number, found {word!r}") from None
    return found


def score_command(args: Sequence[str]) -> None:
    """`ndsm score`."""
    options = parse("score", ScoreOptions, args)
    from ndsm.cli.console import print_result
    from ndsm.core.places import shown
    from ndsm.core.progress import stage
    from ndsm.core.uris import is_uri
    from ndsm.runs import Run
    from ndsm.runs.layout import MODEL_FILES
    from ndsm.workflows.score_table import RowScorer, advice, open_rows, score_table

    for name, value in (("probes", options.probes), ("seed", options.seed)):
        if value is not None and value < 0:
            raise InputError(f"--{name}: expected 0 or more, found {value}")
    if options.workers is not None and options.workers < 1:
        raise InputError(f"--workers: expected at least 1, found {options.workers}")
    if options.workers is not None:
        from pipelines.address import check_address

        check_address()
    run = Run.open(options.run, MODEL_FILES)
    csv = options.csv.over(run.config().data.csv)
    table = open_rows(run, options.data, csv)
    if options.bound is not None and options.bound < 2:
        raise InputError(f"--bound: expected at least 2 draws, found {options.bound}")
    settings = {
        "end": options.end, "probes": options.probes, "seed": options.seed, "bound": options.bound
    }  # fmt: skip
    named = f"scoring {table.rows} rows", table.rows
    if warning := advice(run, table):
        print(f"ndsm: warning: {warning}", file=sys.stderr)
    if options.workers is None and is_uri(options.out):
        raise InputError(
            f"--out: expected a path, or --workers beside a folder at a URI, found {shown(options.out)}"
        )
    if options.workers is None:
        scorer = RowScorer(run, **settings)
        with stage(*named) as advance:
            mean = score_table(scorer, table, Path(options.out), advance)
    else:
        from pipelines.score import score_on_ray

        with stage(named[0]):
            mean = score_on_ray(run, options.data, options.out, options.workers, settings)
    print_result(
        {"out": options.out, "rows": table.rows, "mean_log_density": mean},
        options.json,
        lambda: print(f"{table.rows} rows in {shown(options.out)}, mean log-density {mean:.4f} nats"),
    )


def impute_command(args: Sequence[str]) -> None:
    """`ndsm impute`."""
    options = parse("impute", ImputeOptions, args)
    import numpy as np
    import pyarrow as pa

    from ndsm.cli.console import print_result
    from ndsm.core.progress import stage
    from ndsm.data import TableSchema, TableWriter
    from ndsm.data.cells import to_floats
    from ndsm.data.incomplete import DRAW, IncompleteTable
    from ndsm.data.table_writer import checked_target, write_tables
    from ndsm.runs import Run
    from ndsm.runs.layout import MODEL_FILES
    from ndsm.workflows.score_table import open_rows
    from ndsm.workflows.trained_model import TrainedModel

    for name, least in {"draws": 1, "steps": 2, "seed": 0, "particles": 1}.items():
        found = getattr(options, name)
        if found is not None and found < least:
            raise InputError(f"--{name}: expected at least {least}, found {found}")
    run = Run.open(options.run, MODEL_FILES)
    schema, extension = run.schema(), checked_target(options.out)
    # A file without names and types has no room for other columns.
    table = IncompleteTable.read(
        open_rows(run, options.data, options.csv.over(run.config().data.csv)),
        schema,
        with_others=extension != ".npy",
    )
    if DRAW in table.order and extension != ".npy":
        raise InputError(
            f"{options.data}: expected no column 'draw', the number of the draw in {options.out}, found one; rename it, or "
            "give a .npy file as --out, which has no names"
        )
    if table.left_out:
        listed = ", ".join(table.left_out)
        print(
            f"ndsm: warning: {options.out} has no room for the columns that the run does not know: {listed}",
            file=sys.stderr,
        )
    model, total = TrainedModel.of(run), options.draws * int(np.isnan(table.rows).any(1).sum())

    def draws() -> Iterator[pa.Table]:
        with stage(f"drawing the missing numbers of {total} rows", total) as advance:
            drawn = model.impute(
                table.rows,
                options.draws,
                options.seed,
                options.steps,
                options.particles,
                advance,
            )
        for k, completed in enumerate(drawn):
            yield table.completed(k, completed, schema)

    if extension == ".npy":
        columns = TableSchema(tuple((field.name, str(field.type)) for field in table.schema()))
        with TableWriter(options.out, columns) as out:
            for completed in draws():
                out.write(np.column_stack([to_floats(column.combine_chunks()) for column in completed]))
    else:
        write_tables(options.out, table.schema(), draws())
    print_result(
        {"out": options.out, "draws": options.draws, "rows": len(table.rows)},
        options.json,
        lambda: print(f"{options.draws} x {len(table.rows)} rows in {options.out}"),
    )
