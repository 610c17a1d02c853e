"""Columns as numbers that are easy to learn, and back to exactly what they can hold."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

import ndsm
from ndsm.cli.app import main
from ndsm.config import Data, load_config
from ndsm.data import load
from ndsm.data.column_choice import ColumnSurvey
from ndsm.data.scaling import Scaling
from ndsm.errors import InputError

FAST = [
    "--local", "--train.steps", "4", "--evaluate.n", "20", "--reference.n-components", "2", "--sample.steps", "4",
    "--reference.covariance-type", "diag", "--network.width", "8", "--train.patience", "0",
]  # fmt: skip


def surveyed(columns, declared=None, auto=True):
    """The scaling of a mapping of columns, its rows and their places in cells."""
    names, rows = list(columns), np.column_stack([np.asarray(c, dtype=np.float64) for c in columns.values()])
    survey = ColumnSurvey(names, declared or {}, [np.float64] * len(names), len(rows), "table", auto)
    numbers = np.arange(len(rows))
    for part in np.array_split(numbers, 3):
        survey.add(rows[part], part, part)
    u = np.random.default_rng(1).random(rows.shape, dtype=np.float32)
    scaling = Scaling.of_columns(survey.transforms(), survey.sample, u[: len(survey.sample)], "table")
    return Scaling.from_json(json.loads(json.dumps(scaling.to_json()))), rows, u


def kinds(scaling):
    return {column.name: str(column) for column in scaling.columns.columns}


def test_each_column_gets_what_its_numbers_need():
    rng, n = np.random.default_rng(0), 3000
    outliers = rng.random(n) < 0.005
    scaling, rows, u = surveyed(
        {
            "normal": rng.normal(0, 1, n),
            "modes": rng.choice([-5, 5], n) + rng.normal(0, 0.1, n),
            "counts": np.where(outliers, 100_000, rng.poisson(5, n)),
            "price": rng.lognormal(3, 1, n).round(2),
            "cauchy": rng.standard_cauchy(n),
            "zeros": np.where(rng.random(n) < 0.3, 0, rng.gamma(2, 1, n)),
            "share": rng.beta(2, 3, n),
            "age": rng.integers(18, 91, n),
            "rare": rng.choice(4, n, p=[0.6, 0.3, 0.09, 0.01]),
            "quarters": rng.integers(0, 40, n) * 0.25,
            "lattice": rng.integers(0, 20, n) / 7.3,
        }
    )
    assert kinds(scaling) == {
        "normal": "float standard",
        "modes": "float standard",
        "counts": "int[0,] quantile",
        "price": "step 0.01[0,] log",
        "cauchy": "float quantile",
        "zeros": "float[0,] quantile",
        "share": "float[0,1] standard",
        "age": "int[18,90] standard",
        "rare": "int[0,3] standard",
        "quarters": "step 0.25[0,9.75] standard",
        "lattice": "step 0.137[0,2.60274] standard",
    }
    model = scaling.apply(rows, u)
    assert np.abs(model.mean(0)).max() < 0.05
    assert np.abs(model.std(0) - 1).max() < 0.05
    # Outliers no longer squeeze the others: one count more is a step that a network sees.
    counts = model[~outliers, 2]
    assert counts[rows[~outliers, 2] == 6].mean() - counts[rows[~outliers, 2] == 5].mean() > 0.2
    back = scaling.invert(model)
    exact = [2, 3, 7, 8, 9, 10]
    assert np.array_equal(back[:, exact], rows[:, exact])
    assert (back[rows[:, 5] == 0, 5] == 0).all()
    assert np.allclose(back, rows, rtol=1e-4, atol=1e-5)


@st.composite
def columns(draw):
    """A column of some kind, and what its numbers keep: step, bounds and, of few levels, these."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, size = 120, draw(st.sampled_from([1e-3, 1.0, 300.0, 1e6]))
    kind = draw(st.sampled_from(["whole", "decimal", "float", "positive", "levels", "zeros", "outliers"]))
    step = None
    if kind == "whole":
        x, step = np.rint(rng.normal(draw(st.integers(-50, 50)), 5 + size, n)), 1.0
    elif kind == "decimal":
        x, step = np.rint(rng.normal(3, 20, n) * 10) / 10, 0.1
    elif kind == "float":
        x = rng.normal(draw(st.floats(-5, 5)), 1, n) * size
    elif kind == "positive":
        x = rng.lognormal(0, draw(st.floats(0.1, 2)), n) * size
    elif kind == "levels":
        x = rng.normal(0, size, 5)[rng.integers(0, 5, n)]
    elif kind == "zeros":
        x = np.where(rng.random(n) < 0.4, 0.0, rng.gamma(2, size, n))
    else:
        x, step = np.where(np.arange(n) < 3, 10_000.0, rng.poisson(4, n)), 1.0
    x[:2] = x[:2] + (x[0] == x[1]) * np.array([0.0, step or 0.0])
    return kind, x, step


