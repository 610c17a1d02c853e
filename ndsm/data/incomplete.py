"""A table with missing numbers, and its completed copies: known cells and other columns as they are in the file."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ndsm.data.cells import cast_cells, holds, overlaid, to_cells, type_of_name
from ndsm.data.table_reader import Table
from ndsm.data.table_schema import TableSchema
from ndsm.errors import InputError

DRAW = "draw"
"""Name of the column that numbers the draws."""


@dataclass(frozen=True, eq=False)
class IncompleteTable:
    """The columns of a table, some of which a model completes.

    A completed column has the type that the model learned. Where that type does not hold all of the known cells (a fraction in
    a column of whole numbers, an integer beyond 2^53 in one of floats), the column has the file's own type instead; drawn
    numbers are rounded as the learned type demands all the same.
    """

    rows: np.ndarray
    """(n, d) float64 in the model's columns and order, NaN where a number is missing."""
    learned: dict[str, tuple[int, pa.DataType, pa.Array]]
    """By name: dimension, learned type and known cells (n,), null where one is missing."""
    others: dict[str, pa.ChunkedArray]
    """By name: the columns (n,) that the model does not know."""
    order: list[str]
    """The names of both, as in the file."""
    left_out: list[str]
    """Names of the file's other columns if they are in neither."""

    @classmethod
    def read(cls, table: Table, model: TableSchema, with_others: bool = True) -> "IncompleteTable":
        """The whole table.

        Args:
            table: with the model's columns in the model's order.
            model: what the model learned.
            with_others: whether the file's other columns are read, too.

        Raises:
            InputError: as `Table.batches`; or two columns have one name.
        """
        rows = np.concatenate(list(table.batches(np.float64, missing=True)))
        # A list column becomes one column for each dimension.
        names = table.schema.flat().dimension_names
        kinds = [type_of_name(kind) for _, kind in model.flat().columns]
        columns = table.columns()
        learned = {}
        for j, (name, kind, cells) in enumerate(zip(names, kinds, columns, strict=True)):
            if pa.types.is_floating(cells.type):
                cells = pc.if_else(pc.is_nan(cells), pa.scalar(None, cells.type), cells)
            learned[name] = (j, kind if holds(kind, cells) else cells.type, cells)
        file_names = table.reader.schema.names
        lists = [table.schema.list_column.name] if table.schema.list_column else []
        order = [part for name in file_names for part in (names if name in lists else [name])]
        if twice := [name for name, count in Counter(order).items() if count > 1]:
            raise InputError(
                f"{table.path}: expected different column names, found {twice[0]!r} more than once"
            )
        others = [name for name in order if name not in learned]
        if not with_others:
            return cls(rows, learned, {}, names, others)
        other_columns = {}
        if others:
            with table.reader.readable():
                content = pa.Table.from_batches(table.reader.plain_batches(others))
            other_columns = {name: content[name] for name in others}
        return cls(rows, learned, other_columns, order, [])

    def schema(self) -> pa.Schema:
        """The columns of `completed`."""
        kinds = {name: kind for name, (_, kind, _) in self.learned.items()}
        kinds |= {name: cells.type for name, cells in self.others.items()}
        return pa.schema([(DRAW, pa.int32()), *((name, kinds[name]) for name in self.order)])

    def completed(self, draw: int, rows: np.ndarray, model: TableSchema) -> pa.Table:
        """The table with its missing numbers taken from completed rows (n, d), after a column with the number of the draw."""
        columns = [pa.array(np.full(len(rows), draw, dtype=np.int32))]
        kinds = [type_of_name(kind) for _, kind in model.flat().columns]
        for name in self.order:
            if name in self.others:
                columns.append(self.others[name])
                continue
            j, kind, cells = self.learned[name]
            columns.append(overlaid(cells, cast_cells(to_cells(rows[:, j], kinds[j]), kind, safe=False)))
        return pa.table(columns, schema=self.schema())
