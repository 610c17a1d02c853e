"""Text is read as it is written, by options or with a sentence that names them."""

import bz2
import gzip

import numpy as np
import pytest
from quick_estimator import quick_run

from ndsm.cli import main
from ndsm.config import Csv, load_config
from ndsm.data import load
from ndsm.data.table_reader import open_table
from ndsm.errors import InputError
from ndsm.workflows.score_table import RowScorer

ROWS = [[10.5, 3.0], [9.25, 4.0], [-0.5, 1000.0]]
PLAIN = "a,b\n10.5,3\n9.25,4\n-0.5,1000\n"
EUROPEAN = "größe;b\n10,5;3\n9,25;4\n-0,5;1000\n"


def rows(path, csv=None, columns=None):
    return np.concatenate(list(open_table(path, columns, csv=csv).batches())).tolist()


READ = {
    "semicolons and decimal commas": (EUROPEAN.encode(), Csv(delimiter=";", decimal_point=",")),
    "cp1252": (EUROPEAN.encode("cp1252"), Csv(delimiter=";", decimal_point=",", encoding="cp1252")),
    "utf-16 with its mark": (PLAIN.encode("utf-16"), Csv(encoding="UTF-16")),
    "utf-16 without": (PLAIN.encode("utf-16-le"), Csv(encoding="utf-16-le")),
    "lines before the header": (b"# made by a logger\n\n" + PLAIN.encode(), Csv(skip_rows=2)),
    "utf-8 with its mark": (PLAIN.encode("utf-8-sig"), None),
    "quoted numbers": (b'"a","b"\n"10.5","3"\n"9.25","4"\n"-0.5","1000"\n', None),
    "tabs": (PLAIN.replace(",", "\t").encode(), Csv(delimiter="\\t")),
}


@pytest.mark.parametrize(("content", "csv"), READ.values(), ids=READ)
def test_text_is_read_as_it_is_written(tmp_path, content, csv):
    (tmp_path / "t.csv").write_bytes(content)
    assert rows(tmp_path / "t.csv", csv) == ROWS


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.tsv", PLAIN.replace(",", "\t").encode()),
        ("t.csv.gz", gzip.compress(PLAIN.encode())),
        ("T.TSV.GZ", gzip.compress(PLAIN.replace(",", "\t").encode())),
        ("t.csv.bz2", bz2.compress(PLAIN.encode())),
    ],
    # Not by their contents: gzip writes the time, and all processes of a test run have to give the same names.
    ids=["tsv", "csv.gz", "TSV.GZ", "csv.bz2"],
)
def test_tabs_and_compression_go_by_the_name(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert rows(tmp_path / name) == ROWS


HINTS = {
    "semicolons": (EUROPEAN.encode(), r"--data\.csv\.delimiter ';' --data\.csv\.decimal-point ,$"),
    "semicolons alone": (b"a;b\n1.5;3\n2;4\n", r"--data\.csv\.delimiter ';'$"),
    "tabs": (PLAIN.replace(",", "\t").encode(), r"separated by tabs: try --data\.csv\.delimiter '\\t'$"),
    "utf-16": (PLAIN.encode("utf-16"), r"--data\.csv\.encoding utf-16$"),
    "utf-16 without a mark": (PLAIN.encode("utf-16-le"), r"--data\.csv\.encoding utf-16-le$"),
    "cp1252": (EUROPEAN.encode("cp1252"), r"encoding cp1252 --data\.csv\.delimiter ';' .*decimal-point ,$"),
    "a comment": (b"# made by a logger\n" + PLAIN.encode(), r"line 1 is '# made by a logger'.*skip-rows 1$"),
    "a comment of two fields": (b"# made by, a logger\n" + PLAIN.encode(), r"skip-rows 1$"),
    "thousands": (b'a,b\n1.5,"28,000"\n2,"1,000"\n', r"found '28,000'; .*without separators of thousands$"),
    "no name of the index": (
        b",a,b\n3,1,2\n1,3,4\n",
        r"found none, as where pandas.*index=False.*data\.columns",
    ),
}


@pytest.mark.parametrize(("content", "sentence"), HINTS.values(), ids=HINTS)
def test_a_sentence_names_the_options_that_the_file_needs(tmp_path, content, sentence):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(InputError, match=sentence) as caught:
        rows(tmp_path / "t.csv")
    assert "\n" not in str(caught.value)


def test_a_decimal_comma_is_named_where_the_separator_is_right(tmp_path):
    (tmp_path / "t.csv").write_bytes(EUROPEAN.encode())
    with pytest.raises(InputError, match=r"found '10,5';.* try --data\.csv\.decimal-point ,$"):
        rows(tmp_path / "t.csv", Csv(delimiter=";"))


def test_a_well_formed_file_gets_no_advice(tmp_path):
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,abc\n")
    with pytest.raises(InputError, match=r"can leave the column out$"):
        rows(tmp_path / "t.csv")


def test_rows_are_counted_from_the_first_line_of_the_file(tmp_path):
    (tmp_path / "t.csv").write_text("made\nby\na,b\n1,2\n3,x\n")
    with pytest.raises(InputError, match=r"column 'b', row 5 \(the header is row 3\)"):
        rows(tmp_path / "t.csv", Csv(skip_rows=2))
    (tmp_path / "t.csv").write_text("made\nby\na,b\n1,2\n3,\n")
    with pytest.raises(InputError, match=r"column 'b', row 5 \(the header is row 3\)"):
        rows(tmp_path / "t.csv", Csv(skip_rows=2))


def test_unnamed_columns_can_be_left_out(tmp_path):
    (tmp_path / "t.csv").write_text(",a,b\n7,1,2\n5,3,4\n")
    assert rows(tmp_path / "t.csv", columns=["b", "a"]) == [[2.0, 1.0], [4.0, 3.0]]
    assert rows(tmp_path / "t.csv", columns=[""]) == [[7.0], [5.0]]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"delimiter": ";;"}, "delimiter: expected one ASCII character"),
        ({"encoding": "utf-99"}, "encoding: expected an encoding that Python knows"),
        ({"decimal_point": "x"}, "decimal_point"),
        ({"skip_rows": -1}, "skip_rows"),
    ],
)
def test_wrong_options_are_named(fields, sentence):
    with pytest.raises(InputError, match=sentence):
        Csv(**fields)


