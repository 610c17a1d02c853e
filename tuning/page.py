"""`tune-report.html`: what a search found and why, as one file."""

from collections.abc import Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ndsm.config import WITH_EPSILON
from ndsm.errors import InputError
from ndsm.report.parts import Code, Note, Part, Picture, Plot, Section, Table, Text, page
from ndsm.workflows.figures import samples_figure
from ndsm.workflows.resuming import start
from ndsm.workflows.trained_model import TrainedModel
from tuning.finalists import finalist_name
from tuning.folder import FINISHED, TrialFolder, TrialRecord

if TYPE_CHECKING:
    from tuning.summary import Summary

PICTURED_ROWS = 2000
SHOWN_FIELDS = 10
"""Number of bars in the figure of importances; the table has all fields."""


def tune_page(summary: "Summary") -> str:
    """The whole document."""
    lead: list[Part] = [Text(summary.sentence()[:1].upper() + summary.sentence()[1:] + ".")]
    if summary.best is not None:
        path = Path(str(summary.folder))
        lead.append(Code(f"ndsm train {path.parent.name}/{path.name}/best.yaml"))
    ended = sum(r.status in FINISHED for r in summary.records)
    lead.append(
        Text(
            f"{ended} trials ended, {sum(r.status == 'stopped' for r in summary.records)} of them stopped early; "
            f"{sum(r.status == 'invalid' for r in summary.records)} combinations were invalid."
        )
    )
    sections = [
        Section("Best against preset", list(_comparison(summary))),
        Section("What matters", list(_importance(summary))),
        Section("Quality against time", list(_front(summary))),
        Section("The best ε(t)", list(_epsilon(summary))),
        Section("All trials", list(_trials(summary))),
    ]
    return page(f"Search around {summary.preset}", lead, sections)


def _comparison(summary: "Summary") -> Iterable[Part]:
    metric, best = summary.metric, summary.best
    if not summary.finalists:
        yield Note("No runs on fresh seeds yet: the search was stopped before them, or no trial ended.")
    else:
        rows: list[tuple[Any, ...]] = [
            (
                f.record.name + (" (best)" if best and f.record.number == best.number else ""),
                f.mean, f.spread, float(np.mean(f.chosen_by)), len(f.seeds), summary.config(f.record).train.steps,
                float(np.mean(f.seconds)),
            )
            for f in summary.finalists
        ]  # fmt: skip
        rows.append(
            ("true data (floor)", summary.finalists[0].floor, None, _floor(summary), None, None, None)
        )
        rows.append(("mixture alone", None, None, _prior(summary), None, None, None))
        yield Table(
            f"{metric} at the preset's training time on fresh seeds",
            (
                "configuration", "evaluation rows, mean", "std over seeds", "search's rows, mean", "seeds", "steps",
                "seconds",
            ),
            rows,
        )  # fmt: skip
    if best is not None and best.number:
        base = summary.plan.space.preset()
        changed = [(k, base.get(k), v) for k, v in best.params.items() if base.get(k) != v]
        yield Table(
            "What differs", ("field", "preset", "best"), [(k, _cell(a), _cell(b)) for k, a, b in changed]
        )
    for record in [r for r in summary.records if r.number == 0] + ([best] if best and best.number else []):
        if (png := _picture(summary, record)) is not None:
            yield Picture(png, f"Data, samples of {record.name}, and its mixture alone")


def _importance(summary: "Summary") -> Iterable[Part]:
    import plotly.graph_objects as go

    share, importances = summary.importance()
    if importances:
        names, values = list(importances)[:SHOWN_FIELDS], list(importances.values())[:SHOWN_FIELDS]
        figure = go.Figure(go.Bar(x=values[::-1], y=names[::-1], orientation="h"))
        figure.update_layout(title=f"Importance for {summary.metric} after {share:.0%} of the steps")
        says = f"{names[0]} explains the most, {values[0]:.0%} of what all fields explain together."
        yield Plot(figure, says, Table("Importance", ("field", "share"), list(importances.items())))
    else:
        yield Note("Too few trials to tell which fields matter.")
    shown = [r for r in summary.records if r.status in FINISHED and r.scores]
    fields = [p.field for p in summary.plan.space.parameters if all(p.field in r.params for r in shown)]
    if len(shown) >= 2 and fields:
        scores = [r.scores[-1].score for r in shown]
        axes = [_axis(field, [r.params[field] for r in shown]) for field in fields]
        axes.append({"label": summary.metric, "values": scores})
        line = {
            "color": scores,
            "colorscale": "Viridis",
            "reversescale": True,
            "cmax": float(np.quantile(scores, 0.8)),
        }
        figure = go.Figure(go.Parcoords(line=line, dimensions=axes, labelangle=-20, labelside="bottom"))
        figure.update_layout(
            title="Every trial as a line; bright lines score low", margin={"t": 60, "b": 70, "l": 40, "r": 40}
        )
        best = min(shown, key=lambda r: r.scores[-1].score)
        yield Plot(
            figure,
            f"Parallel coordinates of {len(shown)} trials; {best.name} scored lowest, {best.score:.4g}.",
        )


