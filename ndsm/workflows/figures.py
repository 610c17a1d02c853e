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
COLOURS = {"data": "#0072B2", "samples": "#D55E00", "mixture alone": "#009E73"}
_MAX_ROWS = 50_000
_MAX_POINTS = 4000
IMAGES_PER_SIDE = 8
_MAX_COLUMNS = 6
_BINS = 40


def samples_figure(
    dataset: Dataset, samples: np.ndarray, prior: np.ndarray, path: Path | BinaryIO, title: str = ""
) -> None:
    """Write a PNG that compares data, samples and the mixture alone.

    Two columns are drawn as scatters on the data's axes, images as grids, other tables as histograms of the first 6 columns.

    Args:
        dataset: the data; its scaling brings all rows to original units.
        samples: (n, d) generated rows, model units.
        prior: (n', d) rows of the fitted mixture, model units.
        path: file to write, whose folder is made if needed, or an open one.
        title: line above the panels.
    """
    # Not at the top: `import ndsm` should stay fast. Figure objects, not pyplot: no global state, no display.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # The rows are shuffled: the first ones represent a large table.
    most = _MAX_ROWS if dataset.view is None else IMAGES_PER_SIDE**2
    models = (np.concatenate([dataset.train[:most], dataset.validation[:most]]), samples, prior)
    with np.errstate(over="ignore", invalid="ignore"):
        rows = {
            name: dataset.scaling.invert(np.asarray(model[:most], dtype=np.float32))
            for name, model in zip(COLOURS, models, strict=True)
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
    save_png(figure, path)


def image_rows(dataset: Dataset, rows: np.ndarray) -> np.ndarray | None:
    """Return rows in original units (n, d) as square images (n, pixels), or None if the data are not images."""
    if dataset.view is not None:
        return dataset.view.images(rows)
    return rows if _is_image(dataset) else None


def mosaics_png(grids: dict[str, np.ndarray]) -> bytes:
    """Return a PNG of named grids of square images (n, pixels) side by side, on the first one's grey scale."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    _image_grids(figure, grids, math.ceil(math.sqrt(max(map(len, grids.values())))))
    out = io.BytesIO()
    save_png(figure, out)
    return out.getvalue()


def _is_image(dataset: Dataset) -> bool:
    """Return whether a row is a square grey image."""
    names = dataset.schema.dimension_names
    # Of a table's own columns some may have the name of a pixel.
    return names == pixel_schema(math.isqrt(len(names))).dimension_names


def _plain(name: str) -> str:
    """Return a user's name as plain text: matplotlib takes text between two $ for a formula."""
    return name.replace("$", r"\$")


def save_png(figure: Any, path: Path | BinaryIO) -> None:
    """Write a figure as PNG, to a file that appears whole or to an open one."""
    with whole_file(path) if isinstance(path, Path) else nullcontext(path) as target:
        figure.savefig(target, dpi=120, format="png")


def frame_of(values: np.ndarray) -> tuple[float, float]:
    """Return axis limits for a column of the data, with a margin; distant samples do not widen them."""
    low, high = np.quantile(values, [0.001, 0.999])
    margin = 0.15 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _scatter(figure: Any, rows: dict[str, np.ndarray], names: list[str], equal: bool) -> None:
    """Draw three scatters on the same axes."""
    frames = [frame_of(rows["data"][:, c]) for c in range(2)]
    width, height = np.diff(frames)[:, 0]
    # Room for a square panel with its labels, or for a flat or tall one if the axes' units are the same.
    figure.set_size_inches(12, 1.2 + 3.7 * (np.clip(height / width, 0.3, 2.0) if equal else 1.0))
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    for axes, (name, x) in zip(panels, rows.items(), strict=True):
        draw_points(axes, x, frames, COLOURS[name], name)
        axes.set(xlabel=_plain(names[0]), aspect="equal" if equal else "auto")
    panels[0].set_ylabel(_plain(names[1]))


def draw_points(axes: Any, x: np.ndarray, frames: list[tuple[float, float]], colour: str, name: str) -> None:
    """Draw a scatter of the points (n, 2) inside the frame; the title says how many lie outside."""
    lows, highs = np.array(frames).T
    inside = ((x >= lows) & (x <= highs)).all(axis=1)
    outside = 1 - inside.mean() if len(x) else 0.0
    note = f"\n{outside:.1%} outside the frame" if outside >= 0.0005 else ""
    axes.set_title(name + note, fontsize=11)
    points = x[inside][:_MAX_POINTS]
    axes.scatter(points[:, 0], points[:, 1], s=4, alpha=0.45, linewidths=0, color=colour)
    axes.set(xlim=frames[0], ylim=frames[1])
    axes.spines[["top", "right"]].set_visible(False)


def _image_grids(figure: Any, rows: dict[str, np.ndarray], per_side: int = IMAGES_PER_SIDE) -> None:
    """Draw grids of images side by side, ink dark on white, on the first one's grey scale."""
    figure.set_size_inches(4 * len(rows), 4.5)
    first = next(iter(rows.values()))
    low, high = float(first.min()), float(first.max())
    panels = figure.subplots(1, len(rows), squeeze=False)[0]
    for axes, (name, x) in zip(panels, rows.items(), strict=True):
        grid = mosaic_of(x[: per_side**2], per_side)
        axes.imshow(grid, cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(name, fontsize=11, color=COLOURS.get(name, "black"), fontweight="bold")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("0.8")


def mosaic_of(images: np.ndarray, per_side: int) -> np.ndarray:
    """Return one picture of (n, d) square images in rows of `per_side`, with NaN (drawn white) in the gaps."""
    side = math.isqrt(images.shape[1])
    gap = max(1, side // 8)
    cell = side + gap
    picture = np.full((per_side * cell + gap, per_side * cell + gap), np.nan)
    for i, image in enumerate(images):
        top, left = (gap + cell * k for k in divmod(i, per_side))
        picture[top : top + side, left : left + side] = image.reshape(side, side)
    return picture


def _histograms(figure: Any, rows: dict[str, np.ndarray], names: list[str]) -> None:
    """Draw a panel per column (the first 6) with the three marginal histograms on top of one another."""
    columns = min(len(names), _MAX_COLUMNS)
    wide = min(columns, 3)
    tall = math.ceil(columns / wide)
    figure.set_size_inches(max(4 * wide, 6), 3 * tall + 0.6)
    panels = figure.subplots(tall, wide, squeeze=False).ravel()
    for c, axes in enumerate(panels[:columns]):
        edges = np.linspace(*frame_of(rows["data"][:, c]), _BINS + 1)
        for name, x in rows.items():
            # Shares of all rows, not of those in the frame: what lies outside must be missing inside.
            share = np.histogram(x[:, c], edges)[0] / max(len(x), 1)
            style = {"fill": True, "alpha": 0.3} if name == "data" else {"linewidth": 1.2}
            axes.stairs(share, edges, color=COLOURS[name], label=name, **style)
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
