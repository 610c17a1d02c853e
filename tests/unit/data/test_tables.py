"""Tables come back as they were written, and every bad file is one clear sentence."""

import datetime as dt
import decimal
import io

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from ndsm.data import TableSchema, TableWriter
from ndsm.data.table_reader import open_table
from ndsm.data.table_schema import ListColumn
from ndsm.errors import InputError

VALUES = np.array([[1.5, -2.0, 3.0], [0.25, 5.0, 250.0], [7.0, -1.0, 0.0], [1e-3, 4.0, 9.0]])

NUMBERS = TableSchema((("a", "double"), ("b.c", "int64"), ("d e", "uint8")))
FIXED = TableSchema(list_column=ListColumn("v", 3, "double", "fixed_size_list"))
LISTS = TableSchema(list_column=ListColumn("v", 3, "float", "list"))
LARGE = TableSchema(list_column=ListColumn("v", 3, "float", "large_list"))
HALF = TableSchema(list_column=ListColumn("v", 3, "halffloat", "fixed_size_list"))
SCHEMAS = {"numbers": NUMBERS, "fixed": FIXED, "lists": LISTS, "large": LARGE, "half": HALF}


def save(path, schema, rows, parts=2):
    with TableWriter(path, schema) as writer:
        for part in np.array_split(rows, parts):
            writer.write(part)
    return path


def read(path, columns=None):
    return np.concatenate(list(open_table(path, columns).batches()))


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
@pytest.mark.parametrize("extension", ["parquet", "arrow", "feather"])
def test_what_is_written_is_read_back_with_its_types(tmp_path, extension, schema):
    rows = VALUES.copy()
    if schema.list_column is None:
        rows = np.hstack([VALUES[:, :1], np.rint(VALUES[:, 1:])])
    path = save(tmp_path / f"t.{extension}", schema, rows)
    table = open_table(path)
    assert table.schema == schema
    assert table.rows == 4
    assert read(path) == pytest.approx(rows, rel=1e-3 if schema is HALF else 1e-6)
    assert [f.name for f in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_csv_is_read_back_with_one_column_per_dimension(tmp_path, schema):
    path = save(tmp_path / "t.csv", schema, VALUES)
    names = ["a", "b.c", "d e"] if schema is NUMBERS else ["v0", "v1", "v2"]
    expected = np.hstack([VALUES[:, :1], np.rint(VALUES[:, 1:])]) if schema is NUMBERS else VALUES
    assert open_table(path).schema.dimension_names == names
    assert read(path) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_npy_holds_every_number_of_the_columns_types(tmp_path, schema):
    """In float32 if that has room for them, and whole numbers of integer columns."""
    path = save(tmp_path / "t.npy", schema, VALUES)
    kind = schema.precision
    assert np.load(path).dtype == kind
    expected = np.hstack([VALUES[:, :1], np.rint(VALUES[:, 1:])]) if schema is NUMBERS else VALUES
    assert (np.load(path) == expected.astype(kind)).all()
    assert (read(path) == expected.astype(kind)).all()


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS)
def test_schemas_survive_json(schema):
    assert TableSchema.from_json(schema.to_json()) == schema


