"""Files of tables, read in record batches: Parquet, Arrow and NumPy (`csv_tables`: text; `parquet_folders`: many files)."""

import tokenize
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.ipc
import pyarrow.parquet

from ndsm.core.uris import COMPRESSED, Location, is_uri, one_line
from ndsm.errors import InputError

FORMATS = {".npy": "NumPy", ".csv": "CSV", ".parquet": "Parquet", ".arrow": "Arrow", ".feather": "Arrow"}
"""Formats that are read and written, by extension."""

TEXT = (".csv", ".tsv")
"""Extensions of text, which is also read compressed (`uris.COMPRESSED`)."""

DAMAGE = (
    *(pa.ArrowException, OSError, EOFError, ValueError, KeyError),
    # What numpy's parser of the .npy header lets through.
    *(SyntaxError, tokenize.TokenError, TypeError, OverflowError),
)
"""What the readers raise on a damaged file."""

PLAIN_ROWS = 1 << 16
"""Rows per batch of columns that are passed on unchanged."""

REMOTE_BYTES = 1 << 26
"""Bytes to read ahead, over all columns, of a Parquet file on another machine."""


def format_of(path: str | Path) -> str:
    """The format of a file to read: one of the values of `FORMATS`.

    Raises:
        InputError: its extension is none that is read.
    """
    # Options of the file system may follow in a URI.
    name = Path(str(path).partition("?")[0] if is_uri(path) else path)
    extension = name.suffix.lower()
    if (Path(name.stem).suffix.lower() if extension in COMPRESSED else extension) in TEXT:
        return "CSV"
    if extension not in FORMATS:
        raise InputError(
            f"{path}: expected a folder of Parquet files or a file ending in {', '.join(FORMATS)}, .tsv or .csv.gz, found "
            f"{extension!r}"
        )
    return FORMATS[extension]


def kind_of(path: str | Path) -> str:
    """The format of the table at a path or URI; of a folder, the format of its files.

    Raises:
        InputError: as `format_of`, or the storage does not answer.
    """
    is_folder = locate(path).info().type == pa.fs.FileType.Directory
    return "Parquet" if is_folder else format_of(path)


def locate(path: str | Path) -> Location:
    """The location of the table at a path or URI.

    Raises:
        InputError: as `open_uri`.
    """
    return Location.of(path, "data.path", "s3://bucket/table.parquet")


def extension_of(path: Path) -> str:
    """The extension of a file to write, in lower case.

    Raises:
        InputError: it is none of `FORMATS`.
    """
    extension = path.suffix.lower()
    if extension not in FORMATS:
        raise InputError(f"{path}: expected a file ending in {', '.join(FORMATS)}, found {extension!r}")
    return extension


