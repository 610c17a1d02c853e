"""Tables of log-densities: each row of a table under a finished run."""

from pathlib import Path

import numpy as np

from ndsm.data import TableSchema, TableWriter
from ndsm.data.dataset import dequantised
from ndsm.data.tables import Table, open_table
from ndsm.errors import InputError
from ndsm.experiment import Generator
from ndsm.likelihood import COLUMNS, linear_process
from ndsm.run import Run

SCORE_SCHEMA = TableSchema(tuple((name, "double") for name in COLUMNS))
"""What `ndsm score` writes for each row."""


class RowScorer:
    """Log-densities of rows under a finished run.

    Args:
        end, probes, seed: as `ndsm.likelihood.log_density`; `end` is generation's last step if None.
        bound: draws for a lower bound of the reverse SDE's density in place of the probability flow's.

    Raises:
        InputError: as `Generator.of`; or the run has no such bound.
    """

    def __init__(
        self,
        run: Run,
        end: float | None = None,
        probes: int | None = None,
        seed: int = 0,
        bound: int | None = None,
    ) -> None:
        self._generator, self._scaling = Generator.of(run), run.scaling()
        if bound is not None:
            linear_process(self._generator.problem.process)
        self._level, self._seed = run.config().data.dequantize, seed
        self._settings = {"end": end, "probes": probes, "bound": bound}

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """`ndsm.likelihood.COLUMNS` of rows (n, d) in original units, (n, 3); of a run with data.dequantize, of rows
        with noise of that width added."""
        if self._level is not None:
            rows = dequantised(rows, self._level, self._seed)
        found = self._generator.log_density(rows, self._scaling, seed=self._seed, **self._settings)
        return found.columns(rows.shape[1], self._level or 1.0)


def open_rows(run: Run, path: Path) -> Table:
    """The table at `path` with the columns of a run's data.

    Raises:
        InputError: the table cannot be read, or has other columns.
    """
    schema = run.schema()
    names = [schema.list_column.name] if schema.list_column else schema.dimension_names
    table = open_table(path, None if path.suffix == ".npy" else names)
    if table.schema.dimensions != schema.dimensions:
        raise InputError(
            f"{path}: expected rows of dimension {schema.dimensions} as the data of {run.path}, found "
            f"{table.schema.dimensions}"
        )
    return table


def score_table(scorer: RowScorer, table: Table, out: Path) -> float:
    """Write the log-density of each row of a table to `out`; their mean in nats."""
    total = 0.0
    with TableWriter(out, SCORE_SCHEMA) as writer:
        for rows in table.batches():
            found = scorer(rows)
            total += float(found[:, 0].sum())
            writer.write(found)
    return total / table.rows
