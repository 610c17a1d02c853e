"""Tables on disk, streaming in as checked float32 rows (`table_writer`: out with the same columns).

A table's d dimensions are either d numeric columns or one list column of length d; .npy counts as a list
column named "x". Rows are read in batches of about a million numbers and never all at once.
"""

import difflib
import math
import re
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

from ndsm.errors import InputError

BATCH_VALUES = 1 << 20
"""Numbers per batch: 65,536 rows of dimension 16."""

FORMATS = {".npy": "NumPy", ".csv": "CSV", ".parquet": "Parquet", ".arrow": "Arrow", ".feather": "Arrow"}

DAMAGE = (
    *(pa.ArrowException, OSError, EOFError, ValueError, KeyError),
    # What numpy's parser of the .npy header lets through.
    *(SyntaxError, tokenize.TokenError, TypeError, OverflowError),
)
"""What the readers raise on a damaged file."""

LEAVE_OUT = "data.columns can leave the column out"

Batches = Callable[[int], Iterator[pa.RecordBatch]]
"""Reads the used columns in record batches of the given number of rows, or of the file's own."""

Select = Callable[[pa.Schema], list[str]]
"""The names of the used columns among those of a file."""


@dataclass(frozen=True)
class ListColumn:
    """One column whose cells are lists of equal length."""

    name: str
    length: int
    value_type: str
    """Arrow type of the numbers, such as "float"."""
    kind: Literal["fixed_size_list", "list", "large_list"]

    def arrow_type(self) -> pa.DataType:
        """The column's Arrow type."""
        value = pa.type_for_alias(self.value_type)
        if self.kind == "fixed_size_list":
            return pa.list_(value, self.length)
        return pa.list_(value) if self.kind == "list" else pa.large_list(value)


