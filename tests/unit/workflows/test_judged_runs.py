"""What `ndsm evaluate` tests of a run, and where it says so."""

import json

import numpy as np
import pytest

import ndsm
from ndsm.cli import main
from ndsm.runs import Run
from ndsm.workflows.evaluate import evaluate_checkpoint
from ndsm.workflows.setup import training_problem


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("judged")
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 300)
    rows = np.column_stack([rng.normal(3 * kind, 1), rng.poisson(4 + 4 * kind), kind])
    text = "size,count,kind\n" + "".join(f"{a:.3f},{b:.0f},{'no' if c else 'yes'}\n" for a, b, c in rows)
    (folder / "t.csv").write_text(text)
    fields = {
        "data.path": folder / "t.csv", "data.labels": "kind", "data.validation_fraction": 0.3, "network.classes": "auto",
        "train.steps": 10, "network.width": 16, "evaluate.n": 200, "reference.n_components": 2, "sample.steps": 5,
    }  # fmt: skip
    options = [part for key, value in fields.items() for part in (f"--{key}", str(value))]
    assert (
        main(["train", "vectors", "--out", str(folder), "--name", "run", "--local", "--quiet", *options]) == 0
    )
    return Run.open(folder / "run")


def test_a_run_of_a_table_is_tested(run):
    found = json.loads((run.path / "metrics.json").read_text())
    assert found["columns"].keys() == {"size", "count"}
    # Whole numbers are tested as they are written.
    assert found["columns"]["count"]["exact"] == 1.0
    assert found["verdict"].keys() == {
        "swd2",
        "columns",
        "c2st",
        "shares",
        "copies",
        "n",
        "reference",
        "sentence",
    }
    assert found["verdict"]["n"] == 90
    assert 0 < found["c2st"]["se"] < 0.2
    assert found["tstr"].keys() == {"f1", "real_f1", "se", "n"}
    assert found["tstr"]["real_f1"] > 0.7
    assert {"tv", "se", "floor"} == found["component_share"].keys() == found["component_share_labels"].keys()
    assert {"swd2", "c2st", "columns", "component_share", "copies"} <= found["prior"].keys()


def test_the_verdict_stands_on_the_console_and_first_on_the_page(run, capsys):
    assert main(["evaluate", str(run.path), "--quiet"]) == 0
    said = capsys.readouterr().out
    sentence = json.loads((run.path / "metrics.json").read_text())["verdict"]["sentence"]
    assert f"verdict: {sentence}" in said
    page = run.report_html.read_text()
    words = ("90 held-out rows", "sliced Wasserstein-2", "Columns, the worst first", "Generated rows, tested")
    places = [page.index(part) for part in words]
    assert places[0] == min(places)


def test_evaluations_along_the_training_leave_the_trees_out(run):
    """They take processors from the training."""
    from ndsm.report.numbers import find_data

    dataset, _ = find_data(run, run.config())
    problem = training_problem(run.config(), run.mixture(), run.data()["fingerprint"], dataset.train_labels)
    metrics, _ = evaluate_checkpoint(run, problem, dataset)
    assert "swd2" in metrics
    assert "c2st" not in metrics


def test_an_estimator_is_evaluated_on_rows_it_has_not_seen():
    rng = np.random.default_rng(0)
    train, held_out = rng.standard_normal((2, 120, 2)) + 3
    model = ndsm.NDSM(2, max_steps=2, sample_steps=4, random_state=0).fit(train)
    found = model.evaluate(held_out, X_train=train, n_samples=100)
    assert found["verdict"]["n"] == 120
    assert "copies" in found
    assert repr(found).startswith(found["verdict"]["sentence"])
    assert "worst column" in repr(found)
    alone = model.evaluate(held_out, n_samples=100)
    assert alone["verdict"]["n"] == 60
    assert "copies" not in alone
    with pytest.raises(ValueError, match="at least 40 rows, found 30"):
        model.evaluate(held_out[:30])
