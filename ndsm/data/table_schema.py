"""How the d dimensions of the rows lie in the columns of a table."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from ndsm.data.cells import type_of_name

FLOAT32_TYPES = {"float", "halffloat", "bool", "int8", "int16", "uint8", "uint16"}
"""Arrow types whose numbers are all exact in float32."""


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
        value = type_of_name(self.value_type)
        if self.kind == "fixed_size_list":
            return pa.list_(value, self.length)
        return pa.list_(value) if self.kind == "list" else pa.large_list(value)


@dataclass(frozen=True)
class TableSchema:
    """How the d dimensions lie in columns: d columns in order, or one list column."""

    columns: tuple[tuple[str, str], ...] = ()
    """(name, Arrow type) of the columns; empty if there is a list column."""
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

    @property
    def precision(self) -> type:
        """float32 if it holds every number of the columns' types, else float64."""
        kinds = {kind for _, kind in self.flat().columns}
        return np.float32 if kinds <= FLOAT32_TYPES else np.float64

    def arrow_schema(self) -> pa.Schema:
        """The Arrow schema of the table."""
        if self.list_column:
            return pa.schema([(self.list_column.name, self.list_column.arrow_type())])
        return pa.schema([(name, type_of_name(kind)) for name, kind in self.columns])

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
