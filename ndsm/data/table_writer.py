"""Tables on disk: rows out, with the columns of a schema."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

from ndsm.core.atomic_file import whole_file
from ndsm.data.cells import to_cells, to_floats, type_of_name
from ndsm.data.table_formats import extension_of
from ndsm.data.table_schema import TableSchema
from ndsm.errors import InputError


class _Sink(Protocol):
    def write(self, rows: np.ndarray, extra: Sequence[pa.Array]) -> None: ...

    def close(self) -> None: ...


class _NpySink:
    """A .npy file of rows whose number is put into the header at the end."""

    def __init__(self, path: str, schema: TableSchema) -> None:
        kinds = [field.type for field in schema.flat().arrow_schema()]
        self.width, self.kind = len(kinds), "<f4" if schema.precision is np.float32 else "<f8"
        self.whole = {j: kind for j, kind in enumerate(kinds) if not pa.types.is_floating(kind)}
        self.rows = 0
        self.file = open(path, "wb")  # noqa: SIM115  # closed by close()
        self._write_header()

    def _write_header(self) -> None:
        # numpy pads this header so that it keeps its length whatever the first dimension is.
        header = {"descr": self.kind, "fortran_order": False, "shape": (self.rows, self.width)}
        self.file.seek(0)
        np.lib.format.write_array_header_1_0(self.file, header)

    def write(self, rows: np.ndarray, extra: Sequence[pa.Array]) -> None:
        out = np.array(rows, dtype=self.kind)
        for j, kind in self.whole.items():
            out[:, j] = to_floats(to_cells(rows[:, j], kind))
        self.file.write(out.data)
        self.rows += len(rows)

    def close(self) -> None:
        self._write_header()
        self.file.close()


class _ArrowSink:
    """One of Arrow's writers (Parquet, Arrow file, CSV), which share `write_batch` and `close`."""

    def __init__(self, writer: Any, schema: TableSchema, written: pa.Schema) -> None:
        self.writer = writer
        self.schema = schema
        self.arrow_schema, self.written = schema.arrow_schema(), written

    def write(self, rows: np.ndarray, extra: Sequence[pa.Array]) -> None:
        column = self.schema.list_column
        if column is None:
            cells = [to_cells(rows[:, j], field.type) for j, field in enumerate(self.arrow_schema)]
        else:
            values = to_cells(rows.reshape(-1), type_of_name(column.value_type))
            ends = np.arange(len(rows) + 1) * column.length
            if column.kind == "fixed_size_list":
                lists = pa.FixedSizeListArray.from_arrays(values, column.length)
            elif column.kind == "list":
                lists = pa.ListArray.from_arrays(pa.array(ends, pa.int32()), values)
            else:
                lists = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), values)
            cells = [lists]
        self.writer.write_batch(pa.RecordBatch.from_arrays([*cells, *extra], schema=self.written))

    def close(self) -> None:
        self.writer.close()


class TableWriter:
    """Context manager that writes rows in original units with a schema's columns, names and types.

    The format goes by the extension. A list column becomes x0, x1, ... in .csv, and .npy is (n, d), float64 unless float32
    holds every number of the columns' types. The file appears under
    its name when the context ends without an exception, and not at all else.

    Args:
        extra: further columns after the rows' own; not of .npy.

    Raises:
        InputError: the extension is unknown, the folder does not exist or cannot be written to.
    """

    def __init__(self, path: Path, schema: TableSchema, extra: Sequence[pa.Field] = ()) -> None:
        self.extension, self.path, self._extra = checked_target(path), path, tuple(extra)
        self.schema = schema.flat() if self.extension == ".csv" else schema
        for field in self._extra:
            if field.name in self.schema.arrow_schema().names:
                raise InputError(
                    f"{path}: expected another name for the column of labels than the rows' own have, found {field.name!r}"
                )
        self._partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
        self._sink: _Sink | None = None

    def __enter__(self) -> Self:
        try:
            self._sink = self._open()
        except OSError as error:
            self._partial.unlink(missing_ok=True)
            raise InputError(f"{self.path} cannot be written: {error.strerror or error}") from None
        return self

    def _open(self) -> _Sink:
        target = str(self._partial)
        if self.extension == ".npy":
            return _NpySink(target, self.schema)
        columns = pa.schema([*self.schema.arrow_schema(), *self._extra])
        return _ArrowSink(_arrow_writer(self.extension, target, columns), self.schema, columns)

    def write(self, rows: np.ndarray, extra: Sequence[pa.Array] = ()) -> None:
        """Append rows (n, d); integer columns are rounded and clipped to their type, with null for NaN.

        Args:
            extra: the cells (n,) of each further column.

        Raises:
            ValueError: the rows have another dimension, or the writer is not open.
        """
        if self._sink is None:
            raise ValueError(f"the writer of {self.path} is not open: use it in a with statement")
        if rows.ndim != 2 or rows.shape[1] != self.schema.dimensions:
            raise ValueError(f"expected rows (n, {self.schema.dimensions}), found {rows.shape}")
        self._sink.write(rows, extra)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        sink, self._sink = self._sink, None
        try:
            if sink is not None:
                sink.close()
            if kind is None:
                os.replace(self._partial, self.path)
        finally:
            self._partial.unlink(missing_ok=True)


def write_tables(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write Arrow tables of one schema to one file, .csv, .parquet or .arrow, which appears whole or not at all.

    Raises:
        InputError: as `TableWriter`; or the format has no room for a column's type.
    """
    text = extension_of(path) == ".csv"
    for j, field in enumerate(schema if text else ()):
        if pa.types.is_nested(field.type) or pa.types.is_binary(field.type):
            raise InputError(
                f"{path}: expected columns that a .csv file has room for, found type {field.type} in column {field.name!r}; "
                "give a .parquet file as --out"
            )
        if pa.types.is_dictionary(field.type):
            schema = schema.set(j, field.with_type(field.type.value_type))
    try:
        with whole_file(path) as partial, _arrow_writer(checked_target(path), str(partial), schema) as out:
            for table in tables:
                out.write_table(table.cast(schema))
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}") from None


def checked_target(path: Path) -> str:
    """The extension of a file that can be written.

    Raises:
        InputError: the extension is unknown, the path is a folder's or its folder does not exist.
    """
    extension = extension_of(path)
    if path.is_dir():
        raise InputError(f"{path} is a directory: expected a file name")
    if not path.parent.is_dir():
        raise InputError(f"{path}: expected an existing folder, found no {path.parent}")
    return extension


def _arrow_writer(extension: str, target: str, schema: pa.Schema) -> Any:
    """Arrow's own writer of .csv, .parquet or Arrow files."""
    if extension == ".csv":
        return pa.csv.CSVWriter(target, schema)
    return (
        pa.parquet.ParquetWriter(target, schema)
        if extension == ".parquet"
        else pa.ipc.new_file(target, schema)
    )
