"""A run's report: one page from its directory and, where they are at hand, its data."""

from typing import Any, Literal

import numpy as np
import torch
import yaml
from markupsafe import Markup

from ndsm.config import WITH_EPSILON, Config
from ndsm.data import Dataset, load
from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.report.html import (
    COLOURS,
    Section,
    code,
    facts,
    fold,
    heading,
    note,
    page,
    picture,
    plot,
    side_by_side,
    table,
    text,
)
from ndsm.report.numbers import evaluation_rows
from ndsm.runs import Run
from ndsm.workflows.diagnosis import RARE, diagnosis_rows, epsilon_curve, nearest_rows, time_profile
from ndsm.workflows.figures import image_rows, mosaics_png
from ndsm.workflows.prior_match import prior_warning
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import training_problem

MAX_LINES = 1000
"""Points of a curve."""
MAX_COLUMNS = 6
"""Columns of a table that are shown."""
MAX_COMPONENTS = 50
"""Mixture components that are shown."""
MAX_PAIRS = 16
"""Generated rows shown beside their nearest training row."""
MAX_POINTS = 1500
"""Points of a scatter."""

CURVES = {
    "loss": ("Loss", "mean weighted loss; a score-matching loss has no lower bound of zero"),
    "grad_norm": ("Gradient norm", "before clipping"),
    "steps_per_s": ("Step rate", "optimiser steps per second"),
    "stall_fraction": ("Stall", "share of the time in which the trainer waited for rollouts"),
    "samples_per_insert": ("Reuse", "uses of each simulated row so far, on average"),
}
"""Keys of `metrics.jsonl` that are drawn: title and meaning."""


def write_report(run: Run, dataset: Dataset | None = None) -> None:
    """Write `report.html`.

    Args:
        run: finished or not; what it does not have yet is left out, and the page says so.
        dataset: the run's data, read again if not given.

    Raises:
        InputError: the run's files are damaged.
    """
    run.write_report(build_report(run, dataset))


def build_report(run: Run, dataset: Dataset | None = None) -> str:
    """The page."""
    config = run.config()
    missing = None
    if dataset is None:
        dataset, missing = find_data(run, config)
    mixture = run.mixture() if run.has_mixture else None
    lines = run.metrics_since(0)[0]
    metrics = run.evaluation()
    balance = [_class_balance(metrics)] if metrics and metrics.get("class_share") else []
    sections = [
        *(Section("Class shares", balance) for _ in balance),
        Section("Training", _curves(lines)),
        Section("Across the noising", _across_times(run, config, mixture, dataset, missing)),
        Section("The fitted mixture", _mixture(run, config, mixture, dataset)),
        Section("Nearest training rows", _memorisation(run, dataset, missing)),
        Section("Configuration and versions", _configuration(run, config)),
    ]
    return page(run.path.name, _first_screen(run, config, mixture, metrics, lines), sections)


def find_data(run: Run, config: Config) -> tuple[Dataset | None, str | None]:
    """The run's data, or why they are not to be had."""
    try:
        dataset = load(config.data, config.train.seed, run.scaling())
    except InputError as error:
        return None, f"The data are not at hand: {error}."
    if dataset.stamp != run.data()["fingerprint"]:
        return None, "The data have changed since the run was begun."
    return dataset, None


# ---- first screen ----


def verdict(metrics: dict[str, Any]) -> str:
    """A sentence: how far the model came from the mixture alone towards true data, by the first metric that has both."""
    for key in ("fid", "swd2"):
        model, prior = metrics.get(key), metrics.get("prior", {}).get(key)
        floor = metrics.get(f"{key}_floor")
        if model is None or prior is None or floor is None:
            continue
        name = {"fid": "Fréchet distance", "swd2": "Sliced Wasserstein-2 distance"}[key]
        numbers = f"{name} {model:.4g}; mixture alone {prior:.4g}, true data (floor) {floor:.4g}"
        if model <= floor:
            return f"At the floor: by this metric the samples cannot be told from true data. {numbers}."
        if prior <= floor:
            return f"The mixture alone is at the floor already, so that this metric cannot judge the model. {numbers}."
        if model >= prior:
            return f"No better than the mixture alone: the network has learned nothing that this metric sees. {numbers}."
        return f"{(prior - model) / (prior - floor):.0%} of the way from the mixture alone to true data. {numbers}."
    return "No distance to the data was measured."


