"""Few-step generation: steps that are exact where the noising is linear, for any size of step.

With the kernel of a mode (`ndsm.processes.transitions`), effective score s, x̂₀ = (x - μ + σ₀² s)/α₀ and ê = -σ₀ s, a step from
t₀ down to t₁ is

    x' = μ + α₁ x̂₀ + sqrt(σ₁² - ς²) ê + ς z,    ς = η (σ₁/σ₀) sqrt(σ₀² - (α₀/α₁)² σ₁²).

η = 0 is the probability flow: DDIM (Song, Meng and Ermon 2021) for a linear process, and for a mixture's Langevin process
the same for each mode's Ornstein-Uhlenbeck kernel, blended over the responsibilities. η = 1 is ancestral sampling. The
second-order version extrapolates x̂₀ linearly in λ = log(α/σ) from the step before, DPM-Solver++(2M) (Lu et al. 2022).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from ndsm.core.types import Score
from ndsm.processes import Process, require
from ndsm.processes.transitions import SLOPE_ERROR, Kernel, Term
from ndsm.samplers.base import Draw, Step, score_at
from ndsm.samplers.grids import Spacing, level_grid

EXTRAPOLATED = 4.0
"""Largest log(α₁/α) from the start of the step before to the end of this one for which x̂₀ is extrapolated: beyond, the
extrapolation would amplify the network's error too much."""


@dataclass(frozen=True)
class Flow:
    """Sampler by the steps of the module's docstring, one evaluation each; the last step ends in x̂₀."""

    kernel: Callable[[Process, str], Kernel]
    name: str
    order: int = 1
    noise: float = 0.0
    """η, from 0 (deterministic) to 1 (ancestral)."""
    spacing: Spacing | None = None
    """Overrides of its time grid."""
    slope_error: float = SLOPE_ERROR
    """ε of a mixture's modes: error of the slope f + s relative to its size near the data, 0 for a score that is known exactly.
    A slope of size α counts by α²/(α² + ε²)."""

    def times(self, process: Process, evaluations: int, end_dt: float) -> np.ndarray:
        """See `level_grid`."""
        self.check(process)
        return level_grid(process, evaluations, end_dt, self.spacing)

    @property
    def _user(self) -> str:
        return f"sample.sampler {self.name!r}"

    def check(self, process: Process) -> None:
        """Check that the process has what the steps need.

        Raises:
            InputError: it has not.
        """
        if self.noise:
            require(process, "score", self._user)
        self.kernel(process, self._user)

    @property
    def memoryless(self) -> bool:
        """Whether a step does not use the step before."""
        return self.order == 1

    def stepper(self, process: Process, score: Score, times: np.ndarray) -> Step:
        """See `SteppingSampler`."""
        self.check(process)
        kernel = self.kernel(process, self._user)
        before: tuple[float, Tensor, Tensor] | None = None

        def step(x: Tensor, t: float, u: float, draw: Draw) -> Tensor:
            nonlocal before
            slope = kernel.slope(process, x, score_at(score, x, t), t)
            log_alpha, std, end = kernel.log_alpha(t), kernel.std(t), kernel.std(u)
            shrink = (log_alpha - kernel.log_alpha(u)).exp()
            fresh = self.noise * (end / std) * (std**2 - (end * shrink) ** 2).clamp(min=0).sqrt()
            kept = (end**2 - fresh**2).clamp(min=0).sqrt()
            hold = kernel.unpulled(t, u) + kernel.pull * kept * std
            trust = partial(kernel.trust, t, error=self.slope_error)
            slide = trust(u) * std**2 - trust(t) * kept * std
            terms = [Term(hold, x, point=True), Term(slide, slope)]
            if self.order == 2 and before is not None and u > 0:
                s, x_before, slope_before = before
                terms += _extrapolation(
                    kernel, (s, t, u), kept, (x_before, slope_before), (x, slope), self.slope_error
                )
            if self.noise > 0 and u > 0:
                terms.append(Term(fresh, draw()))
            before = (t, x, slope)
            return kernel.blend(x, terms)

        return step


@dataclass(frozen=True)
class LevelFlow(Flow):
    """`Flow` of a linear process, and steps of the flow of hidden components.

    In the angle φ = arccos α their velocity dY/dφ = E[-σ X + α L_K Z | Y], X = Y_0 - μ_K, has the same size at all times, and is 0
    where rows have the law of the mixture. A step is Euler's, or, of the second order, that of Adams and Bashforth.
    """

    def check(self, process: Process) -> None:
        """See `Flow.check`."""
        if process.hidden is None or self.noise:
            super().check(process)

    def stepper(self, process: Process, score: Score, times: np.ndarray) -> Step:
        """See `SteppingSampler`."""
        if process.hidden is None or self.noise:
            return super().stepper(process, score, times)
        before: tuple[float, Tensor] | None = None

        def step(x: Tensor, t: float, u: float, draw: Draw) -> Tensor:
            nonlocal before
            angle = math.acos(math.exp(-t))
            turn = math.acos(math.exp(-u)) - angle
            velocity = -math.tan(angle) * score_at(score, x, t)
            slope = velocity
            if self.order == 2 and before is not None:
                slope = velocity + 0.5 * turn / before[0] * (velocity - before[1])
            before = (turn, velocity)
            return x + turn * slope

        return step


def _extrapolation(
    kernel: Kernel,
    times: tuple[float, float, float],
    kept: Tensor,
    before: tuple[Tensor, Tensor],
    now: tuple[Tensor, Tensor],
    slope_error: float,
) -> list[Term]:
    """The terms of (α₁ - κ α₀/σ₀) (x̂₀ - x̂₀ of the step before)/(2r), r = ratio of the two steps in λ, κ = kept."""
    s, t, u = times
    log_alpha = {time: kernel.log_alpha(time) for time in times}
    std = {time: kernel.std(time) for time in times}
    level = {time: log_alpha[time] - std[time].log() for time in times}
    half_ratio = 0.5 * (level[u] - level[t]) / (level[t] - level[s])
    weight = half_ratio * (1 - kept / std[t] * (log_alpha[t] - log_alpha[u]).exp())
    weight = torch.where(log_alpha[u] - log_alpha[s] < EXTRAPOLATED, weight, 0.0)
    terms = []
    for sign, time, (x, slope) in ((1, t, now), (-1, s, before)):
        terms += [
            Term(sign * weight * kernel.unpulled(time, u), x, point=True),
            Term(sign * weight * std[time] ** 2 * kernel.trust(time, u, slope_error), slope),
        ]
    return terms
