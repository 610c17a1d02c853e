"""Labels of any kind - text, true/false, whole numbers, dates, bytes - as numbers 0, 1, ..., and back."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ndsm.data.cells import is_time, type_of_name
from ndsm.errors import InputError

MOST = 2**15 - 1
"""Largest number of different labels: simulated rows carry them as 16-bit integers."""


@dataclass(frozen=True)
class Labels:
    """The different labels of a data set; their numbers are their places in order."""

    values: tuple[Any, ...]
    """In ascending order, as Python has them."""
    kind: str
    """Their Arrow type, such as "string"."""
    column: str = "label"
    """Name of the column that holds them."""

    @classmethod
    def of(cls, column: pa.Array | pa.ChunkedArray, name: str, where: str) -> tuple[Self, np.ndarray]:
        """The labels of a column (n,), and the number of each row's, (n,) int64.

        Args:
            name: of the column.
            where: what the column is called in an error.

        Raises:
            InputError: a label is missing, is no whole number among numbers, or the type is none of a label's.
        """
        cells = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if pa.types.is_dictionary(cells.type):
            cells = cells.dictionary_decode()
        kind = _plain(cells.type)
        if kind is None:
            raise InputError(
                f"{where}: expected labels that are text, true/false, whole numbers or dates, found type {column.type}"
            )
        if pa.types.is_floating(kind):
            cells = pc.if_else(pc.is_nan(cells), pa.scalar(None, cells.type), cells)
        if cells.null_count:
            row = cells.is_null().index(pa.scalar(True)).as_py() + 1
            raise InputError(f"{where}: expected a label for each row, found a missing one in row {row}")
        cells = cells.cast(kind)
        if pa.types.is_floating(kind):
            numbers = cells.to_numpy()
            if (wrong := numbers != np.rint(numbers)).any():
                row = int(wrong.argmax())
                raise InputError(
                    f"{where}: expected labels, whole numbers or text, found the number {numbers[row]:g} in row {row + 1}; what "
                    "is measured is learned as a column of the rows, or cut into classes first"
                )
        different = cells.unique()
        if len(different) > MOST:
            raise InputError(f"{where}: expected at most {MOST} different labels, found {len(different)}")
        values = sorted(different.to_pylist())
        numbers = pc.index_in(cells, value_set=pa.array(values, kind)).to_numpy(zero_copy_only=False)
        return cls(tuple(values), str(kind), name), numbers.astype(np.int64)

    def check_repeated(self, rows: int, where: str) -> None:
        """Check that the labels of so many rows can be classes.

        Raises:
            InputError: most rows have a label that no other row has.
        """
        if len(self.values) > max(20, rows // 2):
            raise InputError(
                f"{where}: expected labels that rows share, found {len(self.values)} different ones in {rows} rows of "
                f"{self.column!r}; what is measured is learned as a column of the rows, or cut into classes first"
            )

    @classmethod
    def of_run(cls, data: dict[str, Any], classes: int) -> Self:
        """The labels of a run.

        Args:
            data: the run's `data.json`.
            classes: their number, `network.classes`.
        """
        if "labels" in data:
            return cls.from_json(data["labels"])
        # "classes" is what earlier versions wrote of a fit in Python; folders of images have "class_names".
        names = data.get("classes") or data.get("class_names")
        if names and classes:
            return cls(tuple(names), str(pa.array(names).type))
        return cls(tuple(range(classes)), "int64")

    def to_json(self) -> dict[str, Any]:
        """A plain dict for JSON: dates as text, bytes in base 64."""
        kind = type_of_name(self.kind)
        values: Sequence[Any] = self.values
        if pa.types.is_binary(kind):
            values = [base64.b64encode(value).decode("ascii") for value in values]
        elif is_time(kind):
            values = pa.array(values, kind).cast(pa.string()).to_pylist()
        return {"column": self.column, "type": self.kind, "values": list(values)}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> Self:
        """The labels that `to_json` wrote."""
        kind, values = type_of_name(tree["type"]), tree["values"]
        if pa.types.is_binary(kind):
            values = [base64.b64decode(value) for value in values]
        elif is_time(kind):
            values = pa.array(values, pa.string()).cast(kind).to_pylist()
        return cls(tuple(values), tree["type"], tree["column"])

    @property
    def texts(self) -> list[str]:
        """The labels as one types them on the command line."""
        return [_text(value) for value in self.values]

    @property
    def field(self) -> pa.Field:
        """The column that holds them."""
        return pa.field(self.column, type_of_name(self.kind))

    def array(self, numbers: np.ndarray) -> pa.Array:
        """The column (n,) of the labels with these numbers."""
        return pa.array(self.values, type_of_name(self.kind)).take(pa.array(numbers))

    def number(self, label: Any) -> int:
        """The number of a label.

        Raises:
            InputError: it is none of them.
        """
        for number, value in enumerate(self.values):
            if value == label:
                return number
        listed = ", ".join(map(repr, self.values[:20])) or "none: the model was trained without"
        raise InputError(f"label: expected one of {listed}, found {label!r}")

    def number_of_text(self, text: str) -> int:
        """The number of a label that is typed, such as "yes", "3", "true" or "2020-01-31".

        Labels that are no numbers themselves are also known by their numbers.

        Raises:
            InputError: it is none of them.
        """
        if not self.values:
            raise InputError(
                f"label: expected none: the run was trained without (network.classes), found {text}"
            )
        texts, kind = self.texts, type_of_name(self.kind)
        if text in texts:
            return texts.index(text)
        if is_time(kind) or pa.types.is_boolean(kind):
            try:
                return self.values.index(pa.array([text.lower()]).cast(kind)[0].as_py())
            except (pa.ArrowInvalid, ValueError):
                pass
        numbered = not (pa.types.is_integer(kind) or pa.types.is_floating(kind))
        if numbered and text.isdecimal() and int(text) < len(texts):
            return int(text)
        raise InputError(f"label: expected one of {', '.join(texts[:20])}, found {text!r}")


def from_texts(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Convert a text column to true/false, whole numbers or dates if every cell is one; empty cells are missing."""
    column = pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)
    for kind in (pa.int64(), pa.float64(), pa.bool_(), pa.date32()):
        try:
            return column.cast(kind)
        except pa.ArrowInvalid:
            continue
    return column


def _plain(kind: pa.DataType) -> pa.DataType | None:
    """Arrow type in which labels of this type are kept, None if labels cannot have it."""
    t = pa.types
    if t.is_string(kind) or t.is_large_string(kind) or t.is_string_view(kind):
        return pa.string()
    if t.is_binary(kind) or t.is_large_binary(kind) or t.is_fixed_size_binary(kind) or t.is_binary_view(kind):
        return pa.binary()
    if t.is_floating(kind):
        return pa.float64()
    return kind if t.is_boolean(kind) or t.is_integer(kind) or is_time(kind) else None


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) else str(value)