@settings(max_examples=60, deadline=None)
@given(st.lists(columns(), min_size=1, max_size=4), st.integers(0, 2**32 - 1))
def test_out_is_in_and_generated_numbers_keep_steps_bounds_and_levels(drawn, seed):
    scaling, rows, u = surveyed({f"x{j}": x for j, (_, x, _) in enumerate(drawn)})
    back = scaling.invert(scaling.apply(rows, u))
    wild = scaling.invert((5 * np.random.default_rng(seed).standard_normal((500, len(drawn)))).astype("f4"))
    for j, (kind, x, step) in enumerate(drawn):
        made = wild[:, j]
        assert np.isfinite(made).all()
        if step is not None or kind == "levels":
            assert np.array_equal(back[:, j], x)
        else:
            assert np.allclose(back[:, j], x, rtol=1e-3, atol=1e-4 * x.std())
        if step is not None:
            assert np.array_equal(np.rint(made / step) * step if step == 1 else made.round(1), made)
        if kind == "levels":
            assert set(made) <= set(x)
        if kind == "zeros":
            assert (back[x == 0, j] == 0).all()
        if x.min() >= 0:
            assert made.min() >= 0


@pytest.mark.parametrize("kind", ["log", "quantile", "standard"])
def test_the_density_with_the_log_volume_integrates_to_one(kind):
    """If model numbers have a density q, originals have q(T(x)) e^volume(x): over all numbers its integral, and over all values with
    a grid its mean over places summed, is one."""
    rng = np.random.default_rng(0)
    x = rng.lognormal(0, 0.7, 400)
    scaling, _, _ = surveyed({"x": x}, {"x": f"float[0,] {kind}"})
    edges = np.exp(np.linspace(-12, 12, 400_001))
    at = (edges[:-1] + edges[1:]) / 2
    normal = -0.5 * scaling.apply(at[:, None])[:, 0].astype(float) ** 2 - 0.5 * np.log(2 * np.pi)
    total = (np.exp(normal - scaling.log_volumes(at[:, None])) * np.diff(edges)).sum()
    # Of a transform that knows no bounds some of the normal law lies beyond.
    below = ndtr(scaling.apply(np.zeros((1, 1)))[0, 0]) if kind == "standard" else 0.0
    assert total + below == pytest.approx(1, abs=2e-3)

    counts = np.where(rng.random(500) < 0.02, 40, rng.poisson(3, 500))
    scaling, _, _ = surveyed({"x": counts}, {"x": f"int[0,] {kind}"})
    values = np.repeat(np.arange(0, 400), 400).astype(float)[:, None]
    u = np.tile((np.arange(400) + 0.5) / 400, 400)[:, None]
    normal = -0.5 * scaling.apply(values, u)[:, 0].astype(float) ** 2 - 0.5 * np.log(2 * np.pi)
    total = np.exp(normal - scaling.log_volumes(values, u)).sum() / 400
    below = ndtr(scaling.apply(np.zeros((1, 1)), np.zeros((1, 1)))[0, 0]) if kind == "standard" else 0.0
    assert total + below == pytest.approx(1, abs=5e-3)


