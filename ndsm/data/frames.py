"""Conversion of data frames (pandas, polars, PyArrow) to arrays, and of rows back to their columns and types.

A column of whole numbers, floating-point numbers, true/false, dates, times or durations is a column of numbers in its
own unit (0 and 1; days or fractions of a second since 1970). Types are kept as Arrow's, as in a table on disk.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self, cast

import narwhals as nw
import numpy as np
import pyarrow as pa
import sklearn
from narwhals.exceptions import DuplicateError

from ndsm.data import TableSchema
from ndsm.data.cells import LEARNED, fits, in_unit, is_learned, is_time, overlaid, to_cells, to_floats
from ndsm.errors import InputError

LIBRARIES = ("pandas", "polars", "pyarrow")
"""Libraries whose data frames can be returned."""


def chosen_library(estimator: Any) -> str:
    """Output container chosen by `set_output` or scikit-learn's configuration: one of `LIBRARIES`, "numpy" or "default"."""
    own = getattr(estimator, "_sklearn_output_config", {}).get("transform")
    return str(own or sklearn.get_config()["transform_output"])


def is_frame(X: Any) -> bool:
    """Whether X is a data frame of pandas, polars, PyArrow or another library that narwhals knows."""
    return nw.dependencies.is_into_dataframe(X)


@dataclass(frozen=True, eq=False)
class Frame:
    """Columns of a data frame: names, types and library."""

    container: str
    """Name of the frame's library, such as "pandas"; "numpy" for the columns of an array."""
    schema: TableSchema
    """Names, as text, and Arrow types of the columns."""
    named: bool = True
    """Whether all names are text: only then are they feature names, as in scikit-learn."""
    labels: Any = None
    """The columns' own names where they are not text: pandas' column index."""
    dtypes: tuple[str, ...] | None = None
    """pandas' types of the columns, which tell more than Arrow's: int64, Int64 and int64[pyarrow] are one there."""

    @classmethod
    def of(cls, X: Any) -> Self:
        """The columns of a data frame.

        Raises:
            InputError: two columns have one name, or a column holds no numbers, true/false, dates or times.
        """
        frame = _checked(X)
        pandas_like = frame.implementation.is_pandas_like()
        schema = []
        for name, column, dtype in _columns(frame):
            kind = column.type
            if not is_learned(kind):
                found = "only missing values" if pa.types.is_null(kind) else f"type {dtype}"
                raise InputError(
                    f"X: expected {LEARNED} in column {name!r}, found {found}; leave the column out"
                    + ("" if pa.types.is_null(kind) else ", or give it as labels y")
                )
            schema.append((str(name), str(kind)))
        named = all(isinstance(name, str) for name in frame.columns)
        if len(dict(schema)) < len(schema):
            raise InputError(
                f"X: expected columns whose names differ as text, found {list(frame.columns)[:20]}"
            )
        return cls(
            str(frame.implementation.value),
            TableSchema(tuple(schema)),
            named,
            None if named else X.columns,
            tuple(str(dtype) for dtype in X.dtypes) if pandas_like else None,
        )

    @classmethod
    def of_array(cls, rows: np.ndarray) -> Self:
        """The columns x0, x1, ... of an array (n, d), which has no names for them."""
        kind = str(pa.from_numpy_dtype(rows.dtype))
        return cls("numpy", TableSchema(tuple((f"x{j}", kind) for j in range(rows.shape[1]))), named=False)

    @classmethod
    def of_run(cls, data: dict[str, Any], source: str) -> Self:
        """The columns of a run.

        Args:
            data: the run's `data.json`.
            source: the configuration's `data.name`.
        """
        schema = TableSchema.from_json(data["schema"])
        names = schema.dimension_names
        if "frame" in data:
            frame = data["frame"]
            dtypes = frame["dtypes"] and tuple(frame["dtypes"])
            return cls(frame["library"], schema, frame["named"], dtypes=dtypes)
        # The columns of images and toys have no names of their own, nor had those of arrays.
        arrays = [f"x{j}" for j in range(len(names))]
        return cls("numpy", schema, source == "vectors" and bool(schema.columns) and names != arrays)

    @property
    def precision(self) -> np.dtype:
        """Type of arrays of these columns: float32 if none of them holds more, else float64."""
        exact = all(kind in ("float", "halffloat") for _, kind in self.schema.flat().columns)
        return np.dtype(np.float32 if exact else np.float64)

    def as_floats(self) -> Self:
        """The same columns as floating-point numbers."""
        columns = tuple((name, "double") for name in self.schema.dimension_names)
        return replace(self, schema=TableSchema(columns), dtypes=None)

    def to_json(self) -> dict[str, Any]:
        """A plain dict for JSON; the schema is kept beside it, and names that are not text are kept as text."""
        return {"library": self.container, "named": self.named, "dtypes": self.dtypes and list(self.dtypes)}

    def build(self, rows: np.ndarray, library: str | None = None, like: Any = None) -> Any:
        """A data frame of rows (n, d) in this frame's units.

        Whole numbers, true/false and dates are rounded and clipped to what their types hold.

        Args:
            library: one of `LIBRARIES`; this frame's own if None.
            like: a frame of n completed rows: its known whole numbers are taken over as they are, since float64 holds
                only those below 2⁵³, and so is a pandas index.

        Raises:
            InputError: the library is not installed.
        """
        library = library or self.container
        fields = self.schema.flat().arrow_schema()
        cells = [to_cells(rows[:, j], field.type) for j, field in enumerate(fields)]
        if like is not None:
            for j, (_, column, _) in enumerate(_columns(_checked(like))):
                kind = fields.field(j).type
                if pa.types.is_integer(column.type) and pa.types.is_integer(kind):
                    cells[j] = overlaid(column, cells[j], safe=True)
        table = pa.Table.from_arrays(cells, schema=fields)
        try:
            out = nw.from_arrow(table, backend=cast(Any, library)).to_native()
        except ModuleNotFoundError as error:
            raise InputError(
                f"expected {library} for rows as a {library} data frame, found it not installed ({error}); "
                "set_output(transform='numpy') gives arrays"
            ) from None
        if library == self.container and self.dtypes is not None:
            out = out.astype(dict(zip(self.schema.dimension_names, self.dtypes, strict=True)))
        if library == self.container and self.labels is not None:
            out.columns = self.labels
        if hasattr(out, "set_axis") and hasattr(like, "index"):
            out = out.set_axis(like.index)
        return out


