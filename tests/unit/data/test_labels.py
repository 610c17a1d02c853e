"""Labels: recorded with the rows they belong to, seen by the network, asked for in sampling."""

import datetime as dt
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import ndsm
from ndsm.cli import main
from ndsm.config import build_config, load_config
from ndsm.data import load
from ndsm.data.table_reader import read_labels
from ndsm.errors import InputError
from ndsm.inference.guidance import Labelled
from ndsm.runs import Run
from ndsm.simulation import rollout
from ndsm.training import fit_mixture, with_labels
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import begin, build_problem, prepare
from ndsm.workflows.train import train_locally

SMALL = {
    "network.width": 32,
    "network.depth": 2,
    "process.integrator": "exponential",
    "process.grid.steps": 20,
    "sample.sampler": "exponential",
}
METHODS = {
    "ndsm": {},
    "path": {"objective.kind": "path"},
    "sliced": {"objective.kind": "sliced"},
    "dsm": {
        "objective.kind": "dsm",
        "process.kind": "vp",
        "process.horizon": 1.0,
        "process.integrator": "euler-maruyama",
        "sample.sampler": "em",
    },
}


def problem_of(**fields):
    """Points that tell their label: x0 = 10 · label exactly."""
    config = build_config(
        {
            "data": {"name": "vectors", "path": "X", "standardize": False},
            "reference": {"n_components": 3, "reg_covar": 0.1},
            "network": {"classes": 3, "label_dropout": 0.25, "width": 16, "depth": 1},
            "train": {"block_mb": 0.05, "times_per_path": 3},
        }
        | {k: v for k, v in fields.items() if isinstance(v, dict)},
        "test",
    )
    labels = np.arange(90) % 3
    data = np.stack([10.0 * labels, np.zeros(90)], 1).astype(np.float32)
    return with_labels(build_problem(config, fit_mixture(config, data), "none"), labels, "X"), data


@pytest.mark.parametrize("kind", ["ndsm", "path", "sliced"])
def test_recorded_labels_are_those_of_the_starts_and_some_are_dropped(kind):
    """In a short simulation every path stays nearest to its own start."""
    problem, data = problem_of(
        objective={"kind": kind}, process={"horizon": 0.05, "last_dt": 1e-3, "grid": {"steps": 5}}
    )
    rows = problem.spec.layout.split(torch.from_numpy(rollout(problem.spec, data, 0)))
    at = rows["state"] if kind == "path" else rows["mean"]
    label, nearest = rows["label"], (at[:, 0] / 10).round()
    known = label >= 0
    assert torch.equal(label[known], nearest[known])
    n = len(label)
    assert abs(float((~known).float().mean()) - 0.25) < 4 * (0.25 * 0.75 / n) ** 0.5
    assert set(label[~known].tolist()) == {-1.0}
    again = rollout(problem.spec, data, 0)
    assert np.array_equal(again, rollout(problem.spec, data, 0))


