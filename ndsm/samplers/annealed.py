"""Annealed Langevin dynamics over the noise scales of a VE process (dissertation, algorithm 6.1 and chapter 6)."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from torch import Tensor

from ndsm.core.types import Score
from ndsm.processes import Process, require
from ndsm.samplers.base import Draw, Step, score_at

LARGEST_RATIO = 1.2
"""Largest ratio of neighbouring noise scales: in few dimensions technique 6.2 allows any, but modes would not mix."""


def scale_ratio(dimension: int) -> float:
    """γ of technique 6.2: half of one scale's law lies where the next larger one's does, in d dimensions.

    Φ(c(γ - 1) + 3γ) - Φ(c(γ - 1) - 3γ) = ½ with c = sqrt(2d); at most `LARGEST_RATIO`.
    """
    from scipy.optimize import brentq
    from scipy.special import ndtr

    c = math.sqrt(2 * dimension)

    def excess(ratio: float) -> float:
        return float(ndtr(c * (ratio - 1) + 3 * ratio) - ndtr(c * (ratio - 1) - 3 * ratio)) - 0.5

    return LARGEST_RATIO if excess(LARGEST_RATIO) > 0 else float(brentq(excess, 1.0, LARGEST_RATIO))


def remaining_variance(kappa: float, ratio: float, steps: int) -> float:
    """Variance over σ² after so many steps of size κσ² from N(0, γ²σ² I) towards N(0, σ² I) (eq. 6.4)."""
    stationary = 2 / (2 - kappa)
    return (1 - kappa) ** (2 * steps) * (ratio**2 - stationary) + stationary


@cache
def step_factor(ratio: float, steps: int) -> float:
    """κ that brings `remaining_variance` closest to 1 (technique 6.4)."""
    from scipy.optimize import minimize_scalar

    optimum = minimize_scalar(
        lambda kappa: abs(remaining_variance(kappa, ratio, steps) - 1), bounds=(1e-6, 1.0), method="bounded"
    )
    return float(optimum.x)


@dataclass(frozen=True)
class AnnealedLangevin:
    """Steps x + κσ² s + sqrt(2κ) σ z at each of geometric noise scales, then x + σ² s; one evaluation each."""

    memoryless = False
    last_step_replaceable = False

    def times(self, process: Process, evaluations: int, end_dt: float) -> np.ndarray:
        """The time of each scale as often as steps are taken there, that of the last scale once more, and 0.

        The scales are those of technique 6.2 between the process's own, or fewer if there are fewer evaluations.
        """
        scales = require(process, "noise_scales", "sample.sampler 'annealed'")
        largest, smallest = scales.noise_scale(scales.horizon), scales.sigma_min
        ratio = scale_ratio(scales.prior.dimension)
        levels = min(1 + math.ceil(math.log(largest / smallest) / math.log(ratio)), evaluations - 1)
        times = [scales.time_of(float(std)) for std in np.geomspace(largest, smallest, levels)]
        level = np.arange(evaluations - 1) * levels // (evaluations - 1)
        return np.append(np.array(times)[level], [times[-1], 0.0])

    def stepper(self, process: Process, score: Score, times: np.ndarray) -> Step:
        """See `SteppingSampler`; the size of a step depends on how often its time is in the grid."""
        scales = require(process, "noise_scales", "sample.sampler 'annealed'")
        levels, counts = np.unique(times[:-2], return_counts=True)
        stds = np.array([scales.noise_scale(float(t)) for t in levels])
        ratio = float((stds[-1] / stds[0]) ** (1 / max(len(stds) - 1, 1)))
        kappa = {t: step_factor(ratio, int(m)) for t, m in zip(levels, counts, strict=True)}

        def step(x: Tensor, t: float, u: float, draw: Draw) -> Tensor:
            if u == 0:
                return x + scales.noise_scale(t) ** 2 * score_at(score, x, t)
            size = kappa[t] * scales.noise_scale(t) ** 2
            return x + size * score_at(score, x, t) + math.sqrt(2 * size) * draw()

        return step
