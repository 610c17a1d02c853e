"""A run's report: one page from its numbers."""

from typing import Any

import yaml

from ndsm.config import WITH_EPSILON, Config
from ndsm.data import Dataset
from ndsm.metrics.verdict import CERTAIN, MARGIN
from ndsm.report.evaluation import HEADER, column_rows, distance_rows, evaluation_rows, tested_rows, verdict
from ndsm.report.figures import balance_plot, curve_plots, means_plot, nearest_plot, times_plots, weights_plot
from ndsm.report.numbers import NearestNumbers, RunNumbers, TimesNumbers
from ndsm.report.parts import (
    Code,
    Facts,
    Fold,
    Heading,
    Note,
    Part,
    Picture,
    Plot,
    Section,
    SideBySide,
    Table,
    Text,
    page,
)
from ndsm.runs import Run
from ndsm.workflows.diagnosis import RARE
from ndsm.workflows.figures import image_rows, mosaics_png
from ndsm.workflows.prior_match import prior_warning

MAX_COLUMNS = 6
"""Columns of a table that are shown."""


def write_report(run: Run, dataset: Dataset | None = None) -> None:
    """Write `report.html`.

    Args:
        run: finished or not; the page says what is missing.
        dataset: the run's data, read again if not given.

    Raises:
        InputError: the run's files are damaged.
    """
    run.write_report(build_report(run, dataset))


def build_report(run: Run, dataset: Dataset | None = None) -> str:
    """Return the page as HTML; arguments and errors as of `write_report`."""
    numbers = RunNumbers.of(run, dataset)
    metrics, sections = numbers.metrics, []
    if metrics and metrics.get("tests"):
        sections.append(Section("Tests", _tests(metrics)))
    if metrics and metrics.get("columns"):
        sections.append(Section("Columns", _columns(metrics)))
    if metrics and metrics.get("class_share"):
        sections.append(Section("Class shares", [balance_plot(metrics)]))
    sections += [
        Section("Training", _curves(numbers)),
        Section("Across the noising", _times(numbers.times)),
        Section("The fitted mixture", _mixture(numbers)),
        Section("Nearest training rows", _nearest(numbers, numbers.nearest)),
        Section("Configuration and versions", _configuration(numbers)),
    ]
    return page(numbers.name, _first_screen(numbers), sections)


def _first_screen(numbers: RunNumbers) -> list[Part]:
    config, data, metrics, step = numbers.config, numbers.data, numbers.metrics, numbers.step
    parts: list[Part] = [
        Text(
            f"{config.objective.kind} on {config.data.path or config.data.name}: {data['rows']:,} rows of "
            f"{data['dimension']} columns, {step:,} of {config.train.steps:,} steps."
        )
    ]
    if metrics is None:
        parts.append(
            Note("Not evaluated yet: ndsm evaluate writes the metrics, samples and this page's numbers.")
        )
    else:
        caption = (
            f"{metrics['n']:,} generated rows against {metrics['reference']} "
            f"({metrics['n_reference']:,} rows at a time)"
        )
        parts.append(Text(verdict(metrics)))
        # Table and picture together fit on a phone's first screen; all metrics are in the section on tests.
        parts.append(Table(caption, HEADER, distance_rows(metrics)))
        if warning := prior_warning(metrics):
            parts.append(Note(f"Warning: {warning}."))
        if metrics.get("nonfinite"):
            parts.append(
                Note(f"{metrics['nonfinite']} generated rows hold NaN or infinity and are left out.")
            )
    if numbers.samples_png is not None:
        parts.append(Picture(numbers.samples_png, "Data, generated samples and the mixture alone."))
    mixture, lines = numbers.mixture, numbers.lines
    seconds = f"{lines[-1]['seconds']:,.0f} s" if lines else None
    parts.append(
        Facts(
            {
                "objective": _objective(config),
                "noising": f"{config.process.kind} to time {config.process.horizon:g}, {config.integrator(mixture is not None)}",
                "noised data to prior": None
                if metrics is None or metrics.get("prior_match") is None
                else f"{metrics['prior_match']:.3g} ({metrics['prior_match_floor']:.3g} between draws of the prior)",
                "mixture": None
                if mixture is None
                else f"{mixture.n_components} {mixture.covariance_type} components",
                "network": f"{config.network.kind}, width {config.network.width}, depth {config.network.depth}",
                "training": f"{step:,} steps of {config.train.batch_rows} rows",
                "training time": seconds,
                "generation": f"{config.sample.sampler}, {config.sample.steps} steps"
                + ("" if config.sample.noise is None else f", noise {config.sample.noise:g}"),
                "seed": str(config.train.seed),
            }
        )
    )
    return parts


def _tests(metrics: dict[str, Any]) -> list[Part]:
    judged = metrics["verdict"]
    header = (
        "test",
        "model",
        "standard error",
        "rows of the data",
        "mixture alone",
        "against the data",
        "against the mixture",
    )
    return [
        Note(
            f"Against {judged['n']:,} rows ({judged['reference']}). A difference counts beyond {CERTAIN:.2g} of its standard errors; "
            f"'as good' is no such difference, and surely less than {MARGIN:g} of excess."
        ),
        Table("Generated rows, tested", header, tested_rows(metrics)),
        Table("All metrics", HEADER, evaluation_rows(metrics)),
    ]