def test_numbers_beyond_bounds_have_no_density_and_declared_ones_are_refused():
    x = np.random.default_rng(0).gamma(2, 1, 200)
    found, _, _ = surveyed({"x": x})
    assert found.log_volumes(np.array([[-1.0], [1.0]]))[0] == np.inf
    declared, _, _ = surveyed({"x": x}, {"x": "float[0,50]"})
    with pytest.raises(InputError, match=r"the rows: expected at least 0 in column 'x'.*found -1 in row 2"):
        declared.columns.check(np.array([[1.0], [-1.0]]))


@pytest.mark.parametrize(
    ("types", "message"),
    [
        ({"k": "int[0,3]"}, "expected at most 3 in column 'k', .*found 4 in row 6"),
        ({"a": "int"}, r"expected whole numbers in column 'a', .*found 0\.5 in row 1 "),
        ({"a": "log"}, "expected numbers above 0 in column 'a' for the transform log, found -1.5"),
        ({"b": "int"}, "data.column_types: expected columns of .*t.parquet, found 'b'; it has a, k"),
    ],
)
def test_declared_types_that_the_data_break_are_one_sentence(tmp_path, types, message):
    frame = pd.DataFrame({"a": [0.5, 1.5, -1.5, 0.25, 2, 3] * 4, "k": [0, 1, 2, 3, 3, 4] * 4})
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    with pytest.raises(InputError, match=message):
        load(Data(name="vectors", path=tmp_path / "t.parquet", column_types=types), seed=0)