@dataclass(frozen=True)
class TableSchema:
    """How the d dimensions lie in columns: d numeric columns in order, or one list column."""

    columns: tuple[tuple[str, str], ...] = ()
    """(name, Arrow type) of the numeric columns; empty if there is a list column."""
    list_column: ListColumn | None = None

    @property
    def dimensions(self) -> int:
        """The dimension d."""
        return self.list_column.length if self.list_column else len(self.columns)

    @property
    def dimension_names(self) -> list[str]:
        """Names of the d dimensions: the columns', or x[0], x[1], ... of a list column x."""
        if self.list_column:
            return [f"{self.list_column.name}[{j}]" for j in range(self.list_column.length)]
        return [name for name, _ in self.columns]

    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema of the table."""
        if self.list_column:
            return pa.schema([(self.list_column.name, self.list_column.arrow_type())])
        return pa.schema([(name, pa.type_for_alias(kind)) for name, kind in self.columns])

    def flat(self) -> "TableSchema":
        """The schema for formats without lists: x0, x1, ... in place of a list column x."""
        if self.list_column is None:
            return self
        name, kind = self.list_column.name, self.list_column.value_type
        # Arrow writes no 16-bit floats as text.
        kind = "float" if kind == "halffloat" else kind
        return TableSchema(tuple((f"{name}{j}", kind) for j in range(self.dimensions)))

    def to_json(self) -> dict[str, Any]:
        """A plain dict for JSON or YAML."""
        return {
            "columns": [list(column) for column in self.columns],
            "list_column": vars(self.list_column).copy() if self.list_column else None,
        }

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "TableSchema":
        """The schema that `to_json` wrote."""
        columns = tuple((str(name), str(kind)) for name, kind in tree["columns"])
        return cls(columns, ListColumn(**tree["list_column"]) if tree["list_column"] else None)


@dataclass(frozen=True)
class Table:
    """A table on disk whose columns have been checked; its numbers are checked as they are read."""

    path: Path
    schema: TableSchema
    rows: int
    record_batches: Batches

    def batches(self, kind: type = np.float32, missing: bool = False) -> Iterator[np.ndarray]:
        """The rows in the file's order, as C-contiguous (b, d) arrays; one pass over the file.

        Args:
            kind: float32 or float64.
            missing: whether numbers may be missing; they are NaN then.

        Raises:
            InputError: a number is missing, not finite or too large for float32, a list has another length
                than the first, or the file turns out to be damaged; file, column and row are named.
        """
        start = 0
        size = max(1, BATCH_VALUES // self.schema.dimensions)
        with readable(self.path):
            for batch in self.record_batches(size):
                for i in range(0, batch.num_rows, size):
                    rows = batch.slice(i, size)
                    yield _to_rows(rows, self.schema, self.path, start, kind, missing)
                    start += rows.num_rows
        if start != self.rows:
            raise InputError(f"{self.path}: expected {self.rows} rows, as it had when opened, found {start}")

    def wide_integers(self) -> dict[int, pa.Array]:
        """The cells (n,) of the dimensions that are 64-bit integers, which float64 rounds, by their index; none of .csv,
        whose numbers are read as float64."""
        width, parts = self.schema.dimensions, defaultdict(list)
        kinds = [kind for _, kind in self.schema.flat().columns]
        if {"int64", "uint64"} & set(kinds):
            with readable(self.path):
                for batch in self.record_batches(max(1, BATCH_VALUES // width)):
                    cells = _cells(batch, self.schema, self.path, 0)
                    if self.schema.list_column:
                        cells = [
                            cells[0].take(pa.array(range(j, len(cells[0]), width))) for j in range(width)
                        ]
                    for j, column in enumerate(cells):
                        if column.type in (pa.int64(), pa.uint64()):
                            parts[j].append(column)
        return {j: pa.concat_arrays(columns) for j, columns in parts.items()}


def open_table(
    path: Path,
    columns: Sequence[str] | None = None,
    least: int = 2,
    without: str | None = None,
    field: str = "data.columns",
) -> Table:
    """The table at a path, of the given columns in that order (all if None), with its number of rows.

    Reads metadata only, except of .csv, which has no number of rows and is read through once.

    Args:
        least: rows that it has to have.
        without: the one column that is left out of all.
        field: of the configuration that gives the columns, for error messages.

    Raises:
        InputError: the file is missing, of an unknown or another format, or has fewer rows; a column is unknown, twice given
            or not numeric.
    """
    extension = extension_of(path)
    if path.is_dir():
        raise InputError(f"{path} is a directory: expected a file")
    if not path.is_file():
        raise InputError(f"{path} does not exist: expected a table")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty: expected {FORMATS[extension]}")
    if columns is not None and extension == ".npy":
        raise InputError(f"{path}: {field} is given, but a .npy file has no named columns")

    def select(found: pa.Schema) -> list[str]:
        every = [name for name in found.names if name != without]
        return _selected(path, found, every if columns is None else list(columns), field)

    opener = {".npy": _open_npy, ".csv": _open_csv, ".parquet": _open_parquet}.get(extension, _open_arrow)
    with readable(path):
        table = opener(path, select)
    if table.rows < least:
        raise InputError(f"{path}: expected at least {least} row{'s' * (least > 1)}, found {table.rows}")
    return table


def _open_parquet(path: Path, select: Select) -> Table:
    with pa.parquet.ParquetFile(path) as file:
        rows, found = file.metadata.num_rows, file.schema_arrow
    names = select(found)

    def read(size: int) -> Iterator[pa.RecordBatch]:
        # Without these, Arrow loads row groups as a whole and keeps them: in time a second copy of the file.
        with pa.parquet.ParquetFile(path, buffer_size=1 << 18, pre_buffer=False) as file:
            yield from file.iter_batches(batch_size=size, columns=names, use_threads=False)

    return Table(path, _schema_of(path, found, names, read), rows, read)


def _open_arrow(path: Path, select: Select) -> Table:
    with _arrow_batches(path) as (found, batches):
        names = select(found)
        rows = sum(batch.num_rows for batch in batches)

    def read(size: int) -> Iterator[pa.RecordBatch]:
        with _arrow_batches(path) as (_, batches):
            for batch in batches:
                used = batch.select(names)
                # Nothing else checks a mapped file: damaged list offsets would read outside of it.
                used.validate(full=True)
                yield used

    return Table(path, _schema_of(path, found, names, read), rows, read)


@contextmanager
def _arrow_batches(path: Path) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
    """The schema and the record batches of a memory-mapped Arrow file or stream."""
    with pa.memory_map(str(path)) as source:
        try:
            reader = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            # Arrow's other format, which has no footer, goes by .arrow too.
            source.seek(0)
            reader = pa.ipc.open_stream(source)
            batches = iter(reader)
        else:
            batches = (reader.get_batch(i) for i in range(reader.num_record_batches))
        yield reader.schema, batches


def _open_csv(path: Path, select: Select) -> Table:
    def stream(**convert: Any) -> Any:
        # Without threads: only then do Arrow's messages tell the row.
        reading = pa.csv.ReadOptions(use_threads=False)
        return pa.csv.open_csv(path, reading, convert_options=pa.csv.ConvertOptions(**convert))

    with stream() as reader:
        found = reader.schema
        # Columns named 0, 1, 2, ... are a data frame's own names; other numbers are rows without a header.
        numbered = found.names == [str(j) for j in range(len(found.names))]
        if all(_is_number(name) for name in found.names) and not numbered:
            raise InputError(f"{path}: expected column names in the first row, found {found.names[0]!r}")
        names = select(found)
        first = next(iter(reader), None)
    for name in names:
        _refuse_text(path, name, None if first is None else first.column(found.names.index(name)))

    def read(size: int) -> Iterator[pa.RecordBatch]:
        # float64, because a column that starts with integers may go on with fractions.
        with stream(include_columns=names, column_types={n: pa.float64() for n in names}) as reader:
            yield from reader

    rows = 0
    whole = {name for name in names if pa.types.is_integer(found.field(name).type)}
    for batch in read(0):
        rows += batch.num_rows
        for name in tuple(whole):
            values = batch.column(names.index(name)).to_numpy(zero_copy_only=False)
            if (values != np.rint(values)).any():
                whole.remove(name)
    # A column that starts out empty has Arrow's type null; the missing value is reported when it is read.
    kinds = {n: found.field(n).type for n in names if not pa.types.is_null(found.field(n).type)}
    kinds = {n: kinds.get(n, pa.float64()) for n in names}
    kinds |= {n: pa.float64() for n in names if pa.types.is_integer(kinds[n]) and n not in whole}
    return Table(path, _schema_of(path, pa.schema(list(kinds.items())), names, read), rows, read)


def _open_npy(path: Path, select: Select) -> Table:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(array, np.ndarray):
        raise InputError(f"{path}: expected one array, found an archive")
    if array.dtype.kind not in "fiu":
        raise InputError(f"{path}: expected an array of real numbers, found dtype {array.dtype}")
    if array.ndim != 2 or array.shape[1] == 0:
        raise InputError(f"{path}: expected an array of shape (rows, dimensions), found {array.shape}")
    rows, width = array.shape
    # Arrow knows the machine's own byte order only, and no float of more than 64 bits.
    kind = np.dtype(np.float64) if array.dtype.itemsize > 8 else array.dtype.newbyteorder("=")

    def read(size: int) -> Iterator[pa.RecordBatch]:
        for start in range(0, rows, size):
            # Mapped again for each batch: pages that were read then do not add up to a second copy.
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)[start : start + size]
            values = pa.array(np.ascontiguousarray(mapped, dtype=kind).reshape(-1))
            yield pa.RecordBatch.from_arrays([pa.FixedSizeListArray.from_arrays(values, width)], ["x"])

    column = ListColumn("x", width, str(pa.from_numpy_dtype(kind)), "fixed_size_list")
    return Table(path, TableSchema(list_column=column), rows, read)


def _selected(path: Path, found: pa.Schema, names: list[str], field: str) -> list[str]:
    """The names to read, each of which is one column of the file; `field` is where they were given."""
    if not names:
        raise InputError(f"{path}: expected at least one column, found none")
    existing, asked = Counter(found.names), Counter(names)
    for name in names:
        if name not in existing:
            near = difflib.get_close_matches(name, found.names, n=1)
            hint = f"; perhaps you meant {near[0]!r}" if near else ""
            raise InputError(f"{path}: no column {name!r} of {field}, found {_listed(found.names)}{hint}")
        if existing[name] > 1:
            raise InputError(f"{path}: expected different column names, found {name!r} more than once")
        if asked[name] > 1:
            raise InputError(f"{field}: expected different columns, found {name!r} more than once")
    return names


def _schema_of(path: Path, found: pa.Schema, names: list[str], read: Batches) -> TableSchema:
    """The schema of the selected columns; of a list column without fixed length, the first row's length."""
    kinds = {name: found.field(name).type for name in names}
    lists = [name for name, kind in kinds.items() if _list_kind(kind)]
    for name, kind in kinds.items():
        value = kind.value_type if name in lists else kind
        if not (pa.types.is_integer(value) or pa.types.is_floating(value)):
            wanted = "a list of numbers" if name in lists else "numbers"
            raise InputError(f"{path}: expected {wanted} in column {name!r}, found type {kind}; {LEAVE_OUT}")
    if not lists:
        return TableSchema(tuple((name, str(kind)) for name, kind in kinds.items()))
    if len(names) > 1:
        raise InputError(
            f"{path}: expected numeric columns or exactly one list column, found list column "
            f"{lists[0]!r} beside {_listed([n for n in names if n != lists[0]])}; choose with data.columns"
        )
    name, kind = lists[0], kinds[lists[0]]
    length = kind.list_size if pa.types.is_fixed_size_list(kind) else _first_length(path, name, read)
    if length == 0:
        raise InputError(f"{path}: expected lists of numbers in column {name!r}, found an empty one in row 1")
    return TableSchema(list_column=ListColumn(name, length, str(kind.value_type), _list_kind(kind)))


