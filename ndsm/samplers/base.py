"""A sampler carries rows from the prior at t = T to the data at t = 0: its time grid, its step, and the loop over both."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ndsm.core.types import Score
from ndsm.processes import Process
from ndsm.processes.grids import power_grid

LEVEL_POWER = 7.0
"""Exponent of a linear process's grid (Karras et al. 2022)."""
TIME_POWER = 3.0
"""Exponent of other processes' grids."""
FEW = 30
"""Number of intervals below which a grid of a mixture's process starts where little of the data is left, not at T."""
LITTLE = 0.03
"""Level α at which generation then starts, in a mode of the mean variance; above it x_t is nearly the prior."""

SIGNAL_NODES = 1000
"""Number of times among which the first one is chosen."""


@dataclass(frozen=True)
class Spacing:
    """Overrides of the default time grid of the probability flow (`level_grid`)."""

    power: float | None = None
    """The times are equally spaced in the power-th root of t, or of σ/α for a linear process."""
    signal: float | None = None
    """α at the first time, in a mode of the mean variance; 0 begins at T."""
    end: float | None = None
    """The last time before 0; the final denoising step is as long."""


Draw = Callable[[], Tensor]
"""The next standard normal numbers, shaped like the rows; each row's do not depend on how many rows there are."""


Step = Callable[[Tensor, float, float, Draw], Tensor]
"""step(x, t, u, draw): x carried from time t down to u, (B, d) → (B, d), without changing its start."""


class SteppingSampler(Protocol):
    """A sampler by its time grid and its steps; settings of its own are fields of the object.

    Attributes that a sampler may have, true if it has not: `memoryless`, whether a step depends on neither the steps before nor the
    whole grid; `last_step_replaceable`, whether generation may stop at the last time before 0 for another final step.
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
        """The step between neighbouring ones of the times, called for each pair in turn; the last one ends at 0.

        Raises:
            InputError: the process does not support this sampler.
        """
        ...


class Solver(Protocol):
    """A sampler that carries rows all the way by itself, for instance with steps of its own choice."""

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
    """The step of a sampler; one of a `Solver` is its way between the two times."""
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


def level_grid(process: Process, steps: int, end_dt: float, spacing: Spacing | None = None) -> np.ndarray:
    """Times from T to 0 for the probability flow, (steps + 1,), see `power_grid`.

    A linear process's are spaced in σ/α, those of other processes in t; a mixture's with few intervals begin where little
    is left of the data.

    Args:
        end_dt: the last time before 0.
        spacing: what to do otherwise.
    """
    spacing = spacing or Spacing()
    end = spacing.end or end_dt
    transition, signal = process.transition, spacing.signal
    if signal is None:
        signal = LITTLE if transition is None and steps < FEW else 0.0
    start = _time_of_signal(process, signal) if signal else process.horizon
    if transition is None:
        return power_grid(start, steps, end, spacing.power or TIME_POWER)

    def level(times: np.ndarray) -> np.ndarray:
        t = torch.from_numpy(times)
        return (transition.std(t) / transition.log_alpha(t).exp()).numpy()

    return power_grid(start, steps, end, spacing.power or LEVEL_POWER, level)


def _time_of_signal(process: Process, signal: float) -> float:
    """The first time at which α, in a mode of the mean variance, is at most `signal`; T if it never is."""
    horizon, transition = process.horizon, process.transition
    if transition is not None:
        times = torch.linspace(0, horizon, SIGNAL_NODES, dtype=torch.float64)
        return float(
            times[(transition.log_alpha(times) > math.log(signal)).sum().clamp(max=SIGNAL_NODES - 1)]
        )
    if process.mixture is None:
        return horizon
    return min(horizon, -math.log(signal) * process.mixture.mean_variance)
