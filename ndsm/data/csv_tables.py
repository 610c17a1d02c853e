"""Tables as text, read in record batches: .csv and .tsv, compressed or not."""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv

from ndsm.config import Csv
from ndsm.core.uris import COMPRESSED, Location
from ndsm.data.cells import expected_cells, is_learned, is_number
from ndsm.data.labels import from_texts
from ndsm.data.table_formats import Reader
from ndsm.errors import InputError

LEAVE_OUT = "data.columns can leave the column out"


class CsvReader(Reader):
    """One file of text with column names in the first row.

    Args:
        csv: how it is written.
        known: types of columns, by name. Where they hold true/false or times, they count in place of those of the first rows.
    """

    kind = "CSV"

    def __init__(self, location: Location, csv: Csv, known: Mapping[str, pa.DataType] | None = None) -> None:
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
            for name, kind in (known or {}).items():
                at = self.schema.get_field_index(name)
                if at >= 0 and not is_number(kind):
                    self.schema = self.schema.set(at, pa.field(name, kind))
            names = self.schema.names
            # Columns named 0, 1, 2, ... are a data frame's own names; other numbers are rows without a header.
            numbered = names == [str(j) for j in range(len(names))]
            if all(is_numeral(name) for name in names) and not numbered:
                raise InputError(
                    f"{location.name}: expected column names in the first row, found {names[0]!r}"
                )
            self._first = next(iter(reader), None)
        self._find_fractions()

    def _find_fractions(self) -> None:
        """Set the type of columns of times with fractions of a second, which Arrow takes for text."""
        if self._first is None:
            return
        for at, cells in enumerate(self._first.columns):
            text = cells[0].as_py() if len(cells) and pa.types.is_string(self.schema.field(at).type) else ""
            if re.fullmatch(r"\d\d:\d\d:\d\d\.\d{1,6}", text):
                self.schema = self.schema.set(at, pa.field(self.schema.names[at], pa.time64("us")))

    def check_columns(self) -> None:
        """Check that all columns can be read together.

        Raises:
            InputError: the first column has no name.
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
        kinds = self._kinds(names)
        whole = {name for name in names if pa.types.is_integer(self.schema.field(name).type)}
        for batch in self.batches(names, 0):
            rows += batch.num_rows
            for name in tuple(whole):
                values = batch.column(names.index(name)).to_numpy(zero_copy_only=False)
                if (values != np.rint(values)).any():
                    whole.remove(name)
        kinds |= {name: self.schema.field(name).type for name in whole}
        return pa.schema(list(kinds.items())), rows

    def _kinds(self, names: Sequence[str]) -> dict[str, pa.DataType]:
        """The types that columns are read in: true/false and times in their own, all others as numbers.

        float64, because a column that starts with integers may go on with fractions. One that starts out empty has Arrow's type
        null; the missing value is reported when it is read.
        """
        kinds = {name: self.schema.field(name).type for name in names}
        return {
            name: kind if is_learned(kind) and not is_number(kind) else pa.float64()
            for name, kind in kinds.items()
        }

    def batches(self, names: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
        with self._stream(include_columns=list(names), column_types=self._kinds(names)) as reader:
            yield from reader

    def plain_batches(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """Yield record batches of columns as text, exactly as the file spells them."""
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
        """Name a row by its line, as an editor counts lines."""
        header = self._csv.skip_rows + 1
        return f"row {header + index + 1} (the header is row {header})"

    def _line(self, number: int) -> str:
        """As `row`, of Arrow's number, which counts all lines."""
        return self.row(number - self._csv.skip_rows - 2)

    def problem(self, error: BaseException) -> str:
        text, name = " ".join(str(error).split()), self.location.name
        if cell := re.search(
            r"CSV column #(\d+): Row #(\d+): .*(?:invalid value|expected (?:a|no) zone offset in) '(.*)'",
            text,
        ):
            where = f"column {self.schema.names[int(cell[1])]!r}, {self._line(int(cell[2]))}"
            expected = expected_cells(self.schema.field(int(cell[1])).type)
            return f"{name}: {where}: expected {expected}, found {cell[3]!r}; {LEAVE_OUT}"
        if line := re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text):
            return f"{name}: {self._line(int(line[1]))}: expected {line[2]} fields, found {line[3]}"
        return super().problem(error)

    def _refuse_text(self, name: str) -> None:
        """Name the first cell that makes Arrow take a column for text, which says more than the type."""
        cells = None if self._first is None else self._first.column(self.schema.names.index(name))
        if cells is None or not pa.types.is_string(self.schema.field(name).type):
            return
        texts = cells.to_pylist()
        kinds = [self._kind_of(text) for text in texts]
        kind = next((kind for kind in kinds if kind), None)
        i = next((i for i, text in enumerate(texts) if text and (kind is None or kinds[i] != kind)), 0)
        raise InputError(
            f"{self.location.name}: column {name!r}, {self.row(i)}: expected {expected_cells(kind)}, found {texts[i]!r}; {LEAVE_OUT}"
        )

    def _kind_of(self, text: str) -> pa.DataType | None:
        """The type of a cell that can be learned, None of others."""
        if is_numeral(text.replace(self._csv.decimal_point, ".")):
            return pa.float64()
        if re.fullmatch(r"\d\d:\d\d(:\d\d)?", text):
            return pa.time32("s")
        for kind in (pa.bool_(), pa.date32(), pa.timestamp("ns")):
            with suppress(pa.ArrowInvalid):
                pa.array([text]).cast(kind)
                return kind
        return None


def delimiter_of(location: Location, csv: Csv) -> str:
    """Delimiter of a file: the one asked for, else a tab in .tsv files and a comma in others."""
    name = Path(location.path)
    stem = name.stem if name.suffix.lower() in COMPRESSED else name.name
    return csv.delimiter or ("\t" if Path(stem).suffix.lower() == ".tsv" else ",")


def is_numeral(text: str) -> bool:
    """Whether a text is a number."""
    with suppress(ValueError):
        float(text)
        return True
    return False
