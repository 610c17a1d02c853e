"""Interactive figures of a run's report."""

from typing import Any

import numpy as np

from ndsm.report.numbers import MixtureNumbers, NearestNumbers, RunNumbers, TimesNumbers
from ndsm.report.parts import COLOURS, Plot, Table

MAX_LINES = 1000
"""Points of a curve."""
MAX_POINTS = 1500
"""Points of a scatter."""

CURVES = {
    "loss": ("Loss", "mean weighted loss; a score-matching loss has no lower bound of zero"),
    "grad_norm": ("Gradient norm", "before clipping"),
    "steps_per_s": ("Step rate", "optimiser steps per second"),
    "stall_fraction": ("Stall", "share of the time in which the trainer waited for rollouts"),
    "goodput": ("Goodput", "share of the time since the first start that went into steps which last"),
    "samples_per_insert": ("Reuse", "uses of each simulated row so far, on average"),
}
"""Keys of `metrics.jsonl` that are drawn: title and meaning."""


def balance_plot(metrics: dict[str, Any]) -> Plot:
    """Draw the share of each class among the data, the generated rows and rows of the mixture alone."""
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
    return Plot(figure, says, Table("Class shares", ("class", *known), rows))


def curve_plots(lines: list[dict[str, Any]]) -> tuple[list[Plot], int]:
    """Draw the curves of `metrics.jsonl`; also return that one in so many lines is drawn."""
    import plotly.graph_objects as go

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
        numbers = Table(title, ("step", key), [(steps[i], values[i]) for i in some])
        plots.append(Plot(figure, says, numbers))
    return plots, stride


def times_plots(times: TimesNumbers) -> list[Plot]:
    """Draw loss, gradient variance and, if the objective has one, ε across the noising's time."""
    import plotly.graph_objects as go

    profile = times.profile
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
    loss_numbers = Table(
        "Loss by time",
        ("time", "loss", "standard error"),
        list(zip(names, profile.loss, profile.loss_error, strict=True)),
    )
    rows = list(zip(names, profile.gradient_variance, strict=True))
    variance_numbers = Table("Gradient variance by time", ("time", "variance"), rows)
    plots = [
        Plot(loss, f"Weighted loss with its standard error; {measured}.", loss_numbers),
        Plot(variance, f"Variance of the per-sample gradients; {measured}.", variance_numbers),
    ]
    if (curve := times.epsilon) is not None:
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
        numbers = Table(
            "ε(t)",
            ("time", "trained with", "closed form"),
            [(curve.t[i], curve.trained[i], curve.closed_form[i]) for i in some],
        )
        says = "Factor of the control variate, and the closed-form optimum (eq. 22) on fresh rows at the last weights."
        plots.append(Plot(figure, says, numbers))
    return plots


def weights_plot(mixture: MixtureNumbers) -> Plot:
    """Draw the weights of the mixture's components."""
    import plotly.graph_objects as go

    ranks = range(1, len(mixture.weights) + 1)
    figure = go.Figure(go.Bar(x=list(ranks), y=mixture.weights.tolist(), marker_color=COLOURS[2]))
    figure.update_layout(title_text="Weights", xaxis_title="component, by weight", yaxis_title="weight")
    columns = mixture.weights, mixture.mean_variances, mixture.conditioning
    rows = [(str(rank), *map(float, row)) for rank, *row in zip(ranks, *columns, strict=True)]
    numbers = Table("Components by weight", ("component", "weight", "mean variance", "conditioning"), rows)
    return Plot(figure, "Weights of the components, largest first.", numbers)


def means_plot(numbers: RunNumbers, mixture: MixtureNumbers) -> Plot:
    """Draw the means of a mixture of two columns over the data."""
    import plotly.graph_objects as go

    layers, dataset, weights = [], numbers.dataset, mixture.weights
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
    sizes = 6 + 24 * np.sqrt(weights / weights.max())
    layers.append(
        go.Scatter(
            x=mixture.means[:, 0],
            y=mixture.means[:, 1],
            mode="markers",
            marker={"size": sizes, "color": COLOURS[1], "opacity": 0.7},
            name="means of the mixture",
        )
    )
    first, second = numbers.names
    figure = go.Figure(layers).update_layout(
        title_text="Means", xaxis_title=first, yaxis_title=second, showlegend=True
    )
    return Plot(figure, "Means of the mixture's components, the larger the heavier, over the data.")


def nearest_plot(nearest: NearestNumbers, true: str) -> Plot:
    """Draw the distances of generated and of true rows to the nearest training row.

    Args:
        true: what the true rows are.
    """
    import plotly.graph_objects as go

    found = nearest.distances
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
    numbers = Table(
        "Quantiles of the distance",
        ("quantile", "generated rows", true),
        [
            (f"{q:.0%}", float(np.quantile(found.samples, q)), float(np.quantile(found.true, q)))
            for q in quantiles
        ],
    )
    return Plot(figure, "Distances of generated and of true rows to the nearest training row.", numbers)