@pytest.mark.parametrize("kind", ["<f4", ">f8", "<f2", "<i8", "u1", "longdouble"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_any_real_dtype_is_read(tmp_path, kind, order):
    x = np.asarray(np.arange(12).reshape(4, 3), dtype=kind, order=order)
    np.save(tmp_path / "x.npy", x)
    assert (read(tmp_path / "x.npy") == x.astype(np.float32)).all()
    schema = open_table(tmp_path / "x.npy").schema
    assert (schema.list_column.name, schema.list_column.kind) == ("x", "fixed_size_list")


def test_small_batches_change_nothing(tmp_path, monkeypatch):
    x = np.random.default_rng(0).standard_normal((1000, 3)).astype(np.float32)
    paths = [
        save(tmp_path / f"t.{e}", s, x) for e, s in [("arrow", LISTS), ("parquet", FIXED), ("npy", FIXED)]
    ]
    monkeypatch.setattr("ndsm.data.table_reader.BATCH_VALUES", 100)
    for path in paths:
        assert max(len(b) for b in open_table(path).batches()) <= 34
        assert (read(path) == x).all()


TYPES = {
    "flag": pa.bool_(),
    "day": pa.date32(),
    "at": pa.timestamp("us"),
    "zoned": pa.timestamp("ms", "UTC"),
    "clock": pa.time32("ms"),
    "span": pa.duration("ms"),
    "price": pa.decimal128(12, 2),
    "size": pa.float64(),
}
CELLS = {
    "flag": [True, False, True],
    "day": [dt.date(2020, 1, 31), dt.date(1969, 12, 31), dt.date(1970, 1, 2)],
    "at": [dt.datetime(2020, 1, 31, 12, 0, 0, 250), dt.datetime(1970, 1, 1), dt.datetime(2000, 1, 1)],
    "zoned": [dt.datetime(2020, 1, 31, 12, tzinfo=dt.UTC)] * 3,
    "clock": [dt.time(1, 2, 3), dt.time(0), dt.time(23, 59, 59)],
    "span": [dt.timedelta(seconds=2), dt.timedelta(0), dt.timedelta(days=-1)],
    "price": [decimal.Decimal("12.34"), decimal.Decimal("-0.01"), decimal.Decimal("9999999999.99")],
    "size": [0.5, 1.5, 2.5],
}
COUNTED = np.array(
    [
        [1, 18292, 1580472000 * 1e6 + 250, 1580472000000, 3723000, 2000, 12.34, 0.5],
        [0, -1, 0, 1580472000000, 0, 0, -0.01, 1.5],
        [1, 1, 946684800 * 1e6, 1580472000000, 86399000, -86400000, 9999999999.99, 2.5],
    ]
)


@pytest.mark.parametrize("extension", ["parquet", "arrow"])
def test_truth_times_and_decimals_are_numbers_and_come_back_with_their_types(tmp_path, extension):
    schema = TableSchema(tuple((name, str(kind)) for name, kind in TYPES.items()))
    path = save(tmp_path / f"t.{extension}", schema, COUNTED)
    whole = pq.read_table(path) if extension == "parquet" else feather.read_table(path)
    assert whole.schema.types == list(TYPES.values())
    assert whole.to_pydict() == CELLS
    table = open_table(path)
    assert table.schema == schema
    np.testing.assert_array_equal(np.concatenate(list(table.batches())), COUNTED)


def test_truth_and_times_are_read_from_text_as_they_are_written(tmp_path):
    schema = TableSchema(tuple((name, str(kind)) for name, kind in TYPES.items()))
    path = save(tmp_path / "t.csv", schema, COUNTED)
    table = open_table(path)
    assert [kind for _, kind in table.schema.columns] == [
        "bool", "date32[day]", "timestamp[ns]", "timestamp[ns, tz=UTC]", "time64[us]", "int64", "double", "double",
    ]  # fmt: skip
    # In the units of a model's own columns.
    known = open_table(path, model=schema).counted_as(schema)
    np.testing.assert_array_equal(np.concatenate(list(known.batches())), COUNTED)


def test_times_are_counted_in_the_units_of_a_models_columns(tmp_path):
    path = tmp_path / "t.parquet"
    seconds = pa.array([86400, 2 * 86400 + 5, None], pa.timestamp("s"))
    pq.write_table(pa.table({"at": seconds.cast(pa.timestamp("ms"))}), path)
    table = open_table(path)
    for kind, expected in (
        ("timestamp[s]", [86400, 172805]),
        ("date32[day]", [1, 2]),
        ("timestamp[ns]", [864e11, 172805e9]),
    ):
        known = table.counted_as(TableSchema((("at", kind),)))
        rows = np.concatenate(list(known.batches(missing=True)))
        assert rows[:2, 0].tolist() == expected
        assert np.isnan(rows[2, 0])
    for kind in ("double", "bool", "time32[s]", "duration[s]"):
        with pytest.raises(InputError, match=r"expected type .* in column 'at', found timestamp\[ms\]"):
            table.counted_as(TableSchema((("at", kind),)))


def test_columns_are_chosen_in_the_order_asked_for(tmp_path):
    table = pa.table({"t": ["x", "y"], "a": [1, 2], "v": [[1.0, 2.0], [3.0, 4.0]], "b": [3.5, 4.5]})
    pq.write_table(table, tmp_path / "t.parquet")
    feather.write_feather(table, tmp_path / "t.feather")
    for path in (tmp_path / "t.parquet", tmp_path / "t.feather"):
        assert read(path, ["b", "a"]).tolist() == [[3.5, 1.0], [4.5, 2.0]]
        assert read(path, ["v"]).tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_an_arrow_stream_is_read_like_an_arrow_file(tmp_path):
    table = pa.table({"a": [1.0, 2.0, 3.0]})
    with pa.ipc.new_stream(str(tmp_path / "s.arrow"), table.schema) as stream:
        stream.write_table(table, max_chunksize=2)
    assert read(tmp_path / "s.arrow").ravel().tolist() == [1.0, 2.0, 3.0]


def test_csv_columns_are_integer_only_if_all_rows_are(tmp_path):
    # Longer than Arrow's first block, from which it takes the types.
    body = "1,2\n" * 300_000
    (tmp_path / "t.csv").write_text("a,b\n" + body + "1.5,3\n")
    table = open_table(tmp_path / "t.csv")
    assert table.schema.columns == (("a", "double"), ("b", "int64"))
    assert list(table.batches())[-1][-1].tolist() == [1.5, 3.0]


def test_csv_of_a_numbered_data_frame_keeps_its_first_row(tmp_path):
    (tmp_path / "t.csv").write_text("0,1\n5,6\n7,8\n")
    assert read(tmp_path / "t.csv").tolist() == [[5.0, 6.0], [7.0, 8.0]]


def test_integers_are_rounded_and_clipped(tmp_path):
    schema = TableSchema((("u", "uint8"), ("i", "int64"), ("f", "float")))
    rows = np.array([[-3.0, 1e30, 0.5], [300.0, -1e30, np.inf], [2.6, np.nan, np.nan]])
    path = save(tmp_path / "t.parquet", schema, rows)
    found = pq.read_table(path).to_pydict()
    assert found["u"] == [0, 255, 3]
    assert found["i"] == [2**63 - 1024, -(2**63), None]
    assert found["f"][:2] == [0.5, np.inf]


@pytest.mark.parametrize("extension", ["parquet", "arrow", "csv", "npy"])
def test_an_exception_leaves_the_old_file_and_nothing_else(tmp_path, extension):
    path = tmp_path / f"t.{extension}"
    path.write_text("old")

    def write_and_fail():
        with TableWriter(path, FIXED) as writer:
            writer.write(VALUES)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        write_and_fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_writer_refuses_what_it_cannot_write(tmp_path):
    with pytest.raises(InputError, match=r"expected a file ending in \.npy.* found '\.xls'"):
        TableWriter(tmp_path / "t.xls", FIXED)
    with pytest.raises(InputError, match=r"expected an existing folder, found no .*missing"):
        TableWriter(tmp_path / "missing" / "t.csv", FIXED)
    with TableWriter(tmp_path / "t.csv", FIXED) as writer, pytest.raises(ValueError, match="expected rows"):
        writer.write(np.zeros((2, 4)))


def parquet(**columns):
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return "parquet", sink.getvalue()


def arrow(**columns):
    sink = io.BytesIO()
    feather.write_feather(pa.table(columns), sink, compression="uncompressed")
    return "arrow", sink.getvalue()


def npy(array):
    sink = io.BytesIO()
    np.save(sink, array, allow_pickle=True)
    return "npy", sink.getvalue()


def csv(text):
    return "csv", text.encode()


GOOD = [1.0, 2.0, 3.0]
BAD_FILES = {
    "unknown extension": (("txt", b"1"), r"a file ending in \.npy, \.csv.*found '\.txt'"),
    "empty parquet": (("parquet", b""), "is empty: expected Parquet"),
    "empty csv": (csv(""), "is empty: expected CSV"),
    "garbage parquet": (("parquet", bytes(range(256)) * 9), "is not readable as Parquet"),
    "garbage arrow": (("arrow", bytes(range(256)) * 9), "is not readable as Arrow"),
    "garbage npy": (("npy", bytes(range(256)) * 9), "is not readable as NumPy"),
    "garbage csv": (("csv", bytes(range(256)) * 9), r"t\.csv"),
    "truncated parquet": (("parquet", parquet(a=GOOD * 99)[1][:-40]), "is not readable as Parquet"),
    "truncated arrow": (("arrow", arrow(a=GOOD * 99)[1][:-600]), "is not readable as Arrow"),
    "truncated npy": (("npy", npy(np.ones((99, 2)))[1][:-40]), "is not readable as NumPy"),
    "damaged page": (("parquet", b"PAR1" + b"\xff" * 80 + parquet(a=GOOD * 99)[1][84:]), "not readable as"),
    "one row": (parquet(a=[1.0]), "expected at least 2 rows, found 1"),
    "one list": (parquet(a=[[1.0]]), "expected at least 2 rows, found 1"),
    "no rows": (npy(np.zeros((0, 4))), "expected at least 2 rows, found 0"),
    "header only": (csv("a,b\n"), "expected at least 2 rows, found 0"),
    "no columns": (parquet(), "expected at least one column, found none"),
    "text": (
        parquet(a=GOOD, b=["x", "y", "z"]),
        "expected numbers, true/false, dates or times in column 'b', found type string; data",
    ),
    "nothing": (parquet(a=GOOD, b=pa.nulls(3)), "in column 'b', found only missing values"),
    "list of dates": (
        parquet(v=pa.array([[1], [2]], pa.list_(pa.date32()))),
        "a list of numbers in column 'v', found type list",
    ),
    "null truth": (arrow(a=GOOD, b=[True, None, True]), r"column 'b', row 2 .*found a missing value"),
    "null date": (
        parquet(a=GOOD, b=pa.array([1, 2, None], pa.date32())),
        r"column 'b', row 3 .*found a missing value",
    ),
    "not all truth": (csv("a,b\n1,true\n2,2\n"), r"'b', row 3 .*true or false, found '2'; data\.columns can"),
    "not all dates": (
        csv("a,b\n1,2020-01-01\n2,soon\n"),
        r"'b', row 3 .*type date32\[day\], found 'soon'; data\.columns can",
    ),
    "late text among dates": (
        csv("a,b\n" + "1,2020-01-01\n" * 90_000 + "1,soon\n"),
        r"'b', row 90002 .*type date32\[day\], found 'soon'",
    ),
    "words": (csv("a,b\n1,yes\n2,no\n"), r"'b', row 2 .*a number, true/false, a date or a time, found 'yes'"),
    "text in csv": (csv("a,b\n1,2\n3,abc\n"), r"column 'b', row 3 \(the header is row 1\).* found 'abc'"),
    "late text in csv": (
        csv("a,b\n" + "1,2\n" * 300_000 + "3,abc\n"),
        r"column 'b', row 300002 .*expected a number, found 'abc'",
    ),
    "ragged csv": (csv("a,b\n1,2\n3,4,5\n"), r"row 3 \(the header is row 1\): expected 2 fields, found 3"),
    "no header": (csv("1.5,2\n3,4\n5,6\n"), "expected column names in the first row, found '1.5'"),
    "same names": (csv("a,a\n1,2\n3,4\n"), "expected different column names, found 'a' more than once"),
    "empty csv cell": (csv("a,b\n1,2\n3,\n"), r"column 'b', row 3 .*found a missing value"),
    "empty csv column": (csv("a,b\n1,\n3,\n"), r"column 'b', row 2 .*found a missing value"),
    "null": (parquet(a=[1.0, None, 2.0]), r"column 'a', row 2 \(the first is row 1\).*a missing value"),
    "null integer": (arrow(a=[1, 2, None]), r"column 'a', row 3 .*found a missing value"),
    "nan": (parquet(a=GOOD, b=[1.0, 2.0, np.nan]), r"column 'b', row 3 .*found NaN"),
    "nan npy": (npy(np.array([[1.0, 2.0], [3.0, np.nan]])), r"column 'x\[1\]', row 2 .*found NaN"),
    "infinity": (csv("a,b\n1,2\n3,-inf\n"), r"column 'b', row 3 .*found -inf"),
    "ragged lists": (parquet(v=[[1.0, 2.0], [3.0], [4.0]]), r"'v', row 2 .*a list of 2 numbers, found 1"),
    "null list": (arrow(v=[[1.0, 2.0], None]), r"column 'v', row 2 .*found a missing value"),
    "null first list": (arrow(v=[None, [1.0, 2.0]]), r"column 'v', found a missing value in row 1"),
    "null in list": (parquet(v=[[1.0, 2.0], [3.0, None]]), r"column 'v\[1\]', row 2 .*missing value"),
    "empty lists": (parquet(v=pa.array([[], []], pa.list_(pa.float64()))), "found an empty one in row 1"),
    "list and numbers": (parquet(v=[[1.0], [2.0]], a=[1.0, 2.0]), "found list column 'v' beside 'a'"),
    "nested lists": (
        parquet(v=[[[1.0]], [[2.0]]]),
        "expected a list of numbers in column 'v', found type list",
    ),
    "lists of text": (parquet(v=[["a"], ["b"]]), "expected a list of numbers in column 'v'"),
    "npy of one axis": (npy(np.ones(5)), r"shape \(rows, dimensions\), found \(5,\)"),
    "npy of truth": (npy(np.ones((3, 2), dtype=bool)), "array of real numbers, found dtype bool"),
    "npy of complex": (npy(np.ones((3, 2), dtype=complex)), "found dtype complex128"),
    "npy of objects": (
        npy(np.array([[1, "a"], [2, None]], dtype=object)),
        "array of real numbers, found dtype object",
    ),
}


@pytest.mark.parametrize(("file", "sentence"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_bad_file_is_an_input_error_that_names_the_place(tmp_path, file, sentence):
    extension, content = file
    path = tmp_path / f"t.{extension}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence) as caught:
        read(path)
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_archive_is_not_an_array(tmp_path):
    np.savez(tmp_path / "x.npz", a=np.ones((2, 2)))
    (tmp_path / "x.npz").rename(tmp_path / "x.npy")
    with pytest.raises(InputError, match="expected one array, found an archive"):
        open_table(tmp_path / "x.npy")


def test_missing_files_and_folders_are_told_apart(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv does not exist"):
        open_table(tmp_path / "none.csv")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(
        InputError, match=r"folder\.parquet is a folder: expected \.parquet files in it, found none"
    ):
        open_table(tmp_path / "folder.parquet")


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (["height", "wieght"], r"no column 'wieght' of data.columns.*perhaps you meant 'weight'"),
        (["zzz"], r"no column 'zzz' of data.columns, found 'height', 'weight', 'name'$"),
        (["height", "height"], "data.columns: expected different columns, found 'height' more than once"),
        ([], "expected at least one column"),
        (["name"], "expected numbers, true/false, dates or times in column 'name', found type string"),
    ],
)
def test_wrong_columns_are_named(tmp_path, columns, sentence):
    table = pa.table({"height": GOOD, "weight": GOOD, "name": ["x", "y", "z"]})
    pq.write_table(table, tmp_path / "t.parquet")
    with pytest.raises(InputError, match=sentence):
        open_table(tmp_path / "t.parquet", columns)


def test_columns_of_an_npy_file_are_an_input_error(tmp_path):
    np.save(tmp_path / "t.npy", np.ones((2, 2)))
    with pytest.raises(InputError, match=r"a \.npy file has no named columns"):
        open_table(tmp_path / "t.npy", ["x"])


def test_csv_text_columns_can_be_left_out(tmp_path):
    pacsv.write_csv(pa.table({"a": GOOD, "name": ["x", "y", "z"]}), tmp_path / "t.csv")
    assert read(tmp_path / "t.csv", ["a"]).ravel().tolist() == GOOD