def _axis(field: str, values: list[Any]) -> dict[str, Any]:
    """A parallel coordinate: numbers over several decades by their logarithm, names by their place."""
    label = _short(field)
    if all(isinstance(v, int | float) and not isinstance(v, bool) for v in values):
        if min(values) > 0 and max(values) >= 10 * min(values):
            ticks = sorted({float(f"{v:.1g}") for v in np.geomspace(min(values), max(values), 4)})
            return {
                "label": label,
                "values": np.log10(values).tolist(),
                "tickvals": np.log10(ticks).tolist(),
                "ticktext": [f"{v:g}" for v in ticks],
            }
        return {"label": label, "values": values}
    names = sorted({str(v) for v in values})
    places = list(range(len(names)))
    return {
        "label": label,
        "values": [names.index(str(v)) for v in values],
        "tickvals": places,
        "ticktext": names,
    }


def _front(summary: "Summary") -> Iterable[Part]:
    import plotly.graph_objects as go

    points = [
        (s.share * r.time * summary.setting.scale, s.score, r.name)
        for r in summary.records if r.status in FINISHED for s in r.scores
    ]  # fmt: skip
    front = summary.front()
    if not front:
        yield Note("No trial has been scored yet.")
        return
    figure = go.Figure()
    figure.add_scatter(
        x=[p[0] for p in points], y=[p[1] for p in points], text=[p[2] for p in points], mode="markers",
        name="trials", opacity=0.5,
    )  # fmt: skip
    figure.add_scatter(
        x=[p[0] for p in front], y=[p[1] for p in front], text=[p[2].name for p in front], mode="lines+markers",
        line={"shape": "hv"}, name="Pareto front",
    )  # fmt: skip
    figure.update_layout(
        title=f"{summary.metric} on held-out rows against training time",
        xaxis_title="training time, the preset's = 1",
        yaxis_title=summary.metric,
    )
    figure.update_xaxes(type="log")
    time, score, record = front[-1]
    says = f"The front ends at {score:.4g} after {time:.2g} of the preset's time, by {record.name}."
    rows = [(f"{t:.3g}", s, r.name) for t, s, r in front]
    yield Plot(figure, says, Table("Pareto front", ("time", summary.metric, "trial"), rows))


def _epsilon(summary: "Summary") -> Iterable[Part]:
    import plotly.graph_objects as go

    best = summary.best
    trial = None if best is None else _trained(summary, best)
    if trial is None:
        yield Note("No trained trial yet.")
        return
    config = trial.run.config()
    if config.objective.kind not in WITH_EPSILON:
        yield Note(f"The best objective is {config.objective.kind}, which has no ε(t).")
        return
    problem = TrainedModel.of(trial.run).problem
    # The driver's machine need not have the GPU that the run was trained on.
    trainer, _ = start(problem.with_device("cpu"), trial.run.find_checkpoint())
    t = np.geomspace(problem.t_min, problem.process.horizon, 200)
    values = trainer.epsilon(torch.from_numpy(t).float()).tolist()
    figure = go.Figure(go.Scatter(x=t, y=values, mode="lines"))
    figure.update_layout(
        title=f"ε(t) of {config.objective.kind}, {config.objective.epsilon.kind}",
        xaxis_title="t",
        yaxis_title="ε",
    )
    figure.update_xaxes(type="log")
    numbers = Table("ε(t)", ("t", "ε"), [(float(t[i]), values[i]) for i in range(0, len(t), 20)])
    says = f"ε goes from {values[0]:.3g} at t = {t[0]:.2g} to {values[-1]:.3g} at the horizon {t[-1]:.2g}."
    yield Plot(figure, says, numbers)


def _trials(summary: "Summary") -> Iterable[Part]:
    header = (
        "trial",
        "status",
        summary.metric,
        "of its steps",
        "steps",
        "step's cost",
        "values, or the reason",
    )
    rows = [
        (
            r.number or "preset", r.status, r.score, f"{r.scores[-1].share:.0%}" if r.scores else None, r.steps or None,
            r.cost or None,
            r.reason if r.status in ("failed", "invalid", "died") else ", ".join(f"{_short(k)} {_cell(v)}" for k, v in r.params.items()),
        )
        for r in sorted(summary.records, key=lambda r: (r.status != "done", r.score is None, r.score or 0.0))
    ]  # fmt: skip
    yield Table("Trials; a step's cost is in units of the preset's", header, rows)


def _trained(summary: "Summary", record: TrialRecord) -> TrialFolder | None:
    """A trained run of a trial: on a fresh seed if there is one."""
    finalist = summary.finalist(record)
    trial = (
        summary.folder.finalist(finalist_name(record, finalist.seeds[0]))
        if finalist
        else summary.folder.trial(record.number)
    )
    there = trial.exists() and trial.run.exists()
    return trial if there and trial.read().status == "done" else None


def _picture(summary: "Summary", record: TrialRecord) -> bytes | None:
    trial = _trained(summary, record)
    if trial is None:
        return None
    try:
        model = TrainedModel.of(trial.run)
    except InputError:
        return None
    seed = summary.setting.scorer.seed
    rows = model.all_rows(PICTURED_ROWS, seed)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "samples.png"
        samples_figure(summary.dataset, rows, model.prior_rows(PICTURED_ROWS, seed), path, record.name)
        return path.read_bytes()


def _floor(summary: "Summary") -> float | None:
    return next((v for r in summary.records if (v := r.metrics.get(f"{summary.metric}_floor"))), None)


def _prior(summary: "Summary") -> float | None:
    """The preset's mixture alone."""
    return next((r.metrics.get("prior") for r in summary.records if r.number == 0), None)


def _short(field: str) -> str:
    """A field without its section."""
    return field.split(".", 1)[1]


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