def _first_screen(
    run: Run,
    config: Config,
    mixture: GaussianMixture | None,
    metrics: dict[str, Any] | None,
    lines: list[dict[str, Any]],
) -> list[Markup]:
    data = run.data()
    # What was saved from Python has neither reports nor a checkpoint.
    step = lines[-1]["step"] if lines else run.last_step() or config.train.steps * run.has_weights
    parts = [
        text(
            f"{config.objective.kind} on {config.data.path or config.data.name}: {data['rows']:,} rows of "
            f"{data['dimension']} columns, {step:,} of {config.train.steps:,} steps."
        )
    ]
    if metrics is None:
        parts.append(
            note("Not evaluated yet: ndsm evaluate writes the metrics, samples and this page's numbers.")
        )
    else:
        caption = (
            f"{metrics['n']:,} generated rows against {metrics['reference']} "
            f"({metrics['n_reference']:,} rows at a time)"
        )
        parts.append(text(verdict(metrics)))
        parts.append(
            table(
                caption, ("metric", "model", "mixture alone", "true data (floor)"), evaluation_rows(metrics)
            )
        )
        if warning := prior_warning(metrics):
            parts.append(note(f"Warning: {warning}."))
        if metrics.get("nonfinite"):
            parts.append(
                note(f"{metrics['nonfinite']} generated rows hold NaN or infinity and are left out.")
            )
    if run.samples_png.is_file():
        parts.append(picture(run.samples_png.read_bytes(), "Data, generated samples and the mixture alone."))
    seconds = f"{lines[-1]['seconds']:,.0f} s" if lines else None
    parts.append(
        facts(
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


def _objective(config: Config) -> str:
    epsilon = config.objective.epsilon
    if config.objective.kind not in WITH_EPSILON:
        return config.objective.kind
    chosen = f"{epsilon.value:g}" if epsilon.kind == "constant" else epsilon.kind
    return f"{config.objective.kind}, ε(t): {chosen}"


def _class_balance(metrics: dict[str, Any]) -> Markup:
    import plotly.graph_objects as go

    shares = {
        "data": metrics.get("class_share_data"),
        "model": metrics["class_share"],
        "mixture alone": metrics.get("prior", {}).get("class_share"),
    }
    known = {name: share for name, share in shares.items() if share}
    classes = list(range(len(metrics["class_share"])))
    figure = go.Figure([go.Bar(x=classes, y=share, name=name) for name, share in known.items()])
    figure.update_layout(
        title_text="Class shares",
        xaxis={"title": "class", "dtick": 1},
        yaxis_title="share of rows",
        barmode="group",
    )
    rows = [(str(c), *(share[c] for share in known.values())) for c in classes]
    says = "Share of each class among the data, the generated rows and rows of the mixture alone."
    return plot(figure, says, table("Class shares", ("class", *known), rows))


# ---- curves ----


def _curves(lines: list[dict[str, Any]]) -> list[Markup]:
    import plotly.graph_objects as go

    if len(lines) < 2:
        return [note("Fewer than two lines of metrics were written; there is nothing to draw.")]
    stride = -(-len(lines) // MAX_LINES)
    shown = lines[::-stride][::-1]
    plots = []
    for key, (title, meaning) in CURVES.items():
        known = [line for line in shown if line.get(key) is not None]
        if not known:
            continue
        steps, values = [line["step"] for line in known], [line[key] for line in known]
        figure = go.Figure(go.Scatter(x=steps, y=values, mode="lines", line_color=COLOURS[0]))
        figure.update_layout(title_text=title, xaxis_title="step", yaxis_title=key, showlegend=False)
        says = f"{title}, {meaning}: {values[0]:.4g} at step {steps[0]:,}, {values[-1]:.4g} at step {steps[-1]:,}."
        some = sorted({round(i) for i in np.linspace(0, len(known) - 1, 11)})
        numbers = table(title, ("step", key), [(steps[i], values[i]) for i in some])
        plots.append(plot(figure, says, numbers))
    parts = [side_by_side(plots)]
    if stride > 1:
        parts.append(note(f"One in {stride} lines of metrics.jsonl is drawn."))
    return parts


# ---- across the noising's time ----


def _across_times(
    run: Run, config: Config, mixture: GaussianMixture | None, dataset: Dataset | None, missing: str | None
) -> list[Markup]:
    import plotly.graph_objects as go

    try:
        saved = run.find_checkpoint()
    except InputError as error:
        return [note(str(error))]
    if dataset is None or saved is None or mixture is None:
        reason = (
            missing or "The run has no checkpoint, so that its optimiser's weights and ε(t) are not known."
        )
        return [note(reason)]
    problem = training_problem(config, mixture, run.data()["fingerprint"], dataset.train_labels)
    # A run trained on a GPU can be looked at where there is none.
    device: Literal["auto", "cpu"] = "cpu" if config.train.device == "cpu" else "auto"
    trainer, _ = start(problem.with_device(device), saved)
    rows = diagnosis_rows(problem, dataset.train, trainer.device)
    profile = time_profile(trainer, rows)
    names = [f"{low:.3g} to {high:.3g}" for low, high in profile.times]
    measured = f"{profile.rows:,} fresh rows at the last weights, in fifths by time"
    loss = go.Figure(
        go.Bar(x=names, y=profile.loss, error_y={"array": profile.loss_error}, marker_color=COLOURS[0])
    )
    loss.update_layout(
        title_text="Loss by time", xaxis_title="time of the noising", yaxis_title="weighted loss"
    )
    variance = go.Figure(go.Bar(x=names, y=profile.gradient_variance, marker_color=COLOURS[1]))
    variance.update_layout(
        title_text="Gradient variance by time", xaxis_title="time of the noising", yaxis_title="E |g - E g|²"
    )
    loss_numbers = table(
        "Loss by time",
        ("time", "loss", "standard error"),
        zip(names, profile.loss, profile.loss_error, strict=True),
    )
    variance_numbers = table(
        "Gradient variance by time", ("time", "variance"), zip(names, profile.gradient_variance, strict=True)
    )
    plots = [
        plot(loss, f"Weighted loss with its standard error; {measured}.", loss_numbers),
        plot(variance, f"Variance of the per-sample gradients; {measured}.", variance_numbers),
    ]
    if config.objective.kind in WITH_EPSILON:
        curve = epsilon_curve(trainer, problem, diagnosis_rows(problem, dataset.train, trainer.device, 1))
        figure = go.Figure(
            [
                go.Scatter(x=curve.t, y=curve.trained, mode="lines", name="trained with"),
                go.Scatter(x=curve.t, y=curve.closed_form, mode="lines", line_dash="dot", name="closed form"),
            ]
        )
        figure.update_layout(
            title_text="ε(t)",
            xaxis={"title": "time of the noising", "type": "log", "dtick": 1},
            yaxis_title="ε",
            showlegend=True,
        )
        some = range(0, len(curve.t), 6)
        numbers = table(
            "ε(t)",
            ("time", "trained with", "closed form"),
            [(curve.t[i], curve.trained[i], curve.closed_form[i]) for i in some],
        )
        says = "Factor of the control variate, and the closed-form optimum (eq. 22) on fresh rows at the last weights."
        plots.append(plot(figure, says, numbers))
    return [side_by_side(plots)]


# ---- mixture ----


def _mixture(
    run: Run, config: Config, mixture: GaussianMixture | None, dataset: Dataset | None
) -> list[Markup]:
    import plotly.graph_objects as go

    if mixture is None:
        return [note("The run has no mixture: its process was given in Python.")]
    eigenvalues = mixture.eigenvalues()
    if eigenvalues.ndim == 1:
        eigenvalues = eigenvalues[:, None]
    conditioning = eigenvalues.amax(1) / eigenvalues.amin(1)
    order = mixture.weights.argsort(descending=True)[:MAX_COMPONENTS].tolist()
    parts = [
        facts(
            {
                "components": f"{mixture.n_components}, {mixture.covariance_type}",
                "smallest variance": f"{mixture.min_variance:.4g} (standardised units)",
                "step-size limit": f"{2 * mixture.min_variance:.4g}: Euler-Maruyama diverges at larger steps of time",
                "largest conditioning": f"{float(conditioning.max()):.4g}: ratio of a component's variances",
            }
        )
    ]
    figure = go.Figure(
        go.Bar(x=list(range(1, len(order) + 1)), y=mixture.weights[order].tolist(), marker_color=COLOURS[2])
    )
    figure.update_layout(title_text="Weights", xaxis_title="component, by weight", yaxis_title="weight")
    rows = [
        (
            str(rank),
            float(mixture.weights[k]),
            float(eigenvalues[k].mean()),
            float(conditioning[k]),
        )
        for rank, k in enumerate(order, 1)
    ]
    numbers = table("Components by weight", ("component", "weight", "mean variance", "conditioning"), rows)
    plots = [plot(figure, "Weights of the components, largest first.", numbers)]
    means = run.scaling().invert(mixture.means[order].numpy())
    names = run.schema().dimension_names
    if dataset is not None and (images := image_rows(dataset, means)) is not None:
        png = mosaics_png({"means of the components, largest weight first": images})
        return [*parts, *plots, picture(png, "Means of the mixture's components, largest weight first.")]
    if len(names) == 2:
        plots.append(_means_in_plane(means, mixture.weights[order], names, dataset))
    shown = names[:MAX_COLUMNS]
    caption = "Means of the components, data units" + (
        f", first {MAX_COLUMNS} of {len(names)} columns" if len(names) > MAX_COLUMNS else ""
    )
    means_table = table(
        caption,
        ("component", *shown),
        [(str(rank), *map(float, mean[:MAX_COLUMNS])) for rank, mean in enumerate(means, 1)],
    )
    if len(order) < mixture.n_components:
        parts.append(note(f"The {len(order)} heaviest components are shown."))
    return [*parts, side_by_side(plots), fold("the means", [means_table])]


def _means_in_plane(
    means: np.ndarray, weights: torch.Tensor, names: list[str], dataset: Dataset | None
) -> Markup:
    import plotly.graph_objects as go

    layers = []
    if dataset is not None:
        data = dataset.scaling.invert(dataset.train[:MAX_POINTS])
        layers.append(
            go.Scatter(
                x=data[:, 0],
                y=data[:, 1],
                mode="markers",
                marker={"size": 3, "color": COLOURS[0]},
                name="data",
            )
        )
    sizes = 6 + 24 * (weights / weights.max()).sqrt().numpy()
    layers.append(
        go.Scatter(
            x=means[:, 0],
            y=means[:, 1],
            mode="markers",
            marker={"size": sizes, "color": COLOURS[1], "opacity": 0.7},
            name="means of the mixture",
        )
    )
    figure = go.Figure(layers).update_layout(
        title_text="Means", xaxis_title=names[0], yaxis_title=names[1], showlegend=True
    )
    return plot(figure, "Means of the mixture's components, the larger the heavier, over the data.")


# ---- memorisation ----


def _memorisation(run: Run, dataset: Dataset | None, missing: str | None) -> list[Markup]:
    import plotly.graph_objects as go

    samples = run.examples().get("samples")
    if dataset is None or samples is None:
        return [note(missing or "No generated rows are kept: ndsm evaluate keeps some.")]
    samples = samples[np.isfinite(samples).all(1)]
    if not len(samples):
        return [note("None of the kept generated rows is finite.")]
    found = nearest_rows(dataset, samples)
    true = "held-out rows" if found.held_out else "training rows, to their nearest other one"
    highest = float(max(found.samples.max(), found.true.max()))
    edges = np.linspace(0, highest, 31)
    middles = (edges[1:] + edges[:-1]) / 2
    figure = go.Figure(
        [
            go.Bar(x=middles, y=np.histogram(x, edges)[0] / len(x), name=name, opacity=0.75)
            for name, x in {true: found.true, "generated rows": found.samples}.items()
        ]
    )
    figure.update_layout(
        title_text="Distance to the nearest training row",
        xaxis_title="distance, standardised units",
        yaxis_title="share of rows",
        barmode="overlay",
        bargap=0,
    )
    quantiles = (0.01, 0.05, 0.25, 0.5, 0.75)
    numbers = table(
        "Quantiles of the distance",
        ("quantile", "generated rows", true),
        [
            (f"{q:.0%}", float(np.quantile(found.samples, q)), float(np.quantile(found.true, q)))
            for q in quantiles
        ],
    )
    words = (
        f"{found.near_share:.1%} of {len(samples)} generated rows lie nearer to a training row than all but "
        f"{RARE:.0%} of {len(found.true)} {true} do; {RARE:.0%} would be no difference, much more a sign of copied rows."
    )
    closest = found.samples.argsort()[:MAX_PAIRS]
    pairs = dataset.train[found.index[closest]]
    generated, nearest = (dataset.scaling.invert(x) for x in (samples[closest], pairs))
    shown = image_rows(dataset, generated), image_rows(dataset, nearest)
    if shown[0] is not None and shown[1] is not None:
        png = mosaics_png({"generated": shown[0], "nearest training image": shown[1]})
        below = picture(png, f"The {len(closest)} generated images nearest to training images, beside those.")
    else:
        names = dataset.schema.dimension_names[:MAX_COLUMNS]
        rows = [
            (Markup("{} {}").format(kind, rank), float(found.samples[i]), *map(float, row[:MAX_COLUMNS]))
            for rank, (i, *both) in enumerate(zip(closest, generated, nearest, strict=True), 1)
            for kind, row in zip(("generated", "training"), both, strict=True)
        ]
        caption = f"The {len(closest)} generated rows nearest to training rows, data units"
        below = fold("the nearest pairs", [table(caption, ("row", "distance", *names), rows)])
    says = "Distances of generated and of true rows to the nearest training row."
    return [text(words), plot(figure, says, numbers), below]


# ---- configuration ----


def _configuration(run: Run, config: Config) -> list[Markup]:
    if run.fitted_in_python:
        # Its rows were an array: no command can read them.
        repeat = [
            note("Fitted in Python, by ndsm.NDSM(...).fit(X): the same call on the same rows repeats it.")
        ]
    else:
        repeat = [
            code(f"ndsm train {run.path / 'config.yaml'} --name {run.path.name}-again"),
            note("The same versions on the same kind of machine give bitwise the same model."),
        ]
    return [
        heading("To repeat it"),
        *repeat,
        heading("Versions"),
        facts(run.versions()) if run.versions() else note("Not noted when the run was begun."),
        fold(
            "the whole configuration",
            [code(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True))],
        ),
    ]
