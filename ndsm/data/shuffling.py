"""Shuffling and splitting: where each row of a source lies in the arrays of a data set."""

import numpy as np

from ndsm.config import Data
from ndsm.core.rng import numpy_stream
from ndsm.errors import InputError

CHUNK_ROWS = 5_000
"""Rows per shuffle chunk."""


def training_rows(config: Data, rows: int, source: str) -> int:
    """How many of the shuffled rows are training rows.

    Raises:
        InputError: fewer than two.
    """
    cut = rows - int(rows * config.validation_fraction)
    if cut < 2:
        raise InputError(
            f"{source}: expected at least 2 training rows, found {cut} of {rows} rows beside "
            f"data.validation_fraction {config.validation_fraction}"
        )
    return cut


def shuffled_positions(rows: int, n: int | None, source: str, seed: int) -> np.ndarray:
    """New position (rows,) of each row; positions from n on are not used."""
    if n is not None and n > rows:
        raise InputError(f"data.n is {n}, but {source} has {rows} rows: expected at most as many")
    # For narrow tables int64 positions would take as much memory as the rows.
    position = np.arange(rows, dtype=np.int32 if rows < 2**31 else np.int64)
    numpy_stream(seed, "shuffle").shuffle(position)
    return position


def scatter(out: np.ndarray, position: np.ndarray, batch: np.ndarray) -> None:
    used = position < len(out)
    out[position[used]] = batch[used]


def place(source: np.ndarray, position: np.ndarray, n: int | None) -> np.ndarray:
    """The shuffled first n of rows (rows, ...) that are in memory, as float32 or int64."""
    kind = np.int64 if np.issubdtype(source.dtype, np.integer) else np.float32
    out = np.empty((n or len(source), *source.shape[1:]), dtype=kind)
    # By chunks, because choosing rows copies them: 190 MB for all of MNIST.
    for start in range(0, len(source), CHUNK_ROWS):
        scatter(out, position[start : start + CHUNK_ROWS], source[start : start + CHUNK_ROWS])
    return out
