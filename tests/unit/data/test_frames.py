"""Data frames in, data frames out: the same columns, in the same order, of the same types."""

import datetime as dt
import json
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import sklearn
from quick_estimator import QUICK, quick_estimator
from sklearn.base import clone

import ndsm
from ndsm.cli import main
from ndsm.cli.rows import given_values
from ndsm.config import Data, load_config
from ndsm.data import load
from ndsm.data.cells import to_cells, to_floats, type_of_name
from ndsm.data.frames import Frame, numbers
from ndsm.errors import InputError
from ndsm.runs import Run
from ndsm.workflows.setup import begin, prepare
from ndsm.workflows.train import train_locally

N = 200


def people():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "age": rng.integers(20, 80, N),
            "kids": rng.integers(0, 4, N).astype("int8"),
            "bmi": rng.normal(25, 3, N),
            "smokes": rng.random(N) < 0.3,
            "visits": pd.array(rng.integers(0, 90, N), dtype="Int64"),
            "width": rng.normal(0, 1, N).astype("float32"),
        },
        index=np.arange(N) + 1000,
    )


MAKE = {
    "pandas": lambda df: df,
    "polars": pl.from_pandas,
    "pyarrow": lambda df: pa.table(pl.from_pandas(df).to_arrow()),
}


def types(frame):
    return frame.schema if isinstance(frame, pa.Table | pl.DataFrame) else frame.dtypes.to_dict()


@pytest.fixture(scope="module")
def fitted():
    return quick_estimator().fit(people())


@pytest.mark.parametrize("library", MAKE)
def test_rows_come_back_as_the_data_frame_that_was_learned(library, tmp_path):
    frame = MAKE[library](people())
    model = quick_estimator().fit(frame)
    rows = model.sample(40)
    assert type(rows) is type(frame)
    assert types(rows) == types(frame)
    holes = MAKE[library](
        people().head(5).astype({"age": float}).replace({"age": {people().age.iloc[0]: np.nan}})
    )
    completed = model.impute(holes, 2)
    assert [type(part) for part in completed] == [type(frame)] * 2
    assert types(completed[0]) == types(frame)
    model.save(tmp_path / "run")
    loaded = ndsm.load(tmp_path / "run")
    again = loaded.sample(40)
    assert types(again) == types(frame)
    assert pl.DataFrame(again).equals(pl.DataFrame(rows))
    assert list(loaded.feature_names_in_) == list(people().columns)


def test_the_command_line_writes_the_types_of_a_saved_model(fitted, tmp_path):
    fitted.save(tmp_path / "run")
    for name in ("s.parquet", "s.csv"):
        assert (
            main(
                [
                    "sample",
                    str(tmp_path / "run"),
                    "--n",
                    "20",
                    "--seed",
                    "4",
                    "--out",
                    str(tmp_path / name),
                    "--quiet",
                ]
            )
            == 0
        )
    assert [str(kind) for kind in pq.read_schema(tmp_path / "s.parquet").types] == [
        "int64", "int8", "double", "bool", "int64", "float",
    ]  # fmt: skip
    rows = fitted.sample(20)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "s.parquet"), rows, check_dtype=False)
    assert set(pd.read_csv(tmp_path / "s.csv").smokes) <= {True, False}


def readings():
    """A table of all types but whole numbers that are learned."""
    rng = np.random.default_rng(1)
    days = rng.integers(18262, 18300, N)
    seconds = days * 86400 + rng.integers(0, 86400, N)
    columns = {
        "flag": pa.array(rng.random(N) < 0.4),
        "day": pa.array(days.astype(np.int32), pa.date32()),
        "at": pa.array(seconds * 1000, pa.timestamp("ms", "Europe/Berlin")),
        "clock": pa.array((seconds % 86400 * 1_000_000).tolist(), pa.time64("us")),
        "span": pa.array(rng.integers(0, 5000, N), pa.duration("ms")),
        "price": to_cells(rng.normal(20, 4, N), pa.decimal128(8, 2)),
        "size": rng.normal(0, 1, N),
    }
    return pa.table(columns)


