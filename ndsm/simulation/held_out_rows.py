"""Which training rows are held out for early stopping."""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from ndsm.core.rng import numpy_stream
from ndsm.errors import InputError

MOST = 10_000
"""Rows that are held out, at most."""


@lru_cache(maxsize=4)
def held_out_rows(rows: int, fraction: float, seed: int) -> np.ndarray:
    """Return the indices of the held-out ones of so many training rows, in order: at least one, at most `MOST`.

    Raises:
        InputError: no rows would be left.
    """
    count = min(MOST, max(1, int(rows * fraction)))
    if rows < 2:
        raise InputError(
            f"train.patience: expected at least 2 training rows, one of them to be held out, found {rows}"
        )
    return np.sort(numpy_stream(seed, "held-out rows").choice(rows, count, replace=False))


def draw_rows(rows: int, count: int, fraction: float, seed: int, generator: torch.Generator) -> np.ndarray:
    """Draw the indices of training rows that are not held out, (count,), with replacement.

    Args:
        rows: how many there are.
        fraction: of rows that are held out; 0 for none.
    """
    if not fraction:
        return torch.randint(rows, (count,), generator=generator).numpy()
    held_out = held_out_rows(rows, fraction, seed)
    drawn: Tensor = torch.randint(rows - len(held_out), (count,), generator=generator)
    # Number j of the others comes after as many held-out rows as have at most j of the others before them.
    return drawn.numpy() + np.searchsorted(held_out - np.arange(len(held_out)), drawn.numpy(), side="right")
