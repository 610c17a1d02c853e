"""Generation by the reverse SDE (Algorithm 2).

dX = (f(X, t) + g(t)² s(X, t)) dt + g(t) dW (eq. 1), run from the prior at t = T down to t = 0: by Euler-Maruyama, by
the step that belongs to the exponential integrator, by that of a linear process's own transitions, and with a Langevin
corrector between the steps.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ndsm.core.types import Score
from ndsm.errors import InputError
from ndsm.processes import Process, require, reverse_grid
from ndsm.processes.modes import Modes
from ndsm.processes.transitions import linear_step
from ndsm.samplers.base import Draw, Step, score_at

LARGEST_EXPONENT = 10.0
"""Largest exponent h/v of a step's growth: an axis that would grow by more holds no more data, and rounding errors would grow
with it."""

Move = Callable[[Process, Tensor, Tensor, float, float, Tensor | None], Tensor]
"""X at time t - h from x at time t, its score s, t, h and standard normal noise or None, (B, d)."""


def euler_maruyama(process: Process, x: Tensor, s: Tensor, t: float, h: float, z: Tensor | None) -> Tensor:
    """x + (f + g² s) h + g sqrt(h) z."""
    g = process.diffusion(t)
    x = x + (process.drift(x, t) + g * g * s) * h
    return x if z is None else x.add_(z, alpha=g * math.sqrt(h))


def exponential(process: Process, x: Tensor, s: Tensor, t: float, h: float, z: Tensor | None) -> Tensor:
    """x + (cosh(h/v) - 1)(x - μ) + v sinh(h/v)(f + 2s) + sqrt(q) z, q = v (1 - exp(-2h/v)), along each axis of x's likeliest
    component.

    That is μ + ((x - μ) + q (s + R/2)) exp(h/v) with what the drift has beside the mode's own, f = (x - μ)/v + R, put to the
    score. Where the forward process is that mode's own, R = 0, the mean is that of Y_{t-h} given Y_t = x for any h (Tweedie's
    formula for one exponential step); where modes overlap the step is of first order. The variance is exact for data spread
    like the mode. Data concentrated at a point would have q(h) q(t - h)/q(t), q(t) = v (1 - exp(-2t/v)); with the same grid
    that loses more variance than this adds.

    Raises:
        InputError: the process has no mixture, or is not its Langevin process.
    """
    mixture = require(process, "modes", "sample.sampler 'exponential'")
    modes = Modes(mixture, x.T)
    v = modes.of_paths(modes.variance)
    exponent = (h / v).clamp(max=LARGEST_EXPONENT)
    center = mixture.means.to(x)[modes.component].T
    moved = (torch.cosh(exponent) - 1) * modes.to_axes(x.T - center)
    moved += v * torch.sinh(exponent) * modes.to_axes((process.drift(x, t) + 2 * s).T)
    if z is not None:
        moved += (-v * torch.expm1(-2 * h / v)).sqrt() * z.T
    return x + modes.from_axes(moved).T


def reverse_diffusion(process: Process, x: Tensor, s: Tensor, t: float, h: float, z: Tensor | None) -> Tensor:
    """(2 - a) x + q s + sqrt(q) z for a process whose step from t - h to t is Y' = a Y + sqrt(q) Z.

    The reverse of that chain, discretised as the chain itself is (dissertation, appendix B.5: a = sqrt(1 - β_i) for VP,
    1 for VE).

    Raises:
        InputError: the process's transition law is not known.
    """
    a, q = linear_step(require(process, "transition", "sample.sampler 'reverse-diffusion'"), t - h, t)
    x = (2 - a) * x + q * s
    return x if z is None else x.add_(z, alpha=math.sqrt(q))


MOVES: dict[str, Move] = {
    "em": euler_maruyama,
    "exponential": exponential,
    "reverse-diffusion": reverse_diffusion,
}

NEEDED: dict[str, Literal["modes", "transition", "score"]] = {
    "em": "score",
    "exponential": "modes",
    "reverse-diffusion": "transition",
}
"""Attribute of the process that a move needs (`ndsm.processes.require`)."""


@dataclass(frozen=True)
class ReverseSDE:
    """One of `MOVES` per interval of the grid, one evaluation each.

    The last step adds no noise: it is the posterior mean of Y_0 given Y_h = x (Tweedie's formula for the local kernel).
    """

    name: str

    def times(self, process: Process, evaluations: int, end_dt: float) -> np.ndarray:
        """See `reverse_grid`."""
        require(process, NEEDED[self.name], f"sample.sampler {self.name!r}")
        return reverse_grid(process, evaluations, end_dt, self.name)

    def stepper(self, process: Process, score: Score, times: np.ndarray) -> Step:
        """See `SteppingSampler`."""
        move = MOVES[self.name]

        def step(x: Tensor, t: float, u: float, draw: Draw) -> Tensor:
            s = score_at(score, x, t)
            return move(process, x, s, t, t - u, None if u == 0 else draw())

        return step


@dataclass(frozen=True)
class PredictorCorrector:
    """Predictor-corrector sampling (dissertation, 7.4.2): after each step of the reverse SDE one of Langevin dynamics.

    Two evaluations per interval, one for the last. The corrector x + ε s + sqrt(2ε) z has
    ε = 2 (r |z|/|s|)² with |z|² and |s|² at their expected sizes d and d/V(t) in place of a batch's averages, so that a
    row does not depend on the others.
    """

    snr: float = 0.16
    """r, the corrector's signal-to-noise ratio (the dissertation's)."""

    def times(self, process: Process, evaluations: int, end_dt: float) -> np.ndarray:
        """Euler-Maruyama's grid, with half the intervals."""
        require(process, "score", "sample.sampler 'pc'")
        try:
            return reverse_grid(process, (evaluations + 1) // 2, end_dt)
        except InputError as error:
            raise InputError(f"sample.sampler 'pc', two evaluations in a step: {error}") from None

    def stepper(self, process: Process, score: Score, times: np.ndarray) -> Step:
        """See `SteppingSampler`."""
        predict = ReverseSDE("em").stepper(process, score, times)

        def step(x: Tensor, t: float, u: float, draw: Draw) -> Tensor:
            x = predict(x, t, u, draw)
            if u == 0:
                return x
            variance = float(process.variance(torch.tensor([u], dtype=torch.float64)))
            size = 2 * self.snr**2 * variance
            return x + size * score_at(score, x, u) + math.sqrt(2 * size) * draw()

        return step
