"""Dequantisation: uniform noise within each step of whole-numbered data, which gives the rows a density."""

from collections.abc import Sequence

import numpy as np

from ndsm.data.shuffling import CHUNK_ROWS
from ndsm.errors import InputError


def check_steps(rows: np.ndarray, width: float, names: Sequence[str], source: str) -> None:
    """Raise InputError unless all numbers of rows (n, d) are multiples of the width; others would come back rounded to one."""
    for begin in range(0, len(rows), CHUNK_ROWS):
        steps = rows[begin : begin + CHUNK_ROWS].astype(np.float64) / width
        # A grey level k / 255 and the width 1 / 255 are both rounded.
        rounding = 1e-12 if rows.dtype == np.float64 else 1e-6
        wrong = np.abs(steps - np.rint(steps)) > 1e-3 + rounding * np.abs(steps)
        if wrong.any():
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            raise InputError(
                f"data.dequantize: expected multiples of {width:g} in {source}, found "
                f"{rows[begin + row, column]:g} in column {names[column]!r}"
            )


def dequantised(rows: np.ndarray, width: float, noise: np.random.Generator) -> np.ndarray:
    """Rows (n, d) with uniform noise in [0, width) added to every number; float64 if they are, else float32.

    Row after row takes the next numbers of `noise`: equal rows get different ones.
    """
    return add_noise(rows.astype(np.float64 if rows.dtype == np.float64 else np.float32), width, noise)


def add_noise(out: np.ndarray, width: float, noise: np.random.Generator) -> np.ndarray:
    """Add the noise of `dequantised` in place; returns the same array (n, d)."""
    for begin in range(0, len(out), CHUNK_ROWS):
        part = out[begin : begin + CHUNK_ROWS]
        part += noise.uniform(0.0, width, part.shape)
    return out


def quantised(rows: np.ndarray, width: float) -> np.ndarray:
    """Undo `dequantised`: rows (n, d) rounded down to multiples of `width`, in the rows' precision."""
    return (np.floor(rows.astype(np.float64) / width) * width).astype(rows.dtype)
