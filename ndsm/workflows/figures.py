"""Pictures of generated rows beside the data and beside the mixture alone, in the data's own units."""

from __future__ import annotations

import io
import math
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from ndsm.core.atomic_file import whole_file
from ndsm.data.images import pixel_schema

if TYPE_CHECKING:
    from ndsm.data import Dataset

# Okabe and Ito's palette: told apart with any colour vision.
_COLOURS = {"data": "#0072B2", "samples": "#D55E00", "mixture alone": "#009E73"}
_MAX_ROWS = 50_000
_MAX_POINTS = 4000
_IMAGES_PER_SIDE = 8
_MAX_COLUMNS = 6
_BINS = 40


def samples_figure(
    dataset: Dataset, samples: np.ndarray, prior: np.ndarray, path: Path | BinaryIO, title: str = ""
) -> None:
    """Nothing; writes a PNG of data, samples and the mixture alone to `path`.

    Two columns: scatters on the data's axes. Images: grids. Other tables: histograms of the first 6 columns.

    Args:
        dataset: the data; its scaling brings all rows to original units.
        samples: (n, d) generated rows, model units.
        prior: (n', d) rows of the fitted mixture, model units.
        path: file to write; its folder is made if needed. Or an open one.
        title: line above the panels.
    """
    # Not at the top: `import ndsm` should stay fast. Figure objects, not pyplot: no global state, no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The rows are shuffled; the first ones picture a large table as well as all of them.
    most = _MAX_ROWS if dataset.view is None else _IMAGES_PER_SIDE**2
    models = (np.concatenate([dataset.train[:most], dataset.validation[:most]]), samples, prior)
    with np.errstate(over="ignore", invalid="ignore"):
        rows = {
            name: dataset.scaling.invert(np.asarray(model[:most], dtype=np.float32))
            for name, model in zip(_COLOURS, models, strict=True)
        }
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    names = dataset.schema.dimension_names
    if dataset.view is not None:
        view = dataset.view
        _image_grids(figure, {name: view.images(x) for name, x in rows.items()})
    elif len(names) == 2:
        _scatter(figure, rows, names, equal=dataset.toy is not None)
    elif _is_image(dataset):
        _image_grids(figure, rows)
    else:
        _histograms(figure, rows, names)
    if title:
        figure.suptitle(_plain(title), fontsize=13)
    _save(figure, path)


def study_figure(panels: list[tuple[str, np.ndarray]], path: Path, title: str) -> None:
    """Nothing; writes a PNG of scatters side by side on the first one's axes: a title and points (n, 2) each."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", figsize=(2.9 * len(panels), 4.4))
    FigureCanvasAgg(figure)
    frames = [_frame(panels[0][1][:, c]) for c in range(2)]
    for k, (axes, (name, x)) in enumerate(
        zip(figure.subplots(1, len(panels), sharex=True, sharey=True), panels, strict=True)
    ):
        _points(axes, x, frames, _COLOURS["samples" if k else "data"], name)
        axes.set(aspect="equal")
    figure.suptitle(title, fontsize=13)
    _save(figure, path)


def image_study_figure(panels: list[tuple[str, np.ndarray, dict[str, Any]]], path: Path, title: str) -> None:
    """Nothing; writes a PNG of image grids side by side, the class shares below, and FID against training time.

    Args:
        panels: a title, square images (64, pixels), and the row of results.json with its `class_share` and `curve`; an
            empty row for the data.
        path: file to write; its folder is made if needed.
        title: line above the panels.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    curves = [(name.splitlines()[0], row["curve"]) for name, _, row in panels if row.get("curve")]
    figure = Figure(layout="constrained", figsize=(2.6 * len(panels), 4.6 + 3.2 * bool(curves)))
    FigureCanvasAgg(figure)
    upper, *lower = figure.subfigures(
        1 + bool(curves), 1, height_ratios=[1.4, 1.0][: 1 + bool(curves)], squeeze=False
    )[:, 0]
    axes = upper.subplots(2, len(panels), height_ratios=[2.4, 1.0], sharey="row", squeeze=False)
    for (grid, bars), (name, images, row) in zip(axes.T, panels, strict=True):
        mosaic = _mosaic(images, _IMAGES_PER_SIDE)
        grid.imshow(mosaic, cmap="gray_r", vmin=0, vmax=panels[0][1].max(), interpolation="nearest")
        grid.set_title(name, fontsize=10)
        grid.set(xticks=[], yticks=[])
        shares = row.get("class_share") or []
        bars.bar(range(len(shares)), shares, color=_COLOURS["samples"])
        bars.spines[["top", "right"]].set_visible(False)
        bars.tick_params(labelsize=8)
        bars.set_visible(bool(shares))
    for part in lower:
        line = part.subplots()
        for name, curve in curves:
            line.plot(
                [c["cpu_seconds"] for c in curve],
                [c.get("fid", math.nan) for c in curve],
                marker="o",
                ms=3,
                label=name,
            )
        line.set(xlabel="training time, seconds of one core", ylabel="FID", yscale="log")
        line.spines[["top", "right"]].set_visible(False)
        line.legend(frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=13)
    _save(figure, path)


def image_rows(dataset: Dataset, rows: np.ndarray) -> np.ndarray | None:
    """Rows in original units (n, d) as square images (n, pixels), or None if the data are not images."""
    if dataset.view is not None:
        return dataset.view.images(rows)
    return rows if _is_image(dataset) else None


