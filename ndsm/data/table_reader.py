"""Tables on disk, read in batches of checked rows (`table_writer` writes rows in the same columns).

A table's d dimensions are either d columns of numbers, true/false, dates or times (`cells`) or one list column of d numbers;
.npy counts as a list column named "x". Rows are read in batches of about a million numbers and never all at once.
"""

import difflib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.fs

from ndsm.config import Csv
from ndsm.data.cells import LEARNED, fits, in_unit, is_learned, is_number, is_time, to_floats, type_of_name
from ndsm.data.csv_hints import advised
from ndsm.data.csv_tables import LEAVE_OUT, CsvReader, delimiter_of
from ndsm.data.labels import Labels
from ndsm.data.parquet_folders import FolderReader
from ndsm.data.table_formats import ArrowReader, NpyReader, ParquetReader, Reader, format_of, locate
from ndsm.data.table_schema import ListColumn, TableSchema
from ndsm.errors import InputError

BATCH_VALUES = 1 << 20
"""Numbers per batch: 65,536 rows of dimension 16."""

READERS: dict[str, type[Reader]] = {"NumPy": NpyReader, "Parquet": ParquetReader, "Arrow": ArrowReader}

NAMELESS_INDEX = re.compile(r"__index_level_\d+__|Unnamed: 0(\.\d+)?")
"""What pandas calls the index of a data frame that has no name."""


