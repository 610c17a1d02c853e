"""A search's page in a browser, with what no other page has: parallel coordinates, drawn by WebGL."""

import pytest

from tuning.folder import Score, TrialRecord
from tuning.summary import summarise
from tuning.trial import RUNGS

FIGURES = ["Importance", "Every trial as a line", "swd2 on held-out rows", "ε(t)"]


@pytest.fixture
def page(search, train_arcs):
    """The page of eight trials, of which the best has a run."""
    plan, setting, dataset = search
    for number in range(8):
        params = {"train.lr": 1e-3 * (number + 1), "network.width": 32 if number % 2 else 64}
        scores = [Score(i, share, 0.5 - 0.02 * number) for i, share in enumerate(RUNGS)]
        setting.search.trial(number).write(
            TrialRecord(number, params, status="done", scores=scores, cost=1.0)
        )
    fields = {"data.n": 400, "reference.n_init": 1, "train.steps": 20, "train.block_mb": 0.02, "sample.steps": 40,
              "sample.sampler": "exponential"}  # fmt: skip
    train_arcs(setting.search.trial(7).run, fields)
    summarise("toy-arcs", "data", plan, setting, dataset).write()
    return setting.search.path / "tune-report.html"


def test_page_is_whole_and_readable(chromium, page):
    for width, dark in ((390, True), (1440, False)):
        chromium.open(page, width, dark)
        assert chromium.requests() == []
        assert chromium.errors() == []
        assert chromium.run("return document.documentElement.scrollWidth") <= width
        plots = chromium.run(
            "return [...document.querySelectorAll('.plot')].map(e => {"
            "const r = e.querySelector('.main-svg').getBoundingClientRect();"
            "return [e.querySelector('.gtitle, .g-gtitle text').textContent, r.left, r.right, r.height]})"
        )
        for (title, left, right, height), begins in zip(plots, FIGURES, strict=True):
            assert title.startswith(begins)
            assert left >= 0
            assert right <= width
            assert height > 200
        drawn = chromium.run(
            "const lines = document.querySelector('canvas.gl-canvas-context, .gl-container canvas');"
            "const copy = document.createElement('canvas'); copy.width = lines.width; copy.height = lines.height;"
            "copy.getContext('2d').drawImage(lines, 0, 0);"
            "return copy.getContext('2d').getImageData(0, 0, copy.width, copy.height).data.some(x => x > 0)"
        )
        assert drawn
        axes = chromium.run(
            "return [...document.querySelectorAll('.parcoords .axis-title')].map(e => e.textContent)"
        )
        assert axes == ["lr", "width", "swd2"]
        assert chromium.accessibility() == []
        assert chromium.faint_text() == []
        assert chromium.broken_words() == []


def test_nothing_lies_over_anything_before_the_first_resize(chromium, page):
    for width in (390, 1024, 1440):
        chromium.open(page, width)
        assert chromium.overlaps() == []