class Reader:
    """Reads the record batches of a table on disk.

    Args:
        location: of the file.

    Raises:
        InputError: the file cannot be read.
    """

    kind: ClassVar[str]
    """One of the values of `FORMATS`."""
    schema: pa.Schema
    """Schema of all columns of the file."""

    def __init__(self, location: Location) -> None:
        self.location = location

    def measure(self, names: Sequence[str]) -> tuple[pa.Schema, int]:
        """The types of these columns, and the number of rows."""
        raise NotImplementedError

    def check_columns(self) -> None:
        """Raise InputError unless all columns can be read together."""

    def batches(self, names: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        """Yield record batches of these columns, of `size` rows or of the file's own batch size."""
        raise NotImplementedError

    def plain_batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield record batches of columns of any type, unchanged."""
        return self.batches(names, PLAIN_ROWS)

    def labels(self, name: str) -> pa.ChunkedArray:
        """One column of labels as a whole, of whatever type."""
        return pa.chunked_array(
            [batch.column(0) for batch in self.plain_batches([name])], self.schema.field(name).type
        )

    def row(self, index: int) -> str:
        """Name a row in error messages, counted as a reader of the file would."""
        return f"row {index + 1} (the first is row 1)"

    def problem(self, error: BaseException) -> str:
        """Describe in a sentence what the reader raised."""
        return unreadable(self.location.name, self.kind, error)

    def readable(self) -> AbstractContextManager[None]:
        """A context that turns `DAMAGE` into an InputError that names the place, if it is known."""
        return readable(self.problem)


@contextmanager
def readable(problem: Callable[[BaseException], str]) -> Iterator[None]:
    """Turns `DAMAGE` into an InputError with what `problem` says of it."""
    try:
        yield
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(problem(error)) from None


def unreadable(name: str | Path, kind: str, error: BaseException) -> str:
    """Describe in a sentence why a file is not readable in its format."""
    return f"{name} is not readable as {kind}: {one_line(error)}"


class ParquetReader(Reader):
    """One Parquet file."""

    kind = "Parquet"

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        self.paths = [location.path]
        with self.readable(), location.open() as source, pa.parquet.ParquetFile(source) as file:
            self.rows, self.schema = file.metadata.num_rows, file.schema_arrow

    def measure(self, names: Sequence[str]) -> tuple[pa.Schema, int]:
        return pa.schema([self.schema.field(name) for name in names]), self.rows

    def batches(self, names: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        # Without these, Arrow loads row groups as a whole and keeps them: in time a second copy of the file.
        # A request over the network has a high fixed cost, so ask for more at once.
        buffer = 1 << 18 if self.location.is_local else max(1 << 18, REMOTE_BYTES // max(1, len(names)))
        with (
            self.location.open() as source,
            pa.parquet.ParquetFile(source, buffer_size=buffer, pre_buffer=False) as file,
        ):
            yield from file.iter_batches(batch_size=size, columns=list(names), use_threads=False)


class ArrowReader(Reader):
    """One Arrow file or stream; on this machine it is memory-mapped."""

    kind = "Arrow"

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        with self.readable(), self._open() as (self.schema, _):
            pass

    def measure(self, names: Sequence[str]) -> tuple[pa.Schema, int]:
        with self._open() as (schema, batches):
            rows = sum(batch.num_rows for batch in batches)
        return pa.schema([schema.field(name) for name in names]), rows

    def batches(self, names: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        with self._open() as (_, batches):
            for batch in batches:
                used = batch.select(list(names))
                # A mapped file is not checked otherwise: damaged list offsets would read outside of it.
                used.validate(full=True)
                yield used

    @contextmanager
    def _open(self) -> Iterator[tuple[pa.Schema, Iterator[pa.RecordBatch]]]:
        local = self.location.is_local
        with pa.memory_map(self.location.path) if local else self.location.open() as source:
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


class NpyReader(Reader):
    """One .npy file of shape (n, d), as a list column named "x"."""

    kind = "NumPy"

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        with self.readable(), location.open() as source:
            self._read_header(source)
        # Arrow knows the machine's own byte order only, and no float of more than 64 bits.
        wide = self._kind.itemsize > 8
        self._target = np.dtype(np.float64) if wide else self._kind.newbyteorder("=")
        self.schema = pa.schema([("x", pa.list_(pa.from_numpy_dtype(self._target), self._shape[1]))])

    def _read_header(self, source: Any) -> None:
        name = self.location.name
        if source.read(2) == b"PK":
            raise InputError(f"{name}: expected one array, found an archive")
        source.seek(0)
        version = np.lib.format.read_magic(source)
        read = np.lib.format.read_array_header_1_0
        # Version 3 differs from 2 in the names of fields, which arrays of numbers do not have.
        shape, self._columns_first, self._kind = (
            read(source) if version == (1, 0) else np.lib.format.read_array_header_2_0(source)
        )
        self._begin = source.tell()
        if self._kind.kind not in "fiu":
            raise InputError(f"{name}: expected an array of real numbers, found dtype {self._kind}")
        if len(shape) != 2 or shape[1] == 0:
            raise InputError(f"{name}: expected an array of shape (rows, dimensions), found {shape}")
        self._shape = shape
        expected = self._begin + shape[0] * shape[1] * self._kind.itemsize
        if source.size() < expected:
            raise ValueError(f"expected {expected} bytes, found {source.size()}")

    def measure(self, names: Sequence[str]) -> tuple[pa.Schema, int]:
        return self.schema, self._shape[0]

    def batches(self, names: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        rows, width = self._shape
        with self.location.open() as source:
            for start in range(0, rows, size):
                part = self._rows(source, start, min(size, rows - start))
                values = pa.array(np.ascontiguousarray(part, dtype=self._target).reshape(-1))
                yield pa.RecordBatch.from_arrays([pa.FixedSizeListArray.from_arrays(values, width)], ["x"])

    def _rows(self, source: pa.NativeFile, start: int, count: int) -> np.ndarray:
        """Rows (count, d) from `start` on, in the file's own type."""
        (rows, width), step = self._shape, self._kind.itemsize

        def numbers(first: int, many: int) -> np.ndarray:
            return np.frombuffer(source.read_at(many * step, self._begin + first * step), self._kind)

        if self._columns_first:
            return np.stack([numbers(j * rows + start, count) for j in range(width)], 1)
        return numbers(start * width, count * width).reshape(count, width)