def test_one_character_cannot_separate_both_fields_and_fractions(tmp_path):
    (tmp_path / "t.csv").write_text(PLAIN)
    with pytest.raises(InputError, match=r"another data\.csv\.delimiter than data\.csv\.decimal_point"):
        open_table(tmp_path / "t.csv", csv=Csv(decimal_point=","))


def test_a_run_scores_and_completes_text_written_as_its_own_or_as_asked(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # The rows as they are read, in place of their log-densities.
    monkeypatch.setattr(RowScorer, "__call__", lambda self, rows, index: np.column_stack([rows, rows[:, 0]]))
    numbers = np.random.default_rng(0).normal(size=(20, 2)).round(3)
    plain = "a,b\n" + "".join(f"{x},{y}\n" for x, y in numbers)
    european = plain.replace(",", ";").replace(".", ",")
    (tmp_path / "own.csv").write_text(european)
    (tmp_path / "plain.csv").write_text(plain)
    own = {"data.path": "own.csv", "data.csv.delimiter": ";", "data.csv.decimal_point": ","}
    assert load(quick_run("runs/mine", own).config().data, 0).train.shape == (18, 2)
    assert main(["score", "runs/mine", "own.csv", "--out", "own.npy"]) == 0
    assert main(["score", "runs/mine", "plain.csv", "--out", "plain.npy"]) == 2
    assert "try --data.csv.delimiter ','" in capsys.readouterr().err
    other = ["--data.csv.delimiter", ",", "--data.csv.decimal-point", "."]
    assert main(["score", "runs/mine", "plain.csv", "--out", "plain.npy", *other]) == 0
    assert np.load("own.npy")[:, :2] == pytest.approx(numbers)
    assert (np.load("own.npy") == np.load("plain.npy")).all()
    assert main(["impute", "runs/mine", "own.csv", "--out", "own.npy"]) == 0
    assert main(["impute", "runs/mine", "plain.csv", "--out", "plain.npy", *other]) == 0
    assert np.load("own.npy")[:, 1:] == pytest.approx(numbers)
    assert (np.load("own.npy") == np.load("plain.npy")).all()


def test_options_for_text_leave_the_identity_of_other_runs_alone():
    """A new field at its default is no other training."""
    plain = load_config("table-langevin", {"data.path": "t.parquet"})
    assert plain.model_dump(mode="json", exclude_defaults=True)["data"] == {
        "name": "vectors",
        "path": "t.parquet",
    }
