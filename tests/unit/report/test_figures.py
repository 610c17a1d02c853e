"""Figures are written, as PNGs, for every kind of data and for rows that went wrong."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from sklearn.datasets import load_digits

from ndsm.core.rng import numpy_stream
from ndsm.workflows.figures import samples_figure


class Identity:
    def invert(self, rows):
        return rows


def dataset(rows, names=None, labels=None, toy=None):
    return SimpleNamespace(
        train=rows[50:].astype(np.float32),
        validation=rows[:50].astype(np.float32),
        scaling=Identity(),
        schema=SimpleNamespace(dimension_names=names or [f"column {i}" for i in range(rows.shape[1])]),
        train_labels=labels,
        toy=toy,
        view=None,
    )


def made_up(kind):
    """A data set, generated rows and rows of the mixture."""
    g = numpy_stream(0, "test-figures")
    if kind == "toy":
        angle = g.uniform(0, np.pi, 3000)
        arc = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        noisy = [arc + s * g.normal(size=arc.shape) for s in (0.02, 0.06, 0.3)]
        return dataset(noisy[0], ["x1", "x2"], toy=object()), noisy[1], noisy[2]
    if kind == "images":
        x = load_digits().data
        names = [f"pixel_{i}_{j}" for i in range(8) for j in range(8)]
        return (
            dataset(x, names, labels=np.zeros(1)),
            x + g.normal(size=x.shape),
            x + 4 * g.normal(size=x.shape),
        )
    x = g.normal(size=(2000, 8)) * [1, 2, 3, 4, 5, 6, 7, 8]
    x[:, 1] = np.exp(x[:, 1] / 4)
    x[:, 2] = np.round(x[:, 2])
    return dataset(x), x * 1.1, x * 1.5 + 1


def is_png(path):
    return path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


@pytest.mark.parametrize("kind", ["toy", "images", "table"])
def test_figure_is_a_png_of_some_size(kind, tmp_path):
    path = tmp_path / "new folder" / "samples.png"
    samples_figure(*made_up(kind), path, title=f"A {kind}")
    assert is_png(path)
    assert path.stat().st_size > 10_000


@pytest.mark.parametrize("kind", ["toy", "images", "table"])
@pytest.mark.filterwarnings("error")
def test_figure_survives_rows_that_are_not_finite_or_missing(kind, tmp_path):
    data, samples, prior = made_up(kind)
    samples[::2] = np.nan
    samples[1] = np.inf
    samples_figure(data, samples, prior[:0], tmp_path / "samples.png")
    assert is_png(tmp_path / "samples.png")


@pytest.mark.parametrize("columns", [1, 4])
def test_figure_of_a_narrow_table_with_a_constant_column(columns, tmp_path):
    rows = numpy_stream(1, "test-figures").normal(size=(200, columns))
    rows[:, 0] = 3.0
    samples_figure(dataset(rows), rows, rows, tmp_path / "samples.png")
    assert is_png(tmp_path / "samples.png")


@pytest.mark.parametrize("columns", [2, 3])
def test_names_are_shown_as_they_are(columns, tmp_path):
    """Neither as formulas, nor taken for images because one of them has the name of a pixel."""
    names = ["pixel_0_0", "low_$_high_$_x", r"\$"][:columns]
    x = numpy_stream(0, "test-figures").normal(size=(100, columns))
    samples_figure(dataset(x, names), x, x, tmp_path / "a.png", title="5 $_{ for $")
    assert is_png(tmp_path / "a.png")
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_importing_figures_imports_no_matplotlib():
    code = "import sys, ndsm.workflows.figures; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