@pytest.mark.parametrize("text", ["", "number", "int[3,1]", "int[a,]", "log quantile", "int["])
def test_what_is_no_type_is_one_sentence(text):
    with pytest.raises(InputError, match="column_types: column 'x': expected"):
        Data(name="vectors", path="t.csv", column_types={"x": text})


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A folder with a table of a number, a count with outliers and a decimal, and a run trained on it."""
    folder, rng, n = tmp_path_factory.mktemp("table"), np.random.default_rng(0), 120
    frame = pd.DataFrame(
        {
            "rate.x": rng.normal(5, 1, n),
            "count": np.where(np.arange(n) % 40 == 7, 50_000, rng.poisson(5, n)),
            "unit": 7,
            "price": rng.lognormal(3, 1, n).round(2),
        }
    )
    frame.to_parquet(folder / "t.parquet", index=False)
    args = [
        "train", "table", "--data.path", str(folder / "t.parquet"), "--out", str(folder), "--name", "run", *FAST,
        "--data.column-types.rate.x", "float[0,20]",
    ]  # fmt: skip
    return folder, frame, args


@pytest.mark.nightly
def test_the_command_line_knows_the_columns_from_training_to_scoring(table, capsys):
    folder, frame, train = table
    assert main(train) == 0
    said = capsys.readouterr()
    assert (
        "columns: rate.x float[0,20] standard; count int[0,50000] quantile; unit constant 7; price step 0.01[0,] log"
        in said.out
    )
    assert "outliers" not in said.err
    assert (
        main(["sample", str(folder / "run"), "--n", "200", "--out", str(folder / "s.parquet"), "--quiet"])
        == 0
    )
    made = pd.read_parquet(folder / "s.parquet")
    assert dict(made.dtypes) == dict(frame.dtypes)
    assert made["count"].min() >= 0
    assert (made["unit"] == 7).all()
    assert np.array_equal(made["price"].round(2), made["price"])
    # The same command goes on, with the stored transforms.
    assert main([*train, "--train.steps", "4"]) == 0
    frame.head(4).to_parquet(folder / "few.parquet", index=False)
    assert (
        main(["score", str(folder / "run"), str(folder / "few.parquet"), "--out", str(folder / "l.parquet")])
        == 0
    )
    assert np.isfinite(pd.read_parquet(folder / "l.parquet")["log_prob"]).all()
    holes = frame.head(5).astype({"count": "Int64"})
    holes.loc[[0, 2], "count"] = None
    holes.loc[4, "price"] = np.nan
    holes.loc[2, "unit"] = None
    holes.to_parquet(folder / "holes.parquet", index=False)
    args = ["impute", str(folder / "run"), str(folder / "holes.parquet"), "--steps", "4"]
    assert main([*args, "--out", str(folder / "o.parquet"), "--quiet"]) == 0
    full = pd.read_parquet(folder / "o.parquet")
    assert full["count"].dtype.kind == "i"
    assert (full["unit"] == 7).all()
    assert (full["count"][[1, 3, 4]] == frame["count"][[1, 3, 4]]).all()
    assert np.array_equal(full["price"].round(2), full["price"])
    capsys.readouterr()
    holes.loc[1, "rate.x"] = 30.0
    holes.to_parquet(folder / "holes.parquet", index=False)
    assert main([*args, "--out", str(folder / "p.parquet"), "--quiet"]) == 2
    assert "expected at most 20 in column 'rate.x'" in capsys.readouterr().err


def test_fit_keeps_the_kinds_of_a_frame_in_all_it_makes(tmp_path):
    rng, n = np.random.default_rng(0), 300
    X = pd.DataFrame(
        {
            "a": rng.normal(5, 1, n),
            "k": rng.choice([1, 2, 5, 1000], n),
            "p": rng.integers(0, 9, n) / 2,
            "one": 1.0,
        }
    )
    config = load_config("table", {"data.path": "X", "network.width": 8, "reference.covariance_type": "diag"})
    model = ndsm.NDSM(2, max_steps=10, sample_steps=4, random_state=0, config=config).fit(X)
    model.save(tmp_path / "run")
    for known in (model, ndsm.load(tmp_path / "run")):
        made = known.sample(100, random_state=1)
        assert dict(made.dtypes) == dict(X.dtypes)
        assert made["k"].between(1, 1000).all()
        assert (made["one"] == 1).all()
        assert known.n_features_in_ == 4
        assert np.array_equal(made["p"] * 2, (made["p"] * 2).round())
    scores = model.score_samples(X.head(1))
    assert np.array_equal(scores, ndsm.load(tmp_path / "run").score_samples(X.head(1)))
    assert (model.sample(2, given={"k": 5}, random_state=0)["k"] == 5).all()


def test_columns_without_need_of_a_transform_are_as_ever():
    """Numbers that are only shifted and scaled have the same bits with `auto`."""
    X = np.random.default_rng(0).normal(3, 2, (200, 2))
    small = load_config("table", {"data.path": "X", "network.width": 8, "reference.covariance_type": "diag"})
    assert small.data.transform == "auto"
    models = [
        ndsm.NDSM(2, max_steps=3, sample_steps=3, random_state=0, config=config).fit(X)
        for config in (small, small.model_copy(update={"data": Data(name="vectors", path="X")}))
    ]
    first, second = (model.sample(10) for model in models)
    assert np.array_equal(first, second)


def test_constant_columns_are_no_dimensions_of_the_model_and_come_back():
    rng = np.random.default_rng(0)
    scaling, rows, _ = surveyed({"a": np.full(50, 3.5), "b": rng.normal(0, 1, 50), "c": np.zeros(50)})
    assert kinds(scaling) == {"a": "constant 3.5", "b": "float standard", "c": "constant 0"}
    model = scaling.apply(rows)
    assert model.shape == (50, 1)
    assert np.allclose(scaling.invert(model), rows, atol=1e-6)
    changed = rows[:2].copy()
    changed[1, 2] = 1.0
    assert np.isfinite(scaling.log_volumes(changed)).tolist() == [True, False]
    with pytest.raises(InputError, match="expected a column that is not constant"):
        surveyed({"a": np.ones(50), "c": np.zeros(50)})
