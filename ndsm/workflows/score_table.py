"""Tables of log-densities: each row of a table under a finished run."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ndsm.config import IMAGES, Csv
from ndsm.core.rng import numpy_stream
from ndsm.data import TableSchema, TableWriter
from ndsm.data.dequantising import check_steps, dequantised
from ndsm.data.table_formats import kind_of
from ndsm.data.table_reader import Table, open_table
from ndsm.errors import InputError
from ndsm.inference.likelihood import COLUMNS, check_end, hash_index
from ndsm.processes import require
from ndsm.runs import Run
from ndsm.workflows.trained_model import TrainedModel

SCORE_SCHEMA = TableSchema(tuple((name, "double") for name in COLUMNS))
"""Columns that `ndsm score` writes for each row."""


class RowScorer:
    """Log-densities of rows under a finished run.

    Args:
        end, probes, seed: as `ndsm.inference.likelihood.log_density`; `end` is generation's last step if None.
        bound: draws for a lower bound of the reverse SDE's density in place of the probability flow's.
        device: as `TrainedModel.of`.

    Raises:
        InputError: as `TrainedModel.of`; or the run has no such bound, or no density at `end`.
    """

    def __init__(
        self,
        run: Run,
        end: float | None = None,
        probes: int | None = None,
        seed: int = 0,
        bound: int | None = None,
        device: str | None = None,
    ) -> None:
        self._model = TrainedModel.of(run, device=device)
        if bound is not None:
            require(self._model.problem.process, "transition", "bound of the log-density")
        if end is not None:
            check_end(self._model.problem.process, end)
        self._level, self._seed = self._model.problem.config.data.dequantize, seed
        self._names = self._model.schema.dimension_names
        self._settings = {"end": end, "probes": probes, "bound": bound}

    def __call__(self, rows: np.ndarray, index: int | None = None) -> np.ndarray:
        """Return `ndsm.inference.likelihood.COLUMNS` of rows (n, d) in original units, (n, 3).

        With data.dequantize, noise of that width is added to the rows; columns with transforms have noise of their own steps.

        Args:
            index: index of that noise's random stream, one for each batch; a hash of the rows if not given.

        Raises:
            InputError: with data.dequantize, a number is not a multiple of the width.
        """
        if self._level is not None:
            check_steps(rows, self._level, self._names, "the table")
            index = hash_index(np.asarray(rows, dtype=np.float32)) if index is None else index
            # Not the training rows' own stream: the network may know the points that it makes of them by heart.
            rows = dequantised(rows, self._level, numpy_stream(self._seed, "score noise", index))
        found = self._model.log_density(rows, seed=self._seed, noise_index=index, **self._settings)
        return found.columns(rows.shape[1], self._level or 1.0)


def open_rows(run: Run, path: str | Path, csv: Csv | None = None) -> Table:
    """Open the table at `path`, which has the columns of a run's data.

    Args:
        csv: how text is written, as the run's data if not given.

    Raises:
        InputError: the table cannot be read, or has other columns.
    """
    schema, kind = run.schema(), kind_of(path)
    names: list[str] | None = [name for name, _ in schema.columns]
    if schema.list_column:
        # What `ndsm sample` makes of it where there are no lists.
        names = schema.flat().dimension_names if kind == "CSV" else [schema.list_column.name]
    if kind == "NumPy":
        names = None
    table = open_table(path, names, least=1, csv=csv or run.config().data.csv, model=schema)
    if table.schema.dimensions != schema.dimensions:
        raise InputError(
            f"{path}: expected rows of dimension {schema.dimensions} as the data of {run.path}, found "
            f"{table.schema.dimensions}"
        )
    return table.counted_as(schema)


def advice(run: Run, table: Table) -> str | None:
    """Return a warning if the table's bits per dimension are of a continuous density at discrete values, else None."""
    data = run.config().data
    first = next(table.batches())
    # From 2⁵³ on, all floating-point numbers are whole.
    whole = bool(((first == np.rint(first)) & (np.abs(first) < 2**53)).all(0).any())
    if data.dequantize is not None or run.scaling().columns is not None or not (whole or data.name in IMAGES):
        return None
    return (
        "bits_per_dim is of a continuous density at whole numbers or grey levels, which can be as low as one likes: expected "
        "a run trained with data.dequantize, found one without"
    )


def score_table(
    scorer: RowScorer, table: Table, out: Path, advance: Callable[[int], None] = lambda done: None
) -> float:
    """Write the log-density of each row of a table to `out`; return their mean in nats.

    Args:
        advance: called with the number of rows done since the last call.
    """
    total = 0.0
    with TableWriter(out, SCORE_SCHEMA) as writer:
        for index, rows in enumerate(table.batches()):
            found = scorer(rows, index)
            total += float(found[:, 0].sum())
            writer.write(found)
            advance(len(rows))
    return total / table.rows
