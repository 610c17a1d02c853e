"""Linear inverse problems by projection (dissertation, algorithm 8.2): each step of a sampler begins on noised measurements.

Measurements y = A Y_0 + noise are noised as the rows are, to y_t with y_0 = y, and before each step of any sampler

    x ← x + λ A⁺(y_t - A x),    0 ≤ λ ≤ 1

(eqs. 8.6 to 8.9, for orthonormal rows of T that A does not have). It needs nothing but the score, at one evaluation a step.

For a linear process y_t = α y + σ A Z, drawn anew at each time: exact. Otherwise A Y_t of a **twin** takes its place: rows
that meet y, noised by the process itself along the grid. They are draws of the mixture given y, or for a drift of your own
draws of its prior, moved by A⁺ onto y; what a twin knows too little of what is not measured fades as t → 0.

The method is no exact posterior: what is not measured follows y_t, which lags behind y, and is too wide and too close to
its mean unless it is independent of what is measured. `ndsm.inference.guidance.MomentMatched` does not have this bias.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ndsm.errors import InputError
from ndsm.inference.guidance import Operator, draw_from_mixture, has_modes
from ndsm.inference.imputation import noised
from ndsm.objectives import Score
from ndsm.processes import Process
from ndsm.samplers.base import Draw, Sampler, draw_prior
from ndsm.samplers.registry import find_sampler

NOT_STEPWISE = ("annealed", "ode-adaptive", "flow2", "dpmpp-2m")
"""Samplers whose steps ask for the steps before them, or that have no grid."""

LARGEST_STEP = 1e-3
"""Of a twin's Euler-Maruyama steps under a drift of your own, as a share of T: a start on y may be where it is steep."""


class ProjectedSampler:
    """A sampler whose every step begins with x ← x + λ A⁺(y_t - A x).

    Args:
        sampler: takes the steps: a name, or an object whose steps do not depend on each other.
        operator: A; small singular values make A⁺, and what it adds of y's noise, large.
        measured: y_t at each of the times of generation, from T to 0, (B, m) each, see `noised_measurements`.
        strength: λ, from 0 (no guidance) to 1 (measurements met exactly); less than 1 for noisy measurements.
        exact: whether measurements have no noise: the rows then end on y.

    Raises:
        InputError: the sampler cannot take one step alone, or λ is not between 0 and 1.
    """

    def __init__(
        self,
        sampler: str | Sampler,
        operator: Operator,
        measured: Sequence[Tensor],
        strength: float = 1.0,
        exact: bool = False,
    ) -> None:
        if sampler in NOT_STEPWISE:
            raise InputError(
                f"projection: expected a sampler whose steps do not depend on each other, found {sampler!r}"
            )
        if not 0 <= strength <= 1:
            raise InputError(f"projection: expected a strength from 0 to 1, found {strength}")
        self._sampler, self._operator, self._measured = find_sampler(sampler), operator, measured
        self._strength, self._exact = strength, exact

    def times(self, process: Process, evaluations: int, end_dt: float) -> np.ndarray:
        """The sampler's own."""
        return self._sampler.times(process, evaluations, end_dt)

    def __call__(self, process: Process, score: Score, times: np.ndarray, x: Tensor, draw: Draw) -> Tensor:
        """As `Sampler`.

        Raises:
            InputError: there are not as many measurements as times, or A does not fit them and the rows.
        """
        if len(self._measured) != len(times):
            raise InputError(
                f"projection: expected measurements at each of {len(times)} times, found {len(self._measured)}"
            )
        self._operator.check_rows(x, self._measured[0])
        for y, interval in zip(self._measured, pairwise(times), strict=False):
            x = self._moved(x, y, self._strength)
            x = self._sampler(process, score, np.array(interval), x, draw)
        return self._moved(x, self._measured[-1], 1.0) if self._exact else x

    def _moved(self, x: Tensor, y: Tensor, strength: float) -> Tensor:
        return x + strength * self._operator.pseudo_inverse(y - self._operator(x))


def noised_measurements(
    process: Process,
    operator: Operator,
    y: Tensor,
    noise: float | Tensor,
    times: np.ndarray,
    generator: torch.Generator,
) -> tuple[list[Tensor], Tensor]:
    """y_t at each of the times from T to 0, (B, m) each, and rows at T to begin with, (B, d).

    Args:
        y: measurements, (B, m).
        noise: σ_y, in the same units, a number or one for each measurement (m,).
        times: decreasing, from T to 0.
        generator: on the CPU.

    Raises:
        InputError: A does not fit y and the process's rows.
    """
    if process.mixture is None:
        free = draw_prior(process, len(y), generator).to(y)
        operator.check(free.shape[1], y)
    else:
        operator.check(process.mixture.dimension, y)
        free = draw_from_mixture(process.mixture, operator, y, noise, generator)
    start = free + operator.pseudo_inverse(y - operator(free))

    def draw() -> Tensor:
        return torch.randn(start.shape, generator=generator).to(y)

    if process.transition is not None:
        moments = [process.kernel(start, start.new_full((1,), float(t))) for t in times]
        twins = [mean + std * draw() for mean, std in moments]
    elif process.mixture is not None:
        twins = noised(process, start, times[::-1], draw)[::-1]
    else:
        twins, largest = [start], LARGEST_STEP * process.horizon
        for u, t in pairwise(times[::-1]):
            fine = np.linspace(u, t, math.ceil((t - u) / largest) + 1)
            twins.append(noised(process, twins[-1], fine, draw)[-1])
        twins.reverse()
    begin = twins[0] if has_modes(process) else draw_prior(process, len(y), generator).to(y)
    return [operator(twin) for twin in twins[:-1]] + [y], begin