def test_a_file_and_a_frame_of_all_types_have_one_schema_on_both_doors(tmp_path):
    frame, path, run = readings(), tmp_path / "t.parquet", str(tmp_path / "run")
    pq.write_table(frame, path)
    quick = ["--quiet", "--out"]
    model = quick_estimator().fit(frame)
    model.save(run)
    assert (
        load(Data(name="vectors", path=path), seed=0).schema
        == Frame.of(frame).schema
        == Run(Path(run)).schema()
    )
    assert main(["sample", run, "--n", "20", *quick, str(tmp_path / "s.parquet")]) == 0
    drawn = pq.read_table(tmp_path / "s.parquet")
    assert drawn.schema.types == frame.schema.types
    few = drawn.slice(0, 3)
    pq.write_table(few, tmp_path / "few.parquet")
    np.testing.assert_allclose(
        scores(run, tmp_path / "few.parquet"), model.score_samples(few), rtol=1e-4, atol=1e-4
    )


def test_what_is_given_may_be_written_as_the_column_is():
    schema = Frame.of(readings()).schema
    words = ["flag=true", "day=1970-01-31", "price=12.5", "at=1970-01-01T01:00:00+01:00", "span=7"]
    assert given_values(words, schema) == {"flag": 1, "day": 30, "price": 12.5, "at": 0, "span": 7}
    for wrong in ("day=soon", "flag=2.5.1", "size=true", "clock=noon", "day"):
        with pytest.raises(InputError, match=f"--given: expected NAME=VALUE with a number, found '{wrong}'"):
            given_values([wrong], schema)


def scores(run, path):
    out = path.with_name("logp.npy")
    assert main(["score", run, str(path), "--quiet", "--out", str(out)]) == 0
    return np.load(out)[:, 0]


def test_holes_of_any_type_are_filled_with_that_type_whatever_the_files_units(tmp_path):
    frame, run = readings(), str(tmp_path / "run")
    quick_estimator().fit(frame).save(run)
    holes = frame.slice(0, 7)
    for j, name in enumerate(frame.schema.names):
        cells = holes[name].to_pylist()
        cells[j] = None
        holes = holes.set_column(j, name, pa.array(cells, frame.schema.field(name).type))
    finer = holes.set_column(2, "at", holes["at"].cast(pa.timestamp("us", "UTC")))
    pq.write_table(finer, tmp_path / "h.parquet")
    pacsv.write_csv(holes, tmp_path / "h.csv")
    for name in ("h.parquet", "h.csv"):
        out = tmp_path / "full.parquet"
        assert (
            main(["impute", run, str(tmp_path / name), "--particles", "2", "--quiet", "--out", str(out)]) == 0
        )
        full = pq.read_table(out).drop_columns("draw")
        assert full.schema.types == frame.schema.types
        for j, column in enumerate(frame.schema.names):
            assert full[column].null_count == 0
            known = [i for i in range(7) if i != j]
            assert full[column].take(known).equals(frame[column].take(known)), (name, column)


def test_known_values_index_and_order_are_kept(fitted):
    frame = people().iloc[3:9]
    holes = frame.astype({"kids": "Int8"})
    holes.iloc[2, 1] = pd.NA
    completed = fitted.impute(holes)[0]
    assert list(completed.index) == list(frame.index)
    known = np.ones(frame.shape, dtype=bool)
    known[2, 1] = False
    assert (completed == frame).to_numpy()[known].all()
    assert 0 <= completed.kids.iloc[2] < 128


def test_large_whole_numbers_are_kept_to_the_last_digit():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"id": 2**60 + rng.integers(0, 2**59, N), "x": rng.normal(size=N)})
    holes = frame.head(3).copy()
    holes.loc[0, "x"] = np.nan
    completed = quick_estimator().fit(frame).impute(holes)[0]
    assert completed.id.tolist() == frame.id.head(3).tolist()


