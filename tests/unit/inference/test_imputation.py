"""Completing tables: what goes in unchanged, what comes out in which order, and the sentences for bad input."""

import csv
import datetime
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import ndsm
from ndsm.cli import main
from ndsm.data import open_table
from ndsm.errors import InputError

NAN = np.nan


@pytest.fixture(scope="module", name="model")
def _model():
    """x1 = 3 x0 + noise, far from standard units; x2 on its own."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3)) * [1, 0.3, 1]
    x[:, 1] += 3 * x[:, 0]
    return ndsm.NDSM(
        2, covariance_type="full", max_steps=20, sample_steps=30, random_state=0,
        config=ndsm.config.load_config("table-langevin", {"network.width": 16, "process.integrator": "exponential", "process.grid.steps": 20, "sample.sampler": "exponential"}),
    ).fit(x * [1, 10, 5] + [100, 0, 7])  # fmt: skip


@pytest.fixture(scope="module", name="run")
def _run(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    model.save(path)
    return path


def test_known_numbers_stay_and_missing_ones_follow_them(model):
    X = np.array([[101.1234567890123, NAN, 7.0], [99.0, -30.0, 3.0], [NAN, NAN, 1.0]])
    drawn = model.impute(X, 50)
    assert drawn.shape == (50, 3, 3)
    known = ~np.isnan(X)
    assert (drawn[:, known] == X[known]).all()
    assert np.isfinite(drawn).all()
    # The regression of x1 on x0: 30 per unit of x0, with a standard deviation of 3.
    assert abs(drawn[:, 0, 1].mean() - 30 * 1.1234567890123) < 4
    assert drawn[:, 2, 0].std() > 0.5
    assert (model.impute(X, 2) == model.impute(X, 2)).all()


def test_draws_do_not_depend_on_the_rows_and_draws_that_follow(model):
    """Nor on whole rows between them, which are not drawn: the noise is a row's own."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(40, 3)) * [1, 30, 5] + [100, 0, 7]
    X[:, 1] = NAN
    whole = model.impute(X, 3)
    np.testing.assert_allclose(model.impute(X[:25], 2), whole[:2, :25], rtol=1e-3, atol=1e-2)
    X = np.insert(X, 5, [101.0, 2.0, 3.0], axis=0)
    np.testing.assert_allclose(np.delete(model.impute(X, 1), 5, axis=1), whole[:1], rtol=1e-3, atol=1e-2)
    assert len(np.unique(whole[:, :, 1].round(3))) > 110


def test_columns_can_be_given_to_sample(model):
    rows = model.sample(40, given={"x0": 102.0})
    assert rows.shape == (40, 3)
    assert (rows[:, 0] == 102).all()
    assert abs(rows[:, 1].mean() - 60) < 5


@pytest.mark.parametrize(
    ("X", "draws", "message"),
    [
        (
            [[1.0, NAN, 2.0], [NAN, NAN, NAN]],
            1,
            "row 2: expected a known number in each row, found all of them missing",
        ),
        ([[1.0, 2.0]], 1, "X has 2 features, but NDSM is expecting 3 features"),
        ([[1.0, NAN, 2.0]], 0, "n_draws: expected at least 1, found 0"),
    ],
)
def test_what_cannot_be_imputed_is_one_sentence(model, X, draws, message):
    with pytest.raises(ValueError, match=message):
        model.impute(np.array(X), draws)


def test_an_unknown_column_cannot_be_given(model):
    with pytest.raises(InputError, match="given: expected a finite value of one of x0, x1, x2, found y=1"):
        model.sample(5, given={"y": 1.0})


