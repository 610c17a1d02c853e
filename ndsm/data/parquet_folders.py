"""Folders of Parquet files as one table: what Spark, Ray Data, Dask, pandas, pyarrow and `ndsm sample --out FOLDER` write."""

import bisect
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import accumulate

import pyarrow as pa
import pyarrow.dataset
import pyarrow.fs

from ndsm.core.uris import Location
from ndsm.data.table_formats import ParquetReader, Reader
from ndsm.errors import InputError

FOOTERS_AT_ONCE = 16
"""Files whose metadata are read concurrently: over a network each one takes a while."""


class FolderReader(Reader):
    """The Parquet files in a folder and its sub-folders, one after the other in the order of their paths.

    Folders named KEY=VALUE give each of their rows a column KEY, after the files' own columns. As for Spark, files and folders
    whose name begins with `_` or `.` are no data, unless the former is such a KEY=VALUE.

    Raises:
        InputError: there are no Parquet files or others beside them, some cannot be read, or they have different columns.
    """

    kind = "Parquet"

    def __init__(self, location: Location) -> None:
        super().__init__(location)
        with self.readable():
            self.paths = _data_files(location)
            keys = self._partition_values()
            with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
                self._files = list(pool.map(self._open, self.paths))
        schema = self._files[0].schema
        self.keys = {name: values for name, values in keys.items() if schema.get_field_index(name) < 0}
        fields = [pa.field(name, values.type) for name, values in self.keys.items()]
        self.schema = pa.schema([*schema, *fields], schema.metadata)
        self._ends = list(accumulate(file.rows for file in self._files))

    def _open(self, path: str) -> ParquetReader:
        return ParquetReader(replace(self.location, name=self._named(path), path=path))

    def _named(self, path: str) -> str:
        """Name of a file in error messages: its path in the folder."""
        return f"{self.location.name}: {self._short(path)}"

    def _short(self, path: str) -> str:
        return path[len(self.location.path) :].lstrip("/")

    def _partition_values(self) -> dict[str, pa.Array]:
        """What the folders' names say of each file, integers or floats where all of them are some.

        Raises:
            InputError: the folders of some files have other keys.
        """
        root = len(self.location.path)
        # The last part is the file's own name.
        keys = [
            [part.partition("=")[0] for part in path[root:].split("/")[:-1] if "=" in part]
            for path in self.paths
        ]
        for path, found in zip(self.paths, keys, strict=True):
            if found != keys[0]:
                raise InputError(
                    f"{self._named(path)}: expected a file in folders KEY=VALUE with the keys of the first file's, "
                    f"{', '.join(keys[0]) or 'none'}, found {', '.join(found) or 'none'}"
                )
        hive = pa.dataset.HivePartitioning(pa.schema([(key, pa.string()) for key in keys[0]]))
        rows = [pa.dataset.get_partition_keys(hive.parse(path[root:])) for path in self.paths]
        return {key: _as_numbers(pa.array([row[key] for row in rows], pa.string())) for key in keys[0]}

    def measure(self, names: Sequence[str]) -> tuple[pa.Schema, int]:
        """The types of these columns, and the number of rows.

        Raises:
            InputError: a file has not all of them, or one of another type.
        """
        kinds = pa.schema([self.schema.field(name) for name in names])
        for file in self._files[1:]:
            for name in names:
                if name in self.keys:
                    continue
                at = file.schema.get_field_index(name)
                kind = file.schema.field(at).type if at >= 0 else "no such column"
                if kind != kinds.field(name).type:
                    raise InputError(
                        f"{file.location.name}: expected column {name!r} of type {kinds.field(name).type}, as in "
                        f"{self._short(self.paths[0])}, found {kind}"
                    )
        return kinds, self._ends[-1]

    def check_columns(self) -> None:
        """Check that all files have the columns of the first one.

        Raises:
            InputError: a file has a further column.
        """
        first = self._files[0].schema.names
        for file in self._files[1:]:
            if others := [name for name in file.schema.names if name not in first]:
                raise InputError(
                    f"{file.location.name}: expected the columns of {self._short(self.paths[0])}, found column {others[0]!r} "
                    "beside them; data.columns can leave it out"
                )

    def batches(self, names: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        """The columns in record batches of `size` rows, whatever the files' sizes: results that depend on the batches do not
        depend on the files."""
        kept: list[pa.RecordBatch] = []
        waiting = 0
        for batch in self._file_batches(names, size):
            kept.append(batch)
            waiting += batch.num_rows
            while waiting >= size:
                whole = pa.concat_batches(kept) if len(kept) > 1 else kept[0]
                yield whole.slice(0, size)
                kept, waiting = [whole.slice(size)], waiting - size
        if waiting:
            yield pa.concat_batches(kept)

    def _file_batches(self, names: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        own = [name for name in names if name not in self.keys]
        for k, file in enumerate(self._files):
            for columns, rows in self._own_columns(file, own, size):
                for name in set(names) - set(own):
                    columns[name] = pa.repeat(self.keys[name][k], rows)
                yield pa.RecordBatch.from_arrays([columns[name] for name in names], list(names))

    def _own_columns(
        self, file: ParquetReader, names: Sequence[str], size: int
    ) -> Iterator[tuple[dict[str, pa.Array], int]]:
        """Columns that a file holds, by their names, and how many rows they have."""
        if not names:
            for start in range(0, file.rows, size):
                yield {}, min(size, file.rows - start)
            return
        with file.readable():
            for batch in file.batches(names, size):
                yield {name: batch.column(name) for name in names}, batch.num_rows

    def row(self, index: int) -> str:
        k = bisect.bisect_right(self._ends, index)
        begin = self._ends[k - 1] if k else 0
        return f"row {index - begin + 1} of {self._short(self.paths[k])} (the first is row 1)"


def _data_files(location: Location) -> list[str]:
    """The paths of the data in a folder, sorted.

    Raises:
        InputError: there is none, or something else beside it.
    """
    selector = pa.fs.FileSelector(location.path, recursive=True)
    found = [info.path for info in location.filesystem.get_file_info(selector) if info.is_file]
    root = len(location.path)
    paths = sorted(path for path in found if not any(map(_is_hidden, path[root:].split("/"))))
    for path in paths:
        if not path.lower().endswith(".parquet"):
            raise InputError(
                f"{location.name}: expected nothing but .parquet files in a folder of data, found {path[root:].lstrip('/')}; a "
                "file whose name begins with _ or . is passed over"
            )
    if not paths:
        raise InputError(f"{location.name} is a folder: expected .parquet files in it, found none")
    _check_complete(location, [path[root:].lstrip("/") for path in paths])
    return paths


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


def _check_complete(location: Location, names: Sequence[str]) -> None:
    """Check that a folder that `ndsm sample` writes is complete.

    Raises:
        InputError: files are missing.
    """
    file = f"{location.path}/_generation.json"
    if not location.filesystem.get_file_info(file).is_file:
        return
    with location.filesystem.open_input_stream(file) as source:
        parts = [part["file"] for part in json.loads(source.read())["parts"]]
    missing = sorted(set(parts) - set(names))
    if missing:
        raise InputError(
            f"{location.name}: expected the {len(parts)} files that `ndsm sample` was asked for, found {len(missing)} missing, "
            f"such as {missing[0]}; the same command goes on to fill the folder"
        )


def _as_numbers(values: pa.Array) -> pa.Array:
    """Convert text to integers or floats if every value is one."""
    for kind in (pa.int64(), pa.float64()):
        try:
            return values.cast(kind)
        except pa.ArrowInvalid:
            pass
    return values