def test_columns_in_another_order_or_of_other_names_are_refused(fitted):
    frame = people()
    swapped, renamed = frame[frame.columns[::-1]], frame.rename(columns={"age": "Age"})
    for call in (
        fitted.score_samples,
        fitted.impute,
        lambda X: fitted.denoise(X, 0.1),
        fitted.fit_second_order,
    ):
        with pytest.raises(ValueError, match="must be in the same order as they were in fit"):
            call(swapped)
        with pytest.raises(ValueError, match="Feature names unseen at fit time:\n- Age"):
            call(renamed)
    with pytest.raises(ValueError, match="Feature names must be in the same order"):
        fitted.score_samples(pl.from_pandas(swapped))
    with pytest.warns(UserWarning, match="X does not have valid feature names, but NDSM was fitted with"):
        fitted.denoise(numbers(frame.head(2)), 0.1)


def test_a_run_of_a_table_knows_the_names_of_its_columns(tmp_path):
    frame = people()[["age", "bmi"]]
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    fields = {
        "data.path": tmp_path / "t.parquet",
        "train.steps": 3,
        "sample.steps": 4,
        "reference.n_components": 2,
    }
    experiment = prepare(load_config("table-langevin", {**QUICK, **fields}), Run(tmp_path / "run"))
    begin(experiment)
    list(train_locally(experiment))
    model = ndsm.load(tmp_path / "run")
    with pytest.raises(ValueError, match="must be in the same order"):
        model.score(frame[["bmi", "age"]])
    assert isinstance(model.sample(2), np.ndarray)
    rows = model.set_output(transform="pandas").sample(2)
    assert rows.dtypes.to_dict() == frame.dtypes.to_dict()


def test_dates_times_and_durations_come_back_as_such():
    frame = pd.DataFrame(
        {
            "t": pd.date_range("2020-01-01", periods=N, tz="Europe/Berlin"),
            "day": pd.date_range("2020-01-01", periods=N).date,
            "took": pd.to_timedelta(np.arange(N) % 17, "h"),
        }
    )
    found = numbers(frame, Frame.of(frame))
    back = Frame.of(frame).build(found)
    pd.testing.assert_frame_equal(back, frame)
    later = frame.astype({"t": "datetime64[ns, Europe/Berlin]"})
    np.testing.assert_array_equal(numbers(later, Frame.of(frame)), found)
    with pytest.raises(
        InputError, match=r"expected type duration\[\w+\] in column 'took', found type float64"
    ):
        numbers(frame.assign(took=1.0), Frame.of(frame))