def mosaics_png(grids: dict[str, np.ndarray]) -> bytes:
    """A PNG of named grids of square images (n, pixels) side by side, on the first one's grey scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    _image_grids(figure, grids, math.ceil(math.sqrt(max(map(len, grids.values())))))
    out = io.BytesIO()
    _save(figure, out)
    return out.getvalue()


def _is_image(dataset: Dataset) -> bool:
    """Whether a row is a square grey image."""
    names = dataset.schema.dimension_names
    # Of a table's own columns some may have the name of a pixel.
    return names == pixel_schema(math.isqrt(len(names))).dimension_names


def _plain(name: str) -> str:
    """A name of the user's as text: matplotlib takes what is between two $ for a formula."""
    return name.replace("$", r"\$")


def _save(figure: Any, path: Path | BinaryIO) -> None:
    """Nothing; the PNG of a figure, in a file that appears whole or in an open one."""
    with whole_file(path) if isinstance(path, Path) else nullcontext(path) as target:
        figure.savefig(target, dpi=120, format="png")


def _frame(values: np.ndarray) -> tuple[float, float]:
    """Limits that show a column's data with a margin; the data's, so that far samples do not shrink them."""
    low, high = np.quantile(values, [0.001, 0.999])
    margin = 0.15 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _scatter(figure: Any, rows: dict[str, np.ndarray], names: list[str], equal: bool) -> None:
    """Nothing; three scatter panels on the same axes."""
    frames = [_frame(rows["data"][:, c]) for c in range(2)]
    width, height = np.diff(frames)[:, 0]
    # Room for a square panel with its labels, or for a flat or tall one if the axes' units are the same.
    figure.set_size_inches(12, 1.2 + 3.7 * (np.clip(height / width, 0.3, 2.0) if equal else 1.0))
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, (name, x) in zip(panels, rows.items(), strict=True):
        _points(axes, x, frames, _COLOURS[name], name)
        axes.set(xlabel=_plain(names[0]), aspect="equal" if equal else "auto")
    panels[0].set_ylabel(_plain(names[1]))


def _points(axes: Any, x: np.ndarray, frames: list[tuple[float, float]], colour: str, name: str) -> None:
    """Nothing; a scatter of those of the points (n, 2) that lie in the frame, and how many do not."""
    lows, highs = np.array(frames).T
    inside = ((x >= lows) & (x <= highs)).all(axis=1)
    outside = 1 - inside.mean() if len(x) else 0.0
    note = f"\n{outside:.1%} outside the frame" if outside >= 0.0005 else ""
    axes.set_title(name + note, fontsize=11)
    points = x[inside][:_MAX_POINTS]
    axes.scatter(points[:, 0], points[:, 1], s=4, alpha=0.45, linewidths=0, color=colour)
    axes.set(xlim=frames[0], ylim=frames[1])
    axes.spines[["top", "right"]].set_visible(False)


def _image_grids(figure: Any, rows: dict[str, np.ndarray], per_side: int = _IMAGES_PER_SIDE) -> None:
    """Nothing; grids of images side by side, ink dark on white, on the first one's grey scale."""
    figure.set_size_inches(4 * len(rows), 4.5)
    first = next(iter(rows.values()))
    low, high = float(first.min()), float(first.max())
    panels = figure.subplots(1, len(rows), squeeze=False)[0]
    for axes, (name, x) in zip(panels, rows.items(), strict=True):
        grid = _mosaic(x[: per_side**2], per_side)
        axes.imshow(grid, cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(name, fontsize=11, color=_COLOURS.get(name, "black"), fontweight="bold")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("0.8")


def _mosaic(images: np.ndarray, per_side: int) -> np.ndarray:
    """One picture of (n, d) square images in rows of `per_side`; NaN (drawn white) between and where none is."""
    side = math.isqrt(images.shape[1])
    gap = max(1, side // 8)
    cell = side + gap
    picture = np.full((per_side * cell + gap, per_side * cell + gap), np.nan)
    for i, image in enumerate(images):
        top, left = (gap + cell * k for k in divmod(i, per_side))
        picture[top : top + side, left : left + side] = image.reshape(side, side)
    return picture


def _histograms(figure: Any, rows: dict[str, np.ndarray], names: list[str]) -> None:
    """Nothing; a panel per column (the first 6) with the three marginal histograms over one another."""
    columns = min(len(names), _MAX_COLUMNS)
    wide = min(columns, 3)
    tall = math.ceil(columns / wide)
    figure.set_size_inches(max(4 * wide, 6), 3 * tall + 0.6)
    panels = figure.subplots(tall, wide, squeeze=False).ravel()
    for c, axes in enumerate(panels[:columns]):
        edges = np.linspace(*_frame(rows["data"][:, c]), _BINS + 1)
        for name, x in rows.items():
            # Shares of all rows, not of those in the frame: what lies outside must be missing inside.
            share = np.histogram(x[:, c], edges)[0] / max(len(x), 1)
            style = {"fill": True, "alpha": 0.3} if name == "data" else {"linewidth": 1.2}
            axes.stairs(share, edges, color=_COLOURS[name], label=name, **style)
        axes.set_title(_plain(names[c]), fontsize=11)
        axes.set_ylim(bottom=0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=8)
    for axes in panels[columns:]:
        axes.set_visible(False)
    for axes in panels[:columns:wide]:
        axes.set_ylabel("share of rows per bin", fontsize=9)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3, frameon=False)
