"""Conversion of a column's cells to numbers and back: the one place that knows which Arrow types are learned.

Whole numbers, decimals and floating-point numbers are themselves, true/false are 1 and 0, and dates, times and durations
count in their type's own unit: days or fractions of a second, since 1970 or midnight.
"""

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

LEARNED = "numbers, true/false, dates or times"
"""What a column can hold, for messages."""

SECONDS_PER_DAY = 24 * 60 * 60
DECIMALS = {
    "32": pa.decimal32, "64": pa.decimal64, "128": pa.decimal128, "256": pa.decimal256
}  # fmt: skip
PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}


def is_learned(kind: pa.DataType) -> bool:
    """Whether a column of this type can be learned."""
    t = pa.types
    return t.is_boolean(kind) or is_number(kind) or is_time(kind)


def is_number(kind: pa.DataType) -> bool:
    """Whether the cells are numbers."""
    t = pa.types
    return t.is_integer(kind) or t.is_floating(kind) or t.is_decimal(kind)


def is_time(kind: pa.DataType) -> bool:
    """Whether the cells are dates, times or durations."""
    t = pa.types
    return t.is_date32(kind) or t.is_timestamp(kind) or t.is_time(kind) or t.is_duration(kind)


def precision_of(name: str) -> type:
    """The floating-point type that holds a column's numbers, given the name of its Arrow type: its own, or else float64."""
    kind = type_of_name(name)
    return np.dtype(kind.to_pandas_dtype()).type if pa.types.is_floating(kind) else np.float64


def fits(found: pa.DataType, learned: pa.DataType) -> bool:
    """Whether cells of a type can be values of a column that was learned with another: numbers, or times of one sort."""
    t = pa.types
    if not (is_time(learned) and is_time(found)):
        return is_learned(found) and not is_time(found) and not is_time(learned)
    return (t.is_time(found), t.is_duration(found)) == (t.is_time(learned), t.is_duration(learned))


def expected_cells(kind: pa.DataType | None) -> str:
    """Name what the cells of a column of this type hold, None for any learned type; for error messages."""
    if kind is None:
        return "a number, true/false, a date or a time"
    if pa.types.is_boolean(kind):
        return "true or false"
    return f"type {kind}" if is_time(kind) else "a number"


def type_of_name(name: str) -> pa.DataType:
    """The Arrow type whose name `str` gives, such as "double" or "timestamp[us, tz=UTC]".

    Raises:
        ValueError: there is no such type.
    """
    if zoned := re.fullmatch(r"timestamp\[(\w+), tz=(.+)\]", name):
        return pa.timestamp(zoned[1], zoned[2])
    if decimal := re.fullmatch(r"decimal(\d+)\((\d+), (-?\d+)\)", name):
        return DECIMALS[decimal[1]](int(decimal[2]), int(decimal[3]))
    return pa.type_for_alias(name)


def in_unit(column: pa.Array, unit: pa.DataType | None) -> pa.Array:
    """Convert a column of times to the unit of another type; unchanged if None."""
    return column if unit is None else column.cast(unit, safe=False)


def to_floats(column: pa.Array) -> np.ndarray:
    """The values (n,) of a learned column in float64, with NaN where one is missing."""
    if is_time(column.type):
        column = column.cast(_storage(column.type))
    elif pa.types.is_decimal(column.type):
        # Arrow's direct conversion does not always give the nearest float64.
        column = column.cast(pa.string())
    return np.asarray(pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def from_text(text: str, kind: pa.DataType | None) -> float:
    """The value of a cell that is typed: a number, or what a column of this type holds, such as "true" or "2020-01-31".

    Raises:
        ValueError: it is neither.
    """
    try:
        return float(text)
    except ValueError:
        if kind is None or is_number(kind):
            raise
    try:
        return float(to_floats(pa.array([text]).cast(kind))[0])
    except pa.ArrowNotImplementedError as error:
        raise ValueError(str(error)) from None


def to_cells(values: np.ndarray, kind: pa.DataType) -> pa.Array:
    """The column (n,) of a learned type that has these values; NaN is null, except of floating-point numbers.

    Whole numbers, decimals, true/false and times are rounded and clipped to what the type holds.
    """
    values = np.ascontiguousarray(values)
    if pa.types.is_floating(kind):
        return pa.array(values.astype(kind.to_pandas_dtype()), kind)
    if pa.types.is_boolean(kind):
        return pa.array(values >= 0.5, kind, mask=np.isnan(values))
    if pa.types.is_decimal(kind):
        digits, scale = kind.precision, kind.scale
        # The largest number with that many digits must not round up to one digit more.
        most = np.nextafter((10.0**digits - 1) / 10.0**scale, 0.0)
        missing = np.isnan(values)
        return pa.array(
            np.clip(np.where(missing, 0.0, values).astype(np.float64), -most, most), mask=missing
        ).cast(kind)
    if is_time(kind):
        if pa.types.is_time(kind):
            values = np.clip(values, 0, SECONDS_PER_DAY * PER_SECOND[kind.unit] - 1)
        return to_cells(values, _storage(kind)).cast(kind)
    target = np.dtype(kind.to_pandas_dtype())
    low, high = float(np.iinfo(target).min), float(np.iinfo(target).max)
    # As a float, the largest 64-bit integer rounds up to a number that overflows.
    high = high if int(high) <= np.iinfo(target).max else float(np.nextafter(high, 0.0))
    missing = np.isnan(values)
    whole = np.clip(np.rint(np.where(missing, 0.0, values).astype(np.float64)), low, high)
    return pa.array(whole.astype(target), kind, mask=missing)


def cast_cells(cells: pa.Array, kind: pa.DataType, safe: bool = True) -> pa.Array:
    """The cells in another type; decimals and other numbers by way of float64, between which Arrow does not round to the nearest.

    Raises:
        pa.ArrowInvalid: the type has no room for one of them, and `safe`.
    """
    if pa.types.is_decimal(kind) and not pa.types.is_decimal(cells.type):
        return to_cells(to_floats(cells), kind)
    if pa.types.is_decimal(cells.type) and not pa.types.is_decimal(kind):
        cells = pa.array(to_floats(cells), pa.float64(), from_pandas=True)
    return cells.cast(kind, safe=safe)


def holds(kind: pa.DataType, cells: pa.Array) -> bool:
    """Whether the cells are the same after a cast to the type and back."""
    try:
        back = cast_cells(cast_cells(cells, kind), cells.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return False
    return pc.all(pc.equal(back, cells)).as_py() is not False


def overlaid(known: pa.Array, drawn: pa.Array, safe: bool = False) -> pa.Array:
    """Known cells (n,) in the type of drawn ones, and these where a known one is null.

    Raises:
        pa.ArrowInvalid: the type has no room for a known cell, and `safe`.
    """
    return pc.coalesce(cast_cells(known, drawn.type, safe), drawn)


def _storage(kind: pa.DataType) -> pa.DataType:
    """Integer type that stores a type of times."""
    return pa.int32() if kind.bit_width == 32 else pa.int64()