@pytest.mark.parametrize(
    "kind",
    [
        "bool",
        "uint8",
        "int64",
        "float",
        "double",
        "date32[day]",
        "time64[us]",
        "timestamp[ms, tz=UTC]",
        "duration[ns]",
    ],
)
def test_cells_are_numbers_and_back(kind):
    """Values that a type holds are kept, missing ones stay missing, and those beyond it are clipped."""
    values = np.array([0.0, 1.0, np.nan])
    column = to_cells(values, type_of_name(kind))
    assert str(column.type) == kind
    np.testing.assert_array_equal(to_floats(column), values)
    far = to_floats(to_cells(np.array([-1e30, 1e30]), type_of_name(kind)))
    assert far[0] < far[1]


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        (
            ["a", "b"] * (N // 2),
            "expected numbers, true/false, dates or times in column 'c', found type (str|object); leave",
        ),
        (
            pd.Categorical([1, 2] * (N // 2)),
            "in column 'c', found type category; leave the column out, or give it as labels y",
        ),
        ([1, "x"] * (N // 2), "expected values of one kind in column 'c'"),
        ([None] * N, "in column 'c', found only missing values; leave the column out"),
    ],
)
def test_a_column_that_cannot_be_learned_is_named(column, sentence):
    with pytest.raises(InputError, match=sentence):
        quick_estimator().fit(people().assign(c=column))


def test_missing_values_are_refused_by_fit_in_scikit_learns_words():
    with pytest.raises(ValueError, match="Input X contains NaN"):
        quick_estimator().fit(
            people().astype({"age": "Int64"}).replace({"age": {people().age.iloc[0]: pd.NA}})
        )


@pytest.mark.parametrize(
    ("columns", "kind", "sentence"),
    [
        (["a", "a"], InputError, "expected columns of different names, found - 'a' 2 times"),
        ([1, "1"], InputError, r"expected columns whose names differ as text, found \[1, '1'\]"),
        ([1, "b"], TypeError, "Feature names are only supported if all input features have string names"),
    ],
)
def test_names_that_do_not_tell_columns_apart_are_refused(columns, kind, sentence):
    with pytest.raises(kind, match=sentence):
        quick_estimator().fit(pd.DataFrame(np.random.default_rng(0).normal(size=(N, 2)), columns=columns))


@pytest.mark.parametrize("columns", [pd.Index([0, 1]), pd.MultiIndex.from_tuples([("a", 1), ("a", 2)])])
def test_names_that_are_no_text_are_no_feature_names_but_come_back(columns):
    """scikit-learn's rule."""
    model = quick_estimator().fit(pd.DataFrame(np.random.default_rng(0).normal(size=(N, 2)), columns=columns))
    assert not hasattr(model, "feature_names_in_")
    pd.testing.assert_index_equal(model.sample(3).columns, columns)


def test_the_names_of_a_pyarrow_table_are_its_columns(tmp_path):
    quick_estimator().fit(pa.Table.from_pandas(people()[["age", "bmi"]], preserve_index=False)).save(
        tmp_path / "run"
    )
    columns = json.loads((tmp_path / "run" / "data.json").read_text())["schema"]["columns"]
    assert columns == [["age", "int64"], ["bmi", "double"]]


def test_the_container_can_be_chosen(fitted):
    model = pickle.loads(pickle.dumps(fitted))
    expected = {
        "numpy": np.ndarray,
        "pandas": pd.DataFrame,
        "polars": pl.DataFrame,
        "pyarrow": pa.Table,
        "default": pd.DataFrame,
    }
    for library, kind in expected.items():
        assert isinstance(model.set_output(transform=library).sample(2), kind)
        assert isinstance(model.impute(people().head(2))[0], np.ndarray if library == "numpy" else kind)
    assert isinstance(
        clone(model.set_output(transform="polars"))
        .fit(np.random.default_rng(0).normal(size=(N, 2)))
        .sample(2),
        pl.DataFrame,
    )
    with sklearn.config_context(transform_output="polars"):
        assert isinstance(fitted.sample(2), pl.DataFrame)
    with pytest.raises(InputError, match=r"transform: expected default, numpy, pandas, .* found 'xarray'"):
        model.set_output(transform="xarray")
    assert list(fitted.get_feature_names_out()) == list(people().columns)


def test_a_known_number_that_is_none_of_its_type_is_refused(fitted):
    holes = people().head(3).astype({"age": float})
    holes.iloc[1, 0] = 63.5
    with pytest.raises(
        InputError, match=r"expected numbers of type int64, .* in column 'age', found 63.5 in row 2"
    ):
        fitted.impute(holes)


def test_arrays_stay_arrays_and_a_frame_for_them_is_completed_as_a_frame():
    x = np.random.default_rng(0).normal(size=(N, 2))
    for kind in (np.float32, np.float64):
        model = quick_estimator().fit(x.astype(kind))
        assert model.sample(2).dtype == kind
        assert not hasattr(model, "feature_names_in_")
    holes = pd.DataFrame({"a": [1, 2], "b": [np.nan, 1.0]}, index=[7, 8])
    with pytest.warns(UserWarning, match="X has feature names, but NDSM was fitted without"):
        completed = model.impute(holes)[0]
    assert list(completed.columns) == ["a", "b"]
    assert completed.a.tolist() == [1.0, 2.0]


def test_a_fit_that_is_refused_leaves_the_model_as_it_was(fitted):
    model = pickle.loads(pickle.dumps(fitted))
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full((N, 3), np.nan))
    assert model.n_features_in_ == 6
    pd.testing.assert_frame_equal(model.sample(3), fitted.sample(3))
    model.fit(np.random.default_rng(0).normal(size=(N, 2)))
    assert not hasattr(model, "feature_names_in_")


def test_a_date_is_a_number_of_days_since_1970():
    assert numbers(pa.table({"d": [dt.date(1970, 1, 3)]}))[0, 0] == 2