def numbers(X: Any, model: Frame | None = None, exact: bool = False) -> np.ndarray:
    """The values of a data frame, (n, d) float64, with NaN where one is missing.

    Args:
        model: the columns that X should have, in this order; dates are converted to their units.
        exact: whether all numbers have to be some of their type in `model`.

    Raises:
        InputError: a column does not hold numbers, or dates where `model` has none or the other way round; or a number is none
            of its type.
    """
    frame = _checked(X)
    out = np.empty(frame.shape, dtype=np.float64)
    kinds = None if model is None else list(model.schema.flat().arrow_schema().types)
    for j, (name, column, dtype) in enumerate(_columns(frame)):
        if pa.types.is_null(column.type):
            out[:, j] = np.nan
            continue
        kind = None if kinds is None else kinds[j]
        if not (is_learned(column.type) if kind is None else fits(column.type, kind)):
            expected = LEARNED if kind is None else f"type {kind}"
            raise InputError(f"X: expected {expected} in column {name!r}, found type {dtype}")
        if kind is not None and is_time(kind):
            column = in_unit(column, kind)
        out[:, j] = to_floats(column)
        if exact and kinds is not None and not pa.types.is_floating(kinds[j]):
            kept = to_floats(to_cells(out[:, j], kinds[j]))
            if (wrong := ~np.isnan(out[:, j]) & (kept != out[:, j])).any():
                row = int(wrong.argmax())
                raise InputError(
                    f"X: expected numbers of type {kinds[j]}, as the model was fitted on, in column {name!r}, found "
                    f"{out[row, j]:g} in row {row + 1}"
                )
    return out


def label_column(y: Any, rows: int) -> tuple[Any, str]:
    """The labels y (n,) as an Arrow array, and the name of their column.

    Args:
        y: an array, a list, or a series or data frame of one column.
        rows: n.

    Raises:
        InputError: there are more or fewer than n, or they are of different kinds.
    """
    name = "label"
    if is_frame(y) and y.shape[1] == 1:
        y = next(iter(nw.from_native(y, eager_only=True).iter_columns())).to_native()
    try:
        if isinstance(y, pa.Array | pa.ChunkedArray):
            labels, shape = y, (len(y),)
        elif nw.dependencies.is_into_series(y):
            series = nw.from_native(y, series_only=True)
            labels, shape = series.to_arrow(), series.shape
            name = series.name if isinstance(series.name, str) and series.name else name
        else:
            array = np.asarray(y, dtype=object) if isinstance(y, list | tuple) else np.asarray(y)
            if array.ndim == 2 and array.shape[1] == 1:
                array = array[:, 0]
            shape = array.shape
            labels = pa.array(array, from_pandas=True) if array.ndim == 1 else None
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise InputError(f"y: expected labels of one kind, found {' '.join(str(error).split())}") from None
    if shape != (rows,):
        raise InputError(f"y: expected a label for each of the {rows} rows, found shape {np.shape(y)}")
    return labels, name


def _checked(X: Any) -> Any:
    """X as a frame of narwhals.

    Raises:
        InputError: two columns have one name.
    """
    try:
        frame = nw.from_native(X, eager_only=True)
        # Not every library is checked by the line above.
        frame.schema  # noqa: B018
        return frame
    except DuplicateError as error:
        raise InputError(
            f"X: expected columns of different names, found {' '.join(str(error).split()[5:])}"
        ) from None


def _columns(frame: Any) -> Iterator[tuple[Any, Any, str]]:
    """Name, Arrow array and native type of each column."""
    for column in frame.iter_columns():
        dtype = getattr(column.to_native(), "dtype", None)
        try:
            cells = column.to_arrow()
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise InputError(
                f"X: expected values of one kind in column {column.name!r}, found {' '.join(str(error).split())}"
            ) from None
        yield column.name, cells, str(cells.type if dtype is None else dtype)
