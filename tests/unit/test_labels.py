"""Labels: recorded with the rows they belong to, seen by the network, asked for in sampling."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import ndsm
from ndsm.cli import main
from ndsm.config import build_config, load_config
from ndsm.data import load
from ndsm.errors import InputError
from ndsm.experiment import build_problem, start
from ndsm.processes import rollout
from ndsm.samplers.guidance import Labelled
from ndsm.training import fit_mixture, with_labels

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
    config = load_config("vectors", {**SMALL, "reference.reg_covar": 0.01})
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
    plain = ndsm.NDSM(2, max_steps=2, config=load_config("vectors", SMALL), random_state=0).fit(X)
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
        match=r"column 'kind' of data\.labels, row 41: expected a whole number from 0 on, found 0\.5",
    ):
        load(config.data, 0)
