"""Weights of examples by their time (dissertation, 9.4 and 9.5)."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ndsm.processes import Process, require
from ndsm.processes.grids import noise_integral

Weight = Callable[[Tensor], Tensor]
"""Weights (B,) of times (B,)."""


def time_weight(name: str, process: Process, times: np.ndarray) -> Weight | None:
    """The weight that `objective.weighting` names; None is 1.

    `variance` is V(t), `velocity` V(t)/α(t)². `likelihood` makes the mean loss, up to a constant, ∫ g(t)² E|s - ∇log p_t|²/2 dt, which bounds
    the Kullback-Leibler divergence of the model from the data (theorem 9.1): examples come at times of density 1/(n h(t))
    for a grid of n steps h, and the weight is g² n h over ∫ g²/V dt. On a grid of kind `importance`, whose density is
    proportional to g²/V, that is V(t) again: importance sampling (eq. 9.12).

    Args:
        times: the simulation's grid 0 = t_0 < ... < t_n = T.
    """
    if name == "none":
        return None
    if name == "variance":
        return process.variance
    if name == "velocity":
        levels = require(process, "levels", "objective.weighting 'velocity'")
        return lambda t: process.variance(t) * torch.exp(-2 * levels.log_alpha(t))
    first, horizon, n = float(times[1]), float(times[-1]), len(times) - 1
    total = noise_integral(process, first, horizon)[1]
    middle = 0.5 * (times[:-1] + times[1:])
    factor = n / total[-1] * np.diff(times) * np.array([process.diffusion(float(t)) ** 2 for t in middle])
    log_middle, log_factor = np.log(middle), np.log(factor)

    def weight(t: Tensor) -> Tensor:
        weights = np.exp(np.interp(t.detach().cpu().log().numpy(), log_middle, log_factor))
        return torch.from_numpy(weights).to(t)

    return weight