def test_labels_leave_the_simulation_as_it_is():
    """The same block but for its last column: starts and noise come from the same stream."""
    problem, data = problem_of(process={"horizon": 0.05, "last_dt": 1e-3, "grid": {"steps": 5}})
    plain = replace(
        problem.spec, layout=replace(problem.spec.layout, records=problem.spec.layout.records[:-1])
    )
    first = problem.spec.layout.split(torch.from_numpy(rollout(problem.spec, data, 0)))["mean"]
    count = len(first) // 2
    again = plain.layout.split(torch.from_numpy(rollout(plain, data, 0)))["mean"]
    # The first group of paths; the dropping of labels moves the stream after it.
    assert torch.equal(first[: count // 2], again[: count // 2])


@pytest.mark.parametrize("name", METHODS)
def test_every_objective_trains_a_score_that_sees_the_label(name):
    fields = {**SMALL, **METHODS[name], "objective.epsilon": {}, "network.classes": 10}
    small = {"train.block_mb": 0.1, "reference.n_components": 2}
    config = load_config("digits", {**fields, **small})
    dataset = load(config.data, 0)
    problem = build_problem(config, fit_mixture(config, dataset.train), "none")
    problem = with_labels(problem, dataset.train_labels, "digits")
    trainer, _ = start(problem, None)
    for index in range(3):
        trainer.step(torch.from_numpy(rollout(problem.spec, dataset.train, index)))
    moments = trainer.gradient_moments(
        problem.spec.layout.split(torch.from_numpy(rollout(problem.spec, dataset.train, 3))[:24])
    )
    assert bool(torch.isfinite(moments.base_base).all())
    y, t = torch.randn(6, 64), torch.full((6,), 0.1)
    with torch.no_grad():
        plain, labelled = trainer.model(y, t), Labelled(trainer.model, 3)(y, t)
        twice = Labelled(trainer.model, 3, 2.0)(y, t)
    assert float((plain - labelled).abs().max()) > 0
    torch.testing.assert_close(twice, plain + 2 * (labelled - plain))


@pytest.fixture(scope="module", name="model")
def _model():
    """Two clouds; the labels are words."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 600)
    X = rng.normal(size=(600, 2)) * 0.3 + np.array([[-2.0, 0.0], [2.0, 1.0]])[y]
    config = load_config("table-langevin", {**SMALL, "reference.reg_covar": 0.01})
    fitted = ndsm.NDSM(2, objective="path", max_steps=300, sample_steps=40, config=config, random_state=0)
    return fitted.fit(X, np.array(["left", "right"])[y])


def test_rows_have_the_label_that_was_asked_for(model, tmp_path):
    assert model.classes_ == ["left", "right"]
    left, right = (model.sample(300, label=label, guidance=1.5) for label in model.classes_)
    assert (left[:, 0] < 0).mean() > 0.95
    assert (right[:, 0] > 0).mean() > 0.95
    assert 0.3 < (model.sample(600)[:, 0] < 0).mean() < 0.7
    model.save(tmp_path / "run")
    assert np.array_equal(ndsm.load(tmp_path / "run").sample(50, label="left", guidance=1.5), left[:50])
    out = tmp_path / "rows.npy"
    assert main(["sample", str(tmp_path / "run"), "--n", "40", "--label", "1", "--out", str(out)]) == 0
    assert (np.load(out)[:, 0] > 0).mean() > 0.9


def test_a_wrong_label_is_one_sentence(model, tmp_path, capsys):
    with pytest.raises(InputError, match="label: expected one of 'left', 'right', found 'up'"):
        model.sample(5, label="up")
    X = np.random.default_rng(0).normal(size=(60, 2))
    plain = ndsm.NDSM(2, max_steps=2, config=load_config("table-langevin", SMALL), random_state=0).fit(X)
    plain.save(tmp_path / "run")
    assert main(["sample", str(tmp_path / "run"), "--label", "3", "--out", str(tmp_path / "x.csv")]) == 2
    expected = "ndsm: label: expected none: the run was trained without (network.classes), found 3\n"
    assert capsys.readouterr().err == expected
    assert not (tmp_path / "x.csv").exists()
    with pytest.raises(InputError, match="y: expected a label for each of the 60 rows, found shape"):
        plain.fit(X, [1, 2])


def test_a_column_of_a_table_can_hold_the_labels(tmp_path):
    lines = ["a,kind,b"] + [f"{i / 7:.3f},{i % 2},{(i * i) % 11}" for i in range(40)]
    path = tmp_path / "t.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    config = build_config(
        {"data": {"name": "vectors", "path": path, "labels": "kind", "standardize": False}}, "t"
    )
    dataset = load(config.data, 0)
    assert dataset.schema.dimension_names == ["a", "b"]
    # a = i/7 tells the row, whose label is its parity.
    assert np.array_equal(np.rint(dataset.train[:, 0] * 7) % 2, dataset.train_labels)
    path.write_text("\n".join([*lines, "1.0,0.5,2"]), encoding="utf-8")
    with pytest.raises(
        InputError,
        match=r"column 'kind' of data\.labels: expected labels, whole numbers or text, found the number 0\.5 in row 41",
    ):
        load(config.data, 0)


KINDS = {
    "text": (["no", "yes"], "yes", "string"),
    "bool": ([False, True], "true", "bool"),
    "sign": ([-1, 1], "1", "int64"),
    "codes": ([10, 40], "40", "int64"),
    "float": ([0.0, 1.0], "1", "double"),
    "date": ([dt.date(2020, 1, 31), dt.date(2021, 6, 1)], "2021-06-01", "date32[day]"),
    "bytes": ([b"no", b"yes"], "yes", "binary"),
    "category": (["no", "yes"], "yes", "string"),
}
FEW = {
    **SMALL,
    "train.steps": 3,
    "train.batch_rows": 50,
    "train.block_mb": 0.05,
    "sample.steps": 40,
    "reference.n_components": 2,
    "reference.covariance_type": "diag",
}


def clouds(values):
    """Two clouds far apart, a = ±5, of three rows in four with the second label: even an untrained network keeps to the
    mixture's modes that a label's rows are in."""
    rng = np.random.default_rng(0)
    second = np.arange(200) % 4 > 0
    a = 10.0 * second - 5 + 0.1 * rng.normal(size=200)
    return a, rng.normal(size=200), [values[int(k)] for k in second]


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_any_kind_in_a_table_are_learned_and_named(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values, typed, arrow = KINDS[kind]
    a, b, labels = clouds(values)
    column = pa.array(labels).dictionary_encode() if kind == "category" else pa.array(labels)
    pq.write_table(pa.table({"a": a, "mark": column, "b": b}), "t.parquet")
    train({"data.path": "t.parquet", "data.labels": "mark", "network.classes": "auto"}, "run")
    described = json.loads(Path("run/data.json").read_text())
    assert (described["labels"]["column"], described["labels"]["type"]) == ("mark", arrow)
    assert sum(described["label_counts"]) == described["rows"]
    assert Run(Path("run")).config().network.classes == 2
    assert main(["sample", "run", "--n", "30", "--label", typed, "--out", "s.parquet", "--quiet"]) == 0
    found = pq.read_table("s.parquet")
    assert found.column_names == ["a", "b", "mark"]
    assert str(found.schema.field("mark").type) == arrow
    assert set(found["mark"].to_pylist()) == {values[1]}
    assert (found["a"].to_numpy() > 0).mean() > 0.9
    assert main(["sample", "run", "--n", "400", "--with-labels", "--out", "w.parquet", "--quiet"]) == 0
    found = pq.read_table("w.parquet")
    second = np.array([value == values[1] for value in found["mark"].to_pylist()])
    # Four standard errors of a share of 3/4 in 400 rows, and in the training rows that it is drawn by.
    assert abs(second.mean() - 0.75) < 4 * (0.75 * 0.25 * (1 / 400 + 1 / 180)) ** 0.5
    assert ((found["a"].to_numpy() > 0) == second).mean() > 0.9
    model = ndsm.load("run")
    assert model.classes_ == values
    assert (model.sample(20, label=values[0])[:, 0] < 0).mean() > 0.8


def train(fields, path):
    experiment = prepare(load_config("table-langevin", {**FEW, **fields}), Run(Path(path)))
    begin(experiment)
    list(train_locally(experiment))
    return experiment


@pytest.mark.parametrize("kind", KINDS)
def test_labels_of_any_kind_from_python_are_saved_and_named_on_the_command_line(kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values, typed, arrow = KINDS[kind]
    a, b, labels = clouds(values)
    y = pd.Series(labels, name="mark")
    model = ndsm.NDSM(
        2,
        covariance_type="diag",
        config=load_config("table-langevin", {**FEW, "data.path": "X"}),
        random_state=0,
    )
    model.fit(pd.DataFrame({"a": a, "b": b}), y.astype("category") if kind == "category" else y)
    assert model.classes_ == values
    rows, drawn = model.sample(40, return_labels=True)
    assert ((rows["a"] > 0) == (drawn == np.array(values)[1])).mean() > 0.9
    model.save("run")
    assert ndsm.load("run").classes_ == values
    assert main(["sample", "run", "--n", "30", "--label", typed, "--out", "s.parquet", "--quiet"]) == 0
    found = pq.read_table("s.parquet")
    assert str(found.schema.field("mark").type) == arrow
    assert set(found["mark"].to_pylist()) == {values[1]}
    assert (found["a"].to_numpy() > 0).mean() > 0.9


@pytest.mark.parametrize(
    "cells", [("no", "yes"), ("false", "true"), ("-1", "1"), ("2020-01-31", "2021-06-01")]
)
def test_labels_of_a_text_file_are_read_whole_before_they_have_a_type(cells, tmp_path):
    a, b, labels = clouds(cells)
    lines = [f"{x},{y},{z}" for x, y, z in zip(a, b, labels, strict=True)]
    (tmp_path / "t.csv").write_text("\n".join(["a,b,mark", *lines]), encoding="utf-8")
    known, numbers = read_labels(tmp_path / "t.csv", "mark")
    assert known.texts == list(cells)
    assert [known.texts[k] for k in numbers] == labels
    (tmp_path / "t.csv").write_text("\n".join(["a,b,mark", *lines, "1,2,"]), encoding="utf-8")
    with pytest.raises(InputError, match=r"expected a label for each row, found a missing one in row 201"):
        read_labels(tmp_path / "t.csv", "mark")


def test_the_number_of_labels_is_checked_and_runs_are_resumed_by_either_spelling(tmp_path):
    a, b, labels = clouds(["no", "yes"])
    pq.write_table(pa.table({"a": a, "mark": labels, "b": b}), tmp_path / "t.parquet")
    fields = {"data.path": tmp_path / "t.parquet", "data.labels": "mark"}
    for wrong in (1, 3):
        with pytest.raises(
            InputError, match=f"network.classes: expected 2, the number of different .* found {wrong}"
        ):
            train({**fields, "network.classes": wrong}, tmp_path / "none")
    stamp = train({**fields, "network.classes": "auto"}, tmp_path / "run").problem.spec.stamp
    for classes in (2, "auto"):
        again = prepare(
            load_config("table-langevin", {**FEW, **fields, "network.classes": classes}),
            Run(tmp_path / "run"),
        )
        assert again.problem.spec.stamp == stamp


def test_labels_that_are_not_learned_are_named(tmp_path):
    a, b, labels = clouds(["no", "yes"])
    pq.write_table(pa.table({"a": a, "mark": labels, "b": b}), tmp_path / "t.parquet")
    fields = {**FEW, "data.path": tmp_path / "t.parquet", "data.labels": "mark"}
    for classes, expected in ((0, ["the labels in column 'mark' are not learned: "]), ("auto", [])):
        found = prepare(
            load_config("table-langevin", {**fields, "network.classes": classes}), Run(tmp_path / "run")
        ).notices
        assert [
            notice[: len("the labels in column 'mark' are not learned: ")] for notice in found
        ] == expected


def test_whole_numbers_from_0_on_are_their_own_numbers(tmp_path):
    """So that runs of earlier versions, which knew no others, go on."""
    pq.write_table(pa.table({"a": np.arange(9.0), "mark": np.arange(9) % 3}), tmp_path / "t.parquet")
    known, numbers = read_labels(tmp_path / "t.parquet", "mark")
    assert known.values == (0, 1, 2)
    assert np.array_equal(numbers, np.arange(9) % 3)


@pytest.mark.parametrize(
    ("y", "sentence"),
    [
        (
            np.random.default_rng(0).normal(size=200),
            r"y: expected labels, whole numbers or text, found the number .* in row 1",
        ),
        (np.arange(200), r"y: expected labels that rows share, found 200 different ones in 200 rows"),
        (pd.Series(["a", pd.NA] * 100), "y: expected a label for each row, found a missing one in row 2"),
        ([[1, 2]] * 200, r"y: expected a label for each of the 200 rows, found shape \(200, 2\)"),
    ],
)
def test_what_is_no_label_is_one_sentence(y, sentence):
    with pytest.raises(InputError, match=sentence):
        ndsm.NDSM(2, max_steps=3).fit(np.random.default_rng(0).normal(size=(200, 2)), y)


def test_labels_that_cannot_be_asked_for_are_one_sentence(model, tmp_path, capsys):
    model.save(tmp_path / "run")
    run = str(tmp_path / "run")
    for options, sentence in (
        (["--label", "up"], "label: expected one of left, right, found 'up'"),
        (
            ["--with-labels", "--label", "left"],
            "--with-labels: expected neither --given nor --label beside it",
        ),
        (
            ["--with-labels", "--out", "x.npy"],
            "--with-labels: expected a file with named columns as --out, found x.npy",
        ),
    ):
        assert main(["sample", run, "--quiet", *options]) == 2
        assert sentence in capsys.readouterr().err
    with pytest.raises(
        InputError, match="return_labels: expected rows that have labels, found given beside it"
    ):
        model.sample(2, given={"x0": 1.0}, return_labels=True)
