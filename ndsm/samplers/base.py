"""A sampler carries rows from the prior at t = T to the data at t = 0: its time grid, its step, and the loop over both."""

from collections.abc import Callable
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ndsm.core.types import Score
from ndsm.processes import Process

Draw = Callable[[], Tensor]
"""The next standard normal numbers, shaped like the rows; each row's do not depend on how many rows there are."""


Step = Callable[[Tensor, float, float, Draw], Tensor]
"""step(x, t, u, draw): x carried from time t down to u, (B, d) → (B, d), without changing its start."""


class SteppingSampler(Protocol):
    """A sampler given by its time grid and its step; its settings are fields of the object.

    Two attributes are optional and true by default: `memoryless`, whether a step depends neither on earlier steps nor on the
    whole grid; `last_step_replaceable`, whether another final step may replace the last one.
    """

    def times(self, process: Process, evaluations: int, end_dt: float) -> np.ndarray:
        """Times of generation from T down to 0 for at most so many evaluations of the score.

        Args:
            end_dt: about the size of the last step, which is the final denoising step.

        Raises:
            InputError: the process does not support this sampler.
        """
        ...

    def stepper(self, process: Process, score: Score, times: np.ndarray) -> Step:
        """The step function of one generation, called for each pair of neighbouring times in turn; the last step ends at 0.

        Raises:
            InputError: the process does not support this sampler.
        """
        ...


class Solver(Protocol):
    """A sampler that integrates from the first time to the last by itself, for instance with adaptive steps."""

    def times(self, process: Process, evaluations: int, end_dt: float) -> np.ndarray:
        """As `SteppingSampler.times`."""
        ...

    def __call__(self, process: Process, score: Score, times: np.ndarray, x: Tensor, draw: Draw) -> Tensor:
        """x carried from time times[0] to times[-1], (B, d) → (B, d), without changing its start.

        Raises:
            InputError: the process does not support this sampler.
        """
        ...


Sampler = SteppingSampler | Solver


def stepper_of(sampler: Sampler, process: Process, score: Score, times: np.ndarray) -> Step:
    """The step of a sampler; a `Solver` is called for each interval."""
    if callable(sampler):
        return lambda x, t, u, draw: sampler(process, score, np.array([t, u]), x, draw)
    return sampler.stepper(process, score, times)


def run(sampler: Sampler, process: Process, score: Score, times: np.ndarray, x: Tensor, draw: Draw) -> Tensor:
    """x carried from time times[0] to times[-1] by a sampler, (B, d) → (B, d)."""
    if callable(sampler):
        return sampler(process, score, times, x, draw)
    step = sampler.stepper(process, score, times)
    for t, u in pairwise(map(float, times)):
        x = step(x, t, u, draw)
    return x


def draw_prior(process: Process, n: int, generator: torch.Generator) -> Tensor:
    """n rows of the prior, (n, d) on the CPU, wherever the process is: a prior of one's own may know no other device.

    Args:
        generator: on the CPU.
    """
    return process.to("cpu").prior.sample(n, generator)


def score_at(score: Score, x: Tensor, t: float) -> Tensor:
    """s(x, t) with one time for all rows, (B, d) → (B, d)."""
    return score(x, torch.full((len(x),), float(t), device=x.device, dtype=x.dtype))


def posterior_mean(process: Process, x: Tensor, s: Tensor, t: float) -> Tensor:
    """x + (f + g² s) t: the mean of Y_0 given Y_t = x for a small t (Tweedie's formula for one step), (B, d)."""
    g = process.diffusion(t)
    return x + (process.drift(x, t) + g * g * s) * t
