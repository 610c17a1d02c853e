"""Figures of the paper's studies."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from ndsm.workflows.figures import COLOURS, IMAGES_PER_SIDE, draw_points, frame_of, mosaic_of, save_png


def study_figure(panels: list[tuple[str, np.ndarray]], path: Path, title: str) -> None:
    """Write a PNG of scatters side by side, each a title and points (n, 2), on the first one's axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained", figsize=(2.9 * len(panels), 4.4))
    FigureCanvasAgg(figure)
    frames = [frame_of(panels[0][1][:, c]) for c in range(2)]
    for k, (axes, (name, x)) in enumerate(
        zip(figure.subplots(1, len(panels), sharex=True, sharey=True), panels, strict=True)
    ):
        draw_points(axes, x, frames, COLOURS["samples" if k else "data"], name)
        axes.set(aspect="equal")
    figure.suptitle(title, fontsize=13)
    save_png(figure, path)


def image_study_figure(panels: list[tuple[str, np.ndarray, dict[str, Any]]], path: Path, title: str) -> None:
    """Write a PNG of image grids side by side, with class shares below them and FID against training time.

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
        mosaic = mosaic_of(images, IMAGES_PER_SIDE)
        grid.imshow(mosaic, cmap="gray_r", vmin=0, vmax=panels[0][1].max(), interpolation="nearest")
        grid.set_title(name, fontsize=10)
        grid.set(xticks=[], yticks=[])
        shares = row.get("class_share") or []
        bars.bar(range(len(shares)), shares, color=COLOURS["samples"])
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
    save_png(figure, path)