def _list_kind(kind: pa.DataType) -> Any:
    """The `ListColumn.kind` of an Arrow type, None if it is not a list."""
    if pa.types.is_fixed_size_list(kind):
        return "fixed_size_list"
    return "list" if pa.types.is_list(kind) else "large_list" if pa.types.is_large_list(kind) else None


def _first_length(path: Path, name: str, read: Batches) -> int:
    batch = next((batch for batch in read(1) if batch.num_rows), None)
    if batch is None:
        raise InputError(f"{path}: expected rows, found none")
    first = batch.column(name)[0]
    if not first.is_valid:
        raise InputError(f"{path}: expected a list in column {name!r}, found a missing value in row 1")
    return len(first)


def _to_rows(
    batch: pa.RecordBatch, schema: TableSchema, path: Path, start: int, kind: type, missing: bool
) -> np.ndarray:
    """Rows (b, d) of a record batch that begins at row `start` of the table."""
    out = np.empty((batch.num_rows, schema.dimensions), dtype=kind)
    cells = _cells(batch, schema, path, start)
    with np.errstate(over="ignore", invalid="ignore"):
        for j, values in enumerate(cells):
            if schema.list_column:
                out[:] = values.to_numpy(zero_copy_only=False).reshape(out.shape)
            else:
                out[:, j] = values.to_numpy(zero_copy_only=False)
    finite = np.isfinite(out) | (np.isnan(out) & missing)
    if not finite.all():
        i, j = (int(k) for k in np.argwhere(~finite)[0])
        value = (cells[0][i * schema.dimensions + j] if schema.list_column else cells[j][i]).as_py()
        problem = "a missing value" if value is None else "NaN" if math.isnan(value) else f"{value:g}"
        where = f"column {schema.dimension_names[j]!r}, {_row(path, start + i)}"
        raise InputError(
            f"{path}: {where}: expected a number that is finite in {np.dtype(kind)}, found {problem}"
        )
    return out