@dataclass(frozen=True)
class Table:
    """A table on disk whose columns have been checked; its numbers are checked as they are read."""

    path: str
    """Path or URI of the file or folder, as given."""
    schema: TableSchema
    rows: int
    reader: Reader
    names: tuple[str, ...]
    """Names of the columns that are read."""
    left_out: tuple[str, ...]
    """Columns that are not read because they are the index of a data frame; `data.columns` can ask for them."""
    units: tuple[pa.DataType | None, ...]
    """For each column the type whose time unit is used, None for the column's own; empty if there is a list column."""

    def counted_as(self, model: TableSchema) -> "Table":
        """The same table with its times converted to the units of a model's columns.

        Raises:
            InputError: one has times where the other has numbers, or times of another sort.
        """
        if self.schema.list_column or model.list_column:
            return self
        units: list[pa.DataType | None] = []
        for (name, found), (_, expected) in zip(self.schema.columns, model.columns, strict=True):
            kind = type_of_name(expected)
            if not fits(type_of_name(found), kind):
                raise InputError(f"{self.path}: expected type {kind} in column {name!r}, found {found}")
            units.append(kind if is_time(kind) else None)
        return replace(self, units=tuple(units))

    def record_batches(self, size: int) -> Iterator[pa.RecordBatch]:
        """Yield record batches of the columns as they are in the file, of `size` rows or of the file's own batch size.

        Raises:
            InputError: the file turns out to be damaged.
        """
        with self.reader.readable():
            yield from self.reader.batches(self.names, size)

    def batches(self, kind: type | None = None, missing: bool = False) -> Iterator[np.ndarray]:
        """Yield the rows in the file's order as C-contiguous (b, d) arrays, in one pass over the file.

        Args:
            kind: float32 or float64; the schema's `precision` if None.
            missing: whether numbers may be missing; they are NaN then.

        Raises:
            InputError: a number is missing, not finite or too large for its type, a list has another length
                than the first, or the file turns out to be damaged; file, column and row are named.
        """
        start = 0
        size = max(1, BATCH_VALUES // self.schema.dimensions)
        for batch in self.record_batches(size):
            for i in range(0, batch.num_rows, size):
                rows = batch.slice(i, size)
                yield _to_rows(rows, self, start, kind or self.schema.precision, missing)
                start += rows.num_rows
        if start != self.rows:
            raise InputError(f"{self.path}: expected {self.rows} rows, as it had when opened, found {start}")

    def columns(self) -> list[pa.Array]:
        """The cells (n,) of the d dimensions, in the file's types."""
        width = self.schema.dimensions
        parts: list[list[pa.Array]] = [[] for _ in range(width)]
        for batch in self.record_batches(max(1, BATCH_VALUES // width)):
            cells = _cells(batch, self.schema, self.reader, 0)
            if self.schema.list_column:
                cells = [cells[0].take(pa.array(range(j, len(cells[0]), width))) for j in range(width)]
            for own, column in zip(parts, cells, strict=True):
                own.append(column)
        return [pa.concat_arrays(own) for own in parts]


def open_table(
    path: str | Path,
    columns: Sequence[str] | None = None,
    least: int = 2,
    without: str | None = None,
    field: str = "data.columns",
    csv: Csv | None = None,
    model: TableSchema | None = None,
) -> Table:
    """The table at a path or URI, of the given columns in that order (all if None), with its number of rows.

    Reads metadata only, except of text, which has no number of rows and is read through once.

    Args:
        path: of a file, see `format_of`, or of a folder of Parquet files, see `FolderReader`.
        least: rows that it has to have.
        without: the one column that is left out of all.
        field: of the configuration that gives the columns, for error messages.
        csv: how text is written, `Csv()` if not given.
        model: columns that text is to hold true/false and times in the types of, in place of what its first rows tell.

    Raises:
        InputError: the file is missing, of an unknown or another format, or has fewer rows; a column is unknown, twice given
            or cannot be learned.
    """
    with _opened(path, csv or Csv(), model) as reader:
        return _choose(reader, columns, least, without, field)


def read_labels(path: str | Path, column: str, csv: Csv | None = None) -> tuple[Labels, np.ndarray]:
    """The labels in a column of a table, and the number of each row's, (rows,) int64.

    Args:
        csv: how text is written, `Csv()` if not given.

    Raises:
        InputError: there is no such table or column, or it does not hold labels, see `Labels.of`.
    """
    with _opened(path, csv or Csv()) as reader:
        if reader.kind == "NumPy":
            raise InputError(f"{path}: data.labels is given, but a .npy file has no named columns")
        _check_names(reader.location.name, reader.schema, [column], "data.labels")
        with reader.readable():
            cells = reader.labels(column)
    return Labels.of(cells, column, f"{path}: column {column!r} of data.labels")


@contextmanager
def _opened(path: str | Path, csv: Csv, model: TableSchema | None = None) -> Iterator[Reader]:
    """Yield the reader of a path or URI; within the context, errors in text files suggest fields of `Csv`."""
    location = locate(path)
    info = location.info()
    if info.type == pa.fs.FileType.Directory:
        yield FolderReader(location)
        return
    kind = format_of(location.name)
    if info.type != pa.fs.FileType.File:
        raise InputError(f"{path} does not exist: expected a table")
    if info.size == 0:
        raise InputError(f"{path} is empty: expected {kind}")
    if kind == "CSV":
        with advised(location, csv, delimiter_of(location, csv)):
            types = {field.name: field.type for field in model.flat().arrow_schema()} if model else {}
            yield CsvReader(location, csv, types)
    else:
        yield READERS[kind](location)


def _choose(
    reader: Reader, columns: Sequence[str] | None, least: int, without: str | None, field: str
) -> Table:
    """The table of a reader; the other arguments are those of `open_table`."""
    path, file_schema = reader.location.name, reader.schema
    if columns is not None and reader.kind == "NumPy":
        raise InputError(f"{path}: {field} is given, but a .npy file has no named columns")
    left_out: list[str] = []
    if columns is None:
        reader.check_columns()
        left_out = [name for name in index_columns(file_schema) if name != without]
        columns = [name for name in file_schema.names if name not in (without, *left_out)]
    names = list(columns)
    if left_out and not names:
        raise InputError(
            f"{path}: expected at least one column beside the index of a pandas data frame, found only that: "
            f"{_listed(left_out)}; {field} can take it in"
        )
    _check_names(path, file_schema, names, field)
    with reader.readable():
        kinds, rows = reader.measure(names)
    schema = _schema_of(reader, kinds)
    if rows < least:
        raise InputError(f"{path}: expected at least {least} row{'s' * (least > 1)}, found {rows}")
    units = (None,) * len(schema.columns)
    return Table(path, schema, rows, reader, tuple(names), tuple(left_out), units)


def index_columns(schema: pa.Schema) -> list[str]:
    """Names of the columns that hold the index of a pandas data frame, which is not data.

    Its own metadata name them; `__index_level_0__` and so on are its names for an index without one, which stay where the
    metadata are lost, and `Unnamed: 0` is what it calls one that it finds in a file of text. An index that merely counts rows
    is no column.
    """
    named: list[Any] = []
    # Other programs may write something else under this key.
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        named = json.loads((schema.metadata or {})[b"pandas"])["index_columns"]
    return [name for name in schema.names if name in named or NAMELESS_INDEX.fullmatch(name)]


def _check_names(path: str, file_schema: pa.Schema, names: list[str], field: str) -> None:
    """Raise InputError unless each name, as given in the option `field`, is exactly one column of the file."""
    if not names:
        raise InputError(f"{path}: expected at least one column, found none")
    existing, asked = Counter(file_schema.names), Counter(names)
    for name in names:
        if name not in existing:
            near = difflib.get_close_matches(name, file_schema.names, n=1)
            hint = f"; perhaps you meant {near[0]!r}" if near else ""
            raise InputError(
                f"{path}: no column {name!r} of {field}, found {_listed(file_schema.names)}{hint}"
            )
        if existing[name] > 1:
            raise InputError(f"{path}: expected different column names, found {name!r} more than once")
        if asked[name] > 1:
            raise InputError(f"{field}: expected different columns, found {name!r} more than once")


def _schema_of(reader: Reader, column_types: pa.Schema) -> TableSchema:
    """The schema of columns of these types; of a list column without fixed length, the first row's length."""
    path, kinds = reader.location.name, {field.name: field.type for field in column_types}
    lists = [name for name, kind in kinds.items() if _list_kind(kind)]
    for name, kind in kinds.items():
        if not (is_number(kind.value_type) if name in lists else is_learned(kind)):
            wanted = "a list of numbers" if name in lists else LEARNED
            what = "only missing values" if pa.types.is_null(kind) else f"type {kind}"
            raise InputError(f"{path}: expected {wanted} in column {name!r}, found {what}; {LEAVE_OUT}")
    if not lists:
        return TableSchema(tuple((name, str(kind)) for name, kind in kinds.items()))
    if len(kinds) > 1:
        raise InputError(
            f"{path}: expected columns of {LEARNED} or exactly one list column, found list column "
            f"{lists[0]!r} beside {_listed([n for n in kinds if n != lists[0]])}; choose with data.columns"
        )
    name, kind = lists[0], kinds[lists[0]]
    length = kind.list_size if pa.types.is_fixed_size_list(kind) else _first_length(reader, name)
    if length == 0:
        raise InputError(f"{path}: expected lists of numbers in column {name!r}, found an empty one in row 1")
    return TableSchema(list_column=ListColumn(name, length, str(kind.value_type), _list_kind(kind)))


def _list_kind(kind: pa.DataType) -> Any:
    """The `ListColumn.kind` of an Arrow type, None if it is not a list."""
    if pa.types.is_fixed_size_list(kind):
        return "fixed_size_list"
    return "list" if pa.types.is_list(kind) else "large_list" if pa.types.is_large_list(kind) else None


def _first_length(reader: Reader, name: str) -> int:
    path = reader.location.name
    with reader.readable():
        batch = next((batch for batch in reader.batches([name], 1) if batch.num_rows), None)
    if batch is None:
        raise InputError(f"{path}: expected rows, found none")
    first = batch.column(name)[0]
    if not first.is_valid:
        raise InputError(f"{path}: expected a list in column {name!r}, found a missing value in row 1")
    return len(first)


def _to_rows(batch: pa.RecordBatch, table: Table, start: int, kind: type, missing: bool) -> np.ndarray:
    """Rows (b, d) of a record batch that begins at row `start` of the table."""
    schema, reader = table.schema, table.reader
    out = np.empty((batch.num_rows, schema.dimensions), dtype=kind)
    cells = _cells(batch, schema, reader, start)
    with np.errstate(over="ignore", invalid="ignore"):
        for j, values in enumerate(cells):
            if schema.list_column:
                out[:] = _numbers(values).reshape(out.shape)
            else:
                out[:, j] = _numbers(in_unit(values, table.units[j]))
    finite = np.isfinite(out) | (np.isnan(out) & missing)
    if not finite.all():
        i, j = (int(k) for k in np.argwhere(~finite)[0])
        value = (cells[0][i * schema.dimensions + j] if schema.list_column else cells[j][i]).as_py()
        problem = "a missing value" if value is None else "NaN" if math.isnan(value) else f"{value:g}"
        where = f"column {schema.dimension_names[j]!r}, {reader.row(start + i)}"
        raise InputError(
            f"{reader.location.name}: {where}: expected a number that is finite in {np.dtype(kind)}, found {problem}"
        )
    return out


def _numbers(cells: pa.Array) -> np.ndarray:
    """The values (n,), in their own precision if they are floating-point numbers."""
    return cells.to_numpy(zero_copy_only=False) if pa.types.is_floating(cells.type) else to_floats(cells)


def _cells(batch: pa.RecordBatch, schema: TableSchema, reader: Reader, start: int) -> list[Any]:
    """The Arrow arrays of the d columns (b,), or the one of the list column's numbers (b * d,)."""
    if schema.list_column is None:
        return [batch.column(name) for name, _ in schema.columns]
    name, length = schema.list_column.name, schema.list_column.length
    column = batch.column(name)
    lengths = pa.compute.fill_null(pa.compute.list_value_length(column), -1).to_numpy(zero_copy_only=False)
    wrong = np.flatnonzero(lengths != length)
    if len(wrong):
        i = int(wrong[0])
        problem = "a missing value" if lengths[i] < 0 else f"{lengths[i]}"
        where = f"column {name!r}, {reader.row(start + i)}"
        raise InputError(
            f"{reader.location.name}: {where}: expected a list of {length} numbers, found {problem}"
        )
    return [column.flatten()]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"
