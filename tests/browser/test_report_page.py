"""A run's report in a browser, from a phone's width to a desktop's."""

import pytest

from ndsm.config import load_config
from ndsm.report.page import write_report
from ndsm.runs import Run
from ndsm.workflows.evaluate import evaluate_run
from ndsm.workflows.setup import begin, prepare
from ndsm.workflows.train import train_locally

WIDTHS = (390, 1440)


@pytest.fixture(scope="module")
def arcs(tmp_path_factory, train_arcs):
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


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The report of a short run on images."""
    fields = {
        "train.steps": 20, "train.batch_rows": 32, "train.report_seconds": 1e-9, "train.block_mb": 0.1, "evaluate.n": 300,
        "sample.steps": 40, "sample.sampler": "exponential", "reference.n_init": 1, "network.width": 16,
    }  # fmt: skip
    run = Run(tmp_path_factory.mktemp("runs") / "digits")
    experiment = prepare(load_config("digits", fields), run)
    begin(experiment)
    assert list(train_locally(experiment))
    evaluate_run(run, dataset=experiment.dataset)
    write_report(run, experiment.dataset)
    return run.report_html


@pytest.fixture(params=["arcs", "digits"])
def report(request):
    return request.param, request.getfixturevalue(request.param)


FIGURES = {"arcs": 6 + 3 + 2 + 1 + 1, "digits": 6 + 3 + 1 + 1 + 1}
"""Curves, profiles over time with ε(t), weights (and in the plane means) of the mixture, distances, class shares."""
PICTURES = {
    "arcs": ["Data, generated samples"],
    "digits": [
        "Data, generated samples",
        "Means of the mixture's components",
        "The 16 generated images nearest",
    ],
}


@pytest.mark.parametrize(("width", "dark"), [(390, True), (1440, False)])
def test_report_is_whole_and_readable(chromium, report, width, dark):
    name, path = report
    chromium.open(path, width, dark)
    assert chromium.requests() == []
    assert chromium.errors() == []
    assert chromium.run("return document.documentElement.scrollWidth") <= width
    plots = chromium.run(
        "return [...document.querySelectorAll('.plot')].map(e => {"
        "const r = e.querySelector('.main-svg').getBoundingClientRect();"
        "return [r.left, r.right, r.height, e.querySelectorAll('.trace, .point, .lines').length]})"
    )
    assert len(plots) == FIGURES[name]
    for left, right, height, drawn in plots:
        assert left >= 0
        assert right <= width
        assert height > 200
        assert drawn > 0
    pictures = chromium.run("return [...document.images].map(e => [e.alt, e.naturalWidth, e.width])")
    for (alt, *sizes), begins in zip(pictures, PICTURES[name], strict=True):
        assert alt.startswith(begins)
        assert min(sizes) > 200
    assert chromium.accessibility() == []
    assert chromium.faint_text() == []
    assert chromium.broken_words() == []


@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_nothing_lies_over_anything_before_the_first_resize(chromium, report, width):
    chromium.open(report[1], width)
    assert chromium.overlaps() == []


@pytest.mark.parametrize("width", WIDTHS)
def test_first_screen_says_how_well_it_went(chromium, report, width):
    """Metric, floor and mixture alone, the class shares, and samples beside the data."""
    chromium.open(report[1], width)
    cells = chromium.run(
        "const rows = [...document.querySelectorAll('main > .wide tbody tr')]"
        ".filter(r => /Wasserstein|class shares/.test(r.innerText));"
        "return [...document.querySelector('main > .wide thead').rows, ...rows].map(row => [...row.cells]"
        ".map(c => [c.innerText, c.getBoundingClientRect().bottom, c.getBoundingClientRect().right]))"
    )
    header, distance, *shares = [[words for words, *_ in row] for row in cells]
    assert header == ["metric", "model", "mixture alone", "true data (floor)"]
    assert all(float(cell) > 0 for cell in distance[1:])
    assert [row[0] for row in shares] == ["class shares, total variation", "class shares, std of error"]
    assert all(bottom < 844 and right <= width for row in cells for _, bottom, right in row)
    picture = chromium.run(
        "const r = document.images[0].getBoundingClientRect(); return [r.top, r.bottom, r.right]"
    )
    assert picture[0] > 0
    assert picture[1] <= 844
    assert picture[2] <= width
