"""Tables as text, read in record batches: .csv and .tsv, compressed or not."""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from ndsm.config import Csv
from ndsm.data.labels import from_texts
from ndsm.data.table_formats import Reader
from ndsm.errors import InputError
from ndsm.uris import COMPRESSED, Location

LEAVE_OUT = "data.columns can leave the column out"


class CsvReader(Reader):
    """One file of text with column names in the first row; see `Csv` for the arguments beside its place."""

    kind = "CSV"

    def __init__(self, location: Location, csv: Csv) -> None:
        super().__init__(location)
        self._csv = csv
        self._delimiter = delimiter_of(location, csv)
        if self._delimiter == csv.decimal_point:
            raise InputError(
                f"{location.name}: expected another data.csv.delimiter than data.csv.decimal_point, found "
                f"{self._delimiter!r} for both"
            )
        with self.readable(), self._stream() as reader:
            self.schema = reader.schema
            found = self.schema.names
            # Columns named 0, 1, 2, ... are a data frame's own names; other numbers are rows without a header.
            numbered = found == [str(j) for j in range(len(found))]
            if all(is_number(name) for name in found) and not numbered:
                raise InputError(
                    f"{location.name}: expected column names in the first row, found {found[0]!r}"
                )
            self._first = next(iter(reader), None)

    def check_columns(self) -> None:
        """Nothing, if all columns can be read together.

        Raises:
            InputError: the first one has no name.
        """
        if self.schema.names[0] == "":
            raise InputError(
                f"{self.location.name}: expected a name for the first column, found none, as where pandas has written the "
                "index of a data frame; write the file by to_csv(index=False), or name the columns to learn by data.columns"
            )

    def _stream(self, **convert: Any) -> Any:
        return pa.csv.open_csv(
            self.location.stream(),
            # Without threads: only then do Arrow's messages tell the row.
            read_options=pa.csv.ReadOptions(
                use_threads=False, skip_rows=self._csv.skip_rows, encoding=self._csv.encoding
            ),
            parse_options=pa.csv.ParseOptions(delimiter=self._delimiter),
            convert_options=pa.csv.ConvertOptions(decimal_point=self._csv.decimal_point, **convert),
        )

    def measure(self, names: Sequence[str]) -> tuple[pa.Schema, int]:
        """The types of these columns, integers where all rows hold some, and the number of rows, by one pass over the file.

        Raises:
            InputError: a column holds text.
        """
        for name in names:
            self._refuse_text(name)
        rows = 0
        kinds = {name: self.schema.field(name).type for name in names}
        whole = {name for name, kind in kinds.items() if pa.types.is_integer(kind)}
        for batch in self.batches(names, 0):
            rows += batch.num_rows
            for name in tuple(whole):
                values = batch.column(names.index(name)).to_numpy(zero_copy_only=False)
                if (values != np.rint(values)).any():
                    whole.remove(name)
        # A column that starts out empty has Arrow's type null; the missing value is reported when it is read.
        kinds |= {name: pa.float64() for name, kind in kinds.items() if pa.types.is_null(kind)}
        kinds |= {
            name: pa.float64()
            for name, kind in kinds.items()
            if pa.types.is_integer(kind) and name not in whole
        }
        return pa.schema(list(kinds.items())), rows

    def batches(self, names: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        # float64, because a column that starts with integers may go on with fractions.
        with self._stream(
            include_columns=list(names), column_types={n: pa.float64() for n in names}
        ) as reader:
            yield from reader

    def plain_batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Columns as text, which loses nothing of what is written in the file."""
        with self._stream(
            include_columns=list(names), column_types={n: pa.string() for n in names}
        ) as reader:
            yield from reader

    def labels(self, name: str) -> pa.ChunkedArray:
        # The first rows do not tell the type of all.
        return from_texts(
            pa.chunked_array([batch.column(0) for batch in self.plain_batches([name])], pa.string())
        )

    def row(self, index: int) -> str:
        """A row as it is counted by the lines of an editor."""
        header = self._csv.skip_rows + 1
        return f"row {header + index + 1} (the header is row {header})"

    def _line(self, number: int) -> str:
        """As `row`, of Arrow's number, which counts all lines."""
        return self.row(number - self._csv.skip_rows - 2)

    def problem(self, error: BaseException) -> str:
        text, name = " ".join(str(error).split()), self.location.name
        if cell := re.search(r"CSV column #(\d+): Row #(\d+): .*invalid value '(.*)'", text):
            where = f"column {self.schema.names[int(cell[1])]!r}, {self._line(int(cell[2]))}"
            return f"{name}: {where}: expected a number, found {cell[3]!r}; {LEAVE_OUT}"
        if line := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text):
            return f"{name}: {self._line(int(line[1]))}: expected {line[2]} fields, found {line[3]}"
        return super().problem(error)

    def _refuse_text(self, name: str) -> None:
        """Name the first cell that makes Arrow take a column for text, which says more than the type."""
        cells = None if self._first is None else self._first.column(self.schema.names.index(name))
        if cells is None or not pa.types.is_string(cells.type):
            return
        i = next((i for i, cell in enumerate(cells) if not self._is_number(cell.as_py())), 0)
        raise InputError(
            f"{self.location.name}: column {name!r}, {self.row(i)}: expected a number, found {cells[i].as_py()!r}; "
            f"{LEAVE_OUT}"
        )

    def _is_number(self, text: str) -> bool:
        return is_number(text.replace(self._csv.decimal_point, "."))


def delimiter_of(location: Location, csv: Csv) -> str:
    """What separates the fields of a file: what is asked for, else tabs in .tsv and commas in others."""
    name = Path(location.path)
    stem = name.stem if name.suffix.lower() in COMPRESSED else name.name
    return csv.delimiter or ("\t" if Path(stem).suffix.lower() == ".tsv" else ",")


def is_number(text: str) -> bool:
    """Whether a text is a number."""
    with suppress(ValueError):
        float(text)
        return True
    return False