def _cells(batch: pa.RecordBatch, schema: TableSchema, path: Path, start: int) -> list[Any]:
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
        where = f"column {name!r}, {_row(path, start + i)}"
        raise InputError(f"{path}: {where}: expected a list of {length} numbers, found {problem}")
    return [column.flatten()]


def _refuse_text(path: Path, name: str, cells: Any) -> None:
    """Name the first cell that makes Arrow take a CSV column for text, which says more than the type."""
    if cells is None or not pa.types.is_string(cells.type):
        return
    i = next((i for i, cell in enumerate(cells) if not _is_number(cell.as_py())), 0)
    raise InputError(
        f"{path}: column {name!r}, {_row(path, i)}: expected a number, found {cells[i].as_py()!r}; "
        f"{LEAVE_OUT}"
    )


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        float(text)
        return True
    return False


def _row(path: Path, index: int) -> str:
    """A row as its reader counts: in .csv by the lines of an editor."""
    if path.suffix.lower() == ".csv":
        return f"row {index + 2} (the header is row 1)"
    return f"row {index + 1} (the first is row 1)"


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"


def extension_of(path: Path) -> str:
    """The file name's extension, in small letters.

    Raises:
        InputError: it is none of `FORMATS`.
    """
    extension = path.suffix.lower()
    if extension not in FORMATS:
        raise InputError(f"{path}: expected a file ending in {', '.join(FORMATS)}, found {extension!r}")
    return extension


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns `DAMAGE` into an InputError that names the place, if it is known."""
    try:
        yield
    except InputError:
        raise
    except DAMAGE as error:
        text = " ".join(str(error).split())
        if cell := re.search(r"CSV column #(\d+): Row #(\d+): .*invalid value '(.*)'", text):
            names = pa.csv.open_csv(path).schema.names
            where = f"column {names[int(cell[1])]!r}, {_row(path, int(cell[2]) - 2)}"
            raise InputError(f"{path}: {where}: expected a number, found {cell[3]!r}; {LEAVE_OUT}") from None
        if line := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text):
            where = _row(path, int(line[1]) - 2)
            raise InputError(f"{path}: {where}: expected {line[2]} fields, found {line[3]}") from None
        kind = FORMATS[path.suffix.lower()]
        raise InputError(f"{path} is not readable as {kind}: {text[:200] or type(error).__name__}") from None
