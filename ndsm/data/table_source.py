"""The data source `vectors`: the rows of a table on disk.

The table is streamed into its final array: each record batch is scattered to its rows' shuffled positions, of which
the training and validation rows are slices. Numbers that float32 does not hold are standardised batch by batch, in
float64 and in a second pass; others in place.
"""

from functools import partial

import numpy as np
import pyarrow as pa

from ndsm.config import Data
from ndsm.core.rng import numpy_stream
from ndsm.data.dataset import Dataset
from ndsm.data.dequantising import add_noise, check_steps
from ndsm.data.scaling import Moments, Scaling, check_resolution
from ndsm.data.shuffling import place, scatter, shuffled_positions, training_rows
from ndsm.data.standardising import scale_, scaled_batches, transformed_batches
from ndsm.data.table_reader import Table, open_table, read_labels
from ndsm.errors import InputError


def load_table(config: Data, seed: int, known: Scaling | None) -> Dataset:
    """Load the table at `data.path`."""
    if config.path is None:
        raise InputError("data.path is missing: data.name 'vectors' needs the table's file")
    # Labels first: their errors name the option that is wrong.
    kinds, every = (
        (None, None) if config.labels is None else read_labels(config.path, config.labels, config.csv)
    )
    table = open_table(config.path, config.columns, without=config.labels, csv=config.csv)
    source = table.path
    position = shuffled_positions(table.rows, config.n, source, seed)
    names, shape = table.schema.dimension_names, (config.n or table.rows, table.schema.dimensions)
    cut = training_rows(config, shape[0], source)
    rounded = not config.standardize or (known is not None and known.rounded)
    transformed = None
    if (
        config.transforms_columns
        and table.schema.list_column is None
        and (known is None or known.columns is not None)
    ):
        transformed = transformed_batches(
            config, partial(table.batches, np.float64), position, shape, cut, table.schema, source, seed, known,
            where=table.reader.row,
        )  # fmt: skip
    if transformed is not None:
        rows, scaling, stamp = transformed
    elif rounded or table.schema.precision is np.float32:
        rows, start = np.empty(shape, dtype=np.float32), 0
        for batch in table.batches(np.float32):
            scatter(rows, position[start : start + len(batch)], batch)
            start += len(batch)
        if known is None and table.schema.precision is not np.float32:
            _check_rounded(table, position, cut)
        if config.dequantize is not None:
            check_steps(rows, config.dequantize, names, source)
            add_noise(rows, config.dequantize, numpy_stream(seed, "dequantize"))
        scaling, stamp = scale_(config, rows[:cut], rows[cut:], names, source, seed, known=known)
    else:
        rows, scaling, stamp = scaled_batches(
            config, table.batches, position, shape, cut, names, source, seed, known
        )
    # Otherwise Arrow's pool keeps the memory of its largest batch during the whole training.
    pa.default_memory_pool().release_unused()
    labels = None if every is None else place(every, position, config.n)
    return Dataset(
        train=rows[:cut],
        validation=rows[cut:],
        scaling=scaling,
        schema=table.schema,
        stamp=stamp,
        train_labels=None if labels is None else labels[:cut],
        validation_labels=None if labels is None else labels[cut:],
        toy=None,
        labels=kinds,
        left_out=table.left_out,
    )


def _check_rounded(table: Table, position: np.ndarray, cut: int) -> None:
    """Raise InputError if float32 does not resolve the training rows; checked before rounding, which may leave no variation."""
    moments, start = Moments(), 0
    for batch in table.batches():
        moments.add(batch[position[start : start + len(batch)] < cut])
        start += len(batch)
    names = table.schema.dimension_names
    check_resolution(moments.mean, moments.variance, moments.varies, names, table.path)
