"""Temporary changes of process-wide state: random generator, threads, environment; restored at the end of each context."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ndsm.core.cores import given_threads, usable_cores


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from a stream of this seed by PyTorch's own generator of the CPU, as `torch.nn` does initial weights.

    Unlike `torch.manual_seed` it leaves the generators of other devices alone.
    """
    before = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(before)


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Let PyTorch use this many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def usable_threads(spare: int = 0) -> Iterator[None]:
    """Let PyTorch use no more threads than there are cores for this process: its own number knows of no limit of a container.

    Where OMP_NUM_THREADS is set it decides alone, and a smaller number that was set in the program stays.

    Args:
        spare: cores that are left to others.
    """
    now = torch.get_num_threads()
    with threads(now if given_threads() else min(now, max(1, usable_cores() - spare))):
        yield


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables, for this process and those that it starts meanwhile."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
