"""Linear inverse problems by projection (dissertation, algorithm 8.2): each step of a sampler begins on noised measurements.

Measurements y = A Y_0 + noise are noised as the rows are, to y_t with y_0 = y, and before each step of any sampler

    x ← x + λ A⁺(y_t - A x),    0 ≤ λ ≤ 1

(eqs. 8.6 to 8.9, for orthonormal rows of T that A does not have). It needs nothing but the score, at one evaluation a step.

For a linear process y_t = α y + σ A Z, drawn anew at each time: exact. Otherwise A Y_t of a **noised reference** takes its place:
rows that meet y, noised by the process itself along the grid. They are draws of the mixture given y, or for a drift of your own
draws of its prior, moved by A⁺ onto y; what a reference knows too little of what is not measured fades as t → 0.

The method is no exact posterior: what is not measured follows y_t, which lags behind y, and is too wide and too close to
its mean unless it is independent of what is measured. `ndsm.inference.guidance.MomentMatched` does not have this bias.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ndsm.core.types import Score
from ndsm.errors import InputError
from ndsm.inference.noised_references import noised_measurements
from ndsm.inference.operators import Operator
from ndsm.processes import Process
from ndsm.samplers.base import Draw, Sampler, Step, stepper_of
from ndsm.samplers.registry import find_sampler

__all__ = ["ProjectedSampler", "noised_measurements"]


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
        chosen = find_sampler(sampler)
        if not getattr(chosen, "memoryless", True):
            raise InputError(
                f"projection: expected a sampler whose steps do not depend on each other, found {sampler!r}"
            )
        if not 0 <= strength <= 1:
            raise InputError(f"projection: expected a strength from 0 to 1, found {strength}")
        self._sampler, self._operator, self._measured = chosen, operator, measured
        self._strength, self._exact = strength, exact

    def times(self, process: Process, evaluations: int, end_dt: float) -> np.ndarray:
        """The sampler's own."""
        return self._sampler.times(process, evaluations, end_dt)

    def stepper(self, process: Process, score: Score, times: np.ndarray) -> Step:
        """See `SteppingSampler`.

        Raises:
            InputError: there are not as many measurements as times, or, by the step, A does not fit them and the rows.
        """
        if len(self._measured) != len(times):
            raise InputError(
                f"projection: expected measurements at each of {len(times)} times, found {len(self._measured)}"
            )
        sampler_step, measured = stepper_of(self._sampler, process, score, times), iter(self._measured)

        def step(x: Tensor, t: float, u: float, draw: Draw) -> Tensor:
            y = next(measured)
            self._operator.check_rows(x, y)
            x = sampler_step(self._moved(x, y, self._strength), t, u, draw)
            return self._moved(x, self._measured[-1], 1.0) if self._exact and u == 0 else x

        return step

    def _moved(self, x: Tensor, y: Tensor, strength: float) -> Tensor:
        return x + strength * self._operator.pseudo_inverse(y - self._operator(x))
