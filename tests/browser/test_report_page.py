"""A run's report in a browser, from a phone's width to a desktop's."""

import pytest

from ndsm.experiment import evaluate_run
from ndsm.report import write_report
from ndsm.run import Run

FIGURES = 5 + 3 + 2 + 1 + 1
"""Curves, profiles over time with ε(t), weights and means of the mixture, distances, class shares."""


@pytest.fixture(scope="module")
def report(tmp_path_factory, train_arcs):
    """The report of a short run on arcs with a learned ε(t)."""
    fields = {
        "data.n": 1000, "objective.kind": "ndsm-cv", "train.steps": 60, "train.batch_rows": 32,
        "train.report_seconds": 0.01, "train.block_mb": 0.02, "evaluate.n": 500, "sample.steps": 100,
    }  # fmt: skip
    run = Run(tmp_path_factory.mktemp("runs") / "arcs")
    experiment = train_arcs(run, fields)
    evaluate_run(run, dataset=experiment.dataset)
    write_report(run, experiment.dataset)
    return run.report_html


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1440, False)])
def test_report_is_whole_and_readable(chromium, report, width, dark):
    chromium.open(report, width, dark)
    assert chromium.requests() == []
    assert chromium.errors() == []
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    plots = chromium.run(
        "return [...document.querySelectorAll('.plot')].map(e => {"
        "const r = e.querySelector('.main-svg').getBoundingClientRect();"
        "return [r.left, r.right, r.height, e.querySelectorAll('.trace, .point, .lines').length]})"
    )
    assert len(plots) == FIGURES
    for left, right, height, drawn in plots:
        assert left >= 0
        assert right <= width
        assert height > 200
        assert drawn > 0
    for name in ("naturalWidth", "width"):
        assert all(w > 200 for w in chromium.run(f"return [...document.images].map(e => e.{name})"))
    assert chromium.accessibility() == []


@pytest.mark.parametrize("width", [390, 1440])
def test_first_screen_carries_metric_floor_and_prior(chromium, report, width):
    chromium.open(report, width)
    bottoms = chromium.run(
        "const row = [...document.querySelectorAll('tbody tr')].find(r => r.innerText.includes('Wasserstein'));"
        "return [...row.cells, ...row.closest('table').tHead.rows[0].cells]"
        ".map(c => [c.innerText, c.getBoundingClientRect().bottom, c.getBoundingClientRect().right])"
    )
    texts = [cell for cell, _, _ in bottoms]
    assert texts[4:] == ["metric", "model", "mixture alone", "true data (floor)"]
    assert all(float(cell) > 0 for cell in texts[1:4])
    assert all(bottom < 844 and right <= width for _, bottom, right in bottoms)