def _columns(metrics: dict[str, Any]) -> list[Part]:
    rows, more = column_rows(metrics)
    header = (
        "column", "distance", "model", "standard error", "floor",
        "out of range", "data", "exact", "data", "missing", "data",
    )  # fmt: skip
    parts: list[Part] = [
        Table("Columns, the worst first" + (f"; and {more} more" if more else ""), header, rows)
    ]
    if (pairs := metrics.get("pairs")) is not None:
        floor = "" if pairs["floor"] is None else f", {pairs['floor']:.3g} between rows of the data"
        first, second = pairs["pair"]
        parts.append(
            Text(
                f"Dependence between two columns differs by {pairs['mean']:.3g} on average{floor}, at most by "
                f"{pairs['largest']:.3g}, between {first} and {second}."
            )
        )
    return parts


def _objective(config: Config) -> str:
    epsilon = config.objective.epsilon
    if config.objective.kind not in WITH_EPSILON:
        return config.objective.kind
    chosen = f"{epsilon.value:g}" if epsilon.kind == "constant" else epsilon.kind
    return f"{config.objective.kind}, ε(t): {chosen}"


def _curves(numbers: RunNumbers) -> list[Part]:
    if len(numbers.lines) < 2:
        return [Note("Fewer than two lines of metrics were written; there is nothing to draw.")]
    plots, stride = curve_plots(numbers.lines)
    drawn = [Note(f"One in {stride} lines of metrics.jsonl is drawn.")] if stride > 1 else []
    return [SideBySide(plots), *drawn]


def _times(times: TimesNumbers | str) -> list[Part]:
    return [Note(times)] if isinstance(times, str) else [SideBySide(times_plots(times))]


def _mixture(numbers: RunNumbers) -> list[Part]:
    mixture = numbers.mixture
    if mixture is None:
        return [Note("The run has no mixture: its process was given in Python.")]
    parts: list[Part] = [
        Facts(
            {
                "components": f"{mixture.n_components}, {mixture.covariance_type}",
                "smallest variance": f"{mixture.min_variance:.4g} (standardised units)",
                "step-size limit": f"{2 * mixture.min_variance:.4g}: Euler-Maruyama diverges at larger steps of time",
                "largest conditioning": f"{mixture.worst_conditioning:.4g}: ratio of a component's variances",
            }
        )
    ]
    plots: list[Plot] = [weights_plot(mixture)]
    dataset, names, means = numbers.dataset, numbers.names, mixture.means
    if dataset is not None and (images := image_rows(dataset, means)) is not None:
        png = mosaics_png({"means of the components, largest weight first": images})
        return [*parts, *plots, Picture(png, "Means of the mixture's components, largest weight first.")]
    if len(names) == 2:
        plots.append(means_plot(numbers, mixture))
    caption = "Means of the components, data units" + (
        f", first {MAX_COLUMNS} of {len(names)} columns" if len(names) > MAX_COLUMNS else ""
    )
    table = Table(
        caption,
        ("component", *names[:MAX_COLUMNS]),
        [(str(rank), *map(float, mean[:MAX_COLUMNS])) for rank, mean in enumerate(means, 1)],
    )
    if len(means) < mixture.n_components:
        parts.append(Note(f"The {len(means)} heaviest components are shown."))
    return [*parts, SideBySide(plots), Fold("the means", [table])]


def _nearest(numbers: RunNumbers, nearest: NearestNumbers | str) -> list[Part]:
    if isinstance(nearest, str):
        return [Note(nearest)]
    found, dataset = nearest.distances, numbers.dataset
    assert dataset is not None
    true = "held-out rows" if found.held_out else "training rows, to their nearest other one"
    words = (
        f"{found.near_share:.1%} of {len(found.samples)} generated rows lie nearer to a training row than all but "
        f"{RARE:.0%} of {len(found.true)} {true} do; {RARE:.0%} would be no difference, much more a sign of copied rows."
    )
    count = len(nearest.generated)
    below: Part
    shown = image_rows(dataset, nearest.generated), image_rows(dataset, nearest.training)
    if shown[0] is not None and shown[1] is not None:
        png = mosaics_png({"generated": shown[0], "nearest training image": shown[1]})
        below = Picture(png, f"The {count} generated images nearest to training images, beside those.")
    else:
        pairs = zip(nearest.pair_distances, nearest.generated, nearest.training, strict=True)
        rows = [
            (f"{kind} {rank}", float(distance), *map(float, row[:MAX_COLUMNS]))
            for rank, (distance, *both) in enumerate(pairs, 1)
            for kind, row in zip(("generated", "training"), both, strict=True)
        ]
        caption = f"The {count} generated rows nearest to training rows, data units"
        table = Table(caption, ("row", "distance", *numbers.names[:MAX_COLUMNS]), rows)
        below = Fold("the nearest pairs", [table])
    return [Text(words), nearest_plot(nearest, true), below]


def _configuration(numbers: RunNumbers) -> list[Part]:
    if numbers.repeat is None:
        repeat: list[Part] = [
            Note("Fitted in Python, by ndsm.NDSM(...).fit(X): the same call on the same rows repeats it.")
        ]
    else:
        repeat = [
            Code(numbers.repeat),
            Note("The same versions on the same kind of machine give bitwise the same model."),
        ]
    config = yaml.safe_dump(numbers.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    return [
        Heading("To repeat it"),
        *repeat,
        Heading("Versions"),
        Facts(numbers.versions) if numbers.versions else Note("Not noted when the run was begun."),
        Fold("the whole configuration", [Code(config)]),
    ]