def test_a_table_is_completed_from_the_command_line(run, tmp_path, capsys):
    columns = {"x0": [101.25, None, 99.0], "x1": [None, 3.0, 4.5], "x2": [7.0, 8.0, 9.0]}
    pa.parquet.write_table(pa.table(columns), tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    command = ["impute", str(run), str(tmp_path / "in.parquet"), "--draws", "4", "--out", str(out)]
    assert main([*command, "--steps", "8", "--particles", "4"]) == 0
    table = pa.parquet.read_table(out)
    assert table.schema.names == ["draw", "x0", "x1", "x2"]
    assert table["draw"].to_pylist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    for name, values in columns.items():
        for i, value in enumerate(values):
            drawn = table[name].to_pylist()[i::3]
            assert drawn == [value] * 4 if value is not None else len(set(drawn)) == 4
    given = ["--n", "5", "--given", "x2=3.5", "--steps", "8"]
    assert main(["sample", str(run), *given, "--out", str(tmp_path / "s.csv")]) == 0
    assert (tmp_path / "s.csv").read_text(encoding="utf-8").count("3.5\n") == 5
    capsys.readouterr()
    assert main(["sample", str(run), "--given", "x2", "--out", str(tmp_path / "t.csv")]) == 2
    assert capsys.readouterr().err == "ndsm: --given: expected NAME=VALUE with a number, found 'x2'\n"
    assert not (tmp_path / "t.csv").exists()


def test_known_numbers_are_not_rounded(run, tmp_path):
    """Neither integers that a float64 has no room for, nor numbers of a .npy file; and one row is a table, too."""
    table, long = tmp_path / "in.parquet", 2**60 + 1
    columns = {"x0": [0.1234567890123], "x1": pa.array([None], pa.float64()), "x2": pa.array([long])}
    pa.parquet.write_table(pa.table(columns), table)
    command = ["impute", str(run), str(table), "--draws", "2", "--steps", "3", "--out"]
    assert main([*command, str(tmp_path / "out.parquet")]) == 0
    assert pa.parquet.read_table(tmp_path / "out.parquet")["x2"].to_pylist() == [long] * 2
    assert main([*command, str(tmp_path / "out.npy")]) == 0
    assert (np.load(tmp_path / "out.npy")[:, 1] == 0.1234567890123).all()
    lists = pa.table({"x": pa.array([[None, 5, long], [1, 2, 3]], pa.list_(pa.int64()))})
    pa.parquet.write_table(lists, table)
    found = open_table(table).columns()
    assert [found[j].to_pylist() for j in range(3)] == [[None, 1], [5, 2], [long, 3]]


def test_what_cannot_be_written_is_said_before_anything_is_drawn(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("ndsm.workflows.trained_model.impute", lambda *settings: pytest.fail("drawn"))
    table = tmp_path / "in.csv"
    table.write_text("x0,x1,x2\n1,,2\n")
    assert main(["impute", str(run), str(table), "--out", str(tmp_path / "out.xlsx")]) == 2
    assert "expected a file ending in" in capsys.readouterr().err
    drawing = tmp_path / "drawing"
    shutil.copytree(run, drawing)
    data = json.loads((drawing / "data.json").read_text())
    data["schema"]["columns"][0][0] = "draw"
    (drawing / "data.json").write_text(json.dumps(data))
    table.write_text("draw,x1,x2\n1,,2\n")
    assert main(["impute", str(drawing), str(table), "--out", str(tmp_path / "out.csv")]) == 2
    assert "in.csv: expected no column 'draw', the number of the draw" in capsys.readouterr().err
    assert {p.name for p in tmp_path.iterdir()} == {"in.csv", "drawing"}


def test_a_table_keeps_its_other_columns_and_the_runs_types(model, tmp_path):
    """Whole numbers stay whole although missing ones made floats of them; all else comes out as it went in."""
    run = tmp_path / "run"
    model.save(run)
    data = json.loads((run / "data.json").read_text())
    data["schema"]["columns"] = [["x0", "int64"], ["x1", "double"], ["x2", "int32"]]
    (run / "data.json").write_text(json.dumps(data))
    when = [datetime.datetime(2024, 1, day, 12, 30) for day in (3, 1, 2)]
    columns = {
        "id": ["b", None, 'a,"1'],
        "x1": [NAN, 0.1234567890123, 3.0],
        "x0": [101.0, NAN, 99.0],
        "when": when,
        "tags": [["u"], [], ["v", "w"]],
        "x2": [7.0, 8.0, NAN],
        "007": pa.array(["x", "y", "x"]).dictionary_encode(),
    }
    table, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    pa.parquet.write_table(pa.table(columns), table)
    command = ["impute", str(run), str(table), "--draws", "2", "--steps", "5", "--out"]
    assert main([*command, str(out)]) == 0
    found = pa.parquet.read_table(out)
    assert found.schema.names == ["draw", *columns]
    kinds = {"x0": pa.int64(), "x1": pa.float64(), "x2": pa.int32(), "when": pa.timestamp("us")}
    assert {name: found.schema.field(name).type for name in kinds} == kinds
    for name in ("id", "when", "tags", "007"):
        assert found[name].to_pylist() == 2 * pa.table(columns)[name].to_pylist()
    assert found["x0"].to_pylist()[::3] == [101, 101]
    assert found["x0"].null_count == found["x1"].null_count == found["x2"].null_count == 0
    assert found["x1"].to_pylist()[1] == 0.1234567890123

    assert main([*command, str(tmp_path / "out.csv")]) == 2
    assert not (tmp_path / "out.csv").exists()
    text = 'id,x0,x1,x2,note\n007,101,,7,"a, b"\n8,,3.5,8,\n'
    table = tmp_path / "in.csv"
    table.write_text(text, encoding="utf-8")
    command = ["impute", str(run), str(table), "--draws", "1", "--steps", "5", "--out"]
    assert main([*command, str(tmp_path / "out.csv")]) == 0
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        head, first, second = csv.reader(file)
    assert head == ["draw", "id", "x0", "x1", "x2", "note"]
    assert (first[1], first[2], first[4:]) == ("007", "101", ["7", "a, b"])
    assert (second[1], second[3:]) == ("8", ["3.5", "8", ""])
    int(second[2])


def test_columns_that_a_npy_file_has_no_room_for_are_named(run, tmp_path, capsys):
    table = tmp_path / "in.csv"
    table.write_text("id,x0,x1,x2\na,101,,7\n", encoding="utf-8")
    command = ["impute", str(run), str(table), "--steps", "5", "--out", str(tmp_path / "out.npy")]
    assert main(command) == 0
    assert "has no room for the columns that the run does not know: id" in capsys.readouterr().err
    assert np.load(tmp_path / "out.npy").shape == (1, 4)


def test_known_numbers_that_the_runs_types_have_no_room_for_stay(model, tmp_path):
    run = tmp_path / "run"
    model.save(run)
    data = json.loads((run / "data.json").read_text())
    data["schema"]["columns"] = [["x0", "int64"], ["x1", "float"], ["x2", "int8"]]
    (run / "data.json").write_text(json.dumps(data))
    columns = {"x0": [101.5, None], "x1": [0.1234567890123, None], "x2": [300, None]}
    pa.parquet.write_table(pa.table({**columns, "x1": [0.1234567890123, 2.0]}), tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    assert main(["impute", str(run), str(tmp_path / "in.parquet"), "--steps", "5", "--out", str(out)]) == 0
    found = pa.parquet.read_table(out)
    assert [found[name][0].as_py() for name in columns] == [101.5, 0.1234567890123, 300]
    assert found["x0"][1].as_py() == round(found["x0"][1].as_py())
