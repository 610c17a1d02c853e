"""The probability flow dX = -(f + ½g² s) dt backwards in time (dissertation, 7.4.3), by general-purpose solvers.

Both end with the posterior mean of Y_0 given the state at the last time (Tweedie's formula), as all samplers here do.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ndsm.core.types import Score
from ndsm.processes import Process
from ndsm.samplers.base import Draw, Step, posterior_mean, score_at
from ndsm.samplers.grids import level_grid


def velocity(process: Process, x: Tensor, s: Tensor, t: float) -> Tensor:
    """-f - ½g² s: dx/dt of the probability flow, (B, d)."""
    return -process.drift(x, t) - 0.5 * process.diffusion(t) ** 2 * s


def solve_adaptively(
    slope: Callable[[float, tuple[Tensor, ...]], tuple[Tensor, ...]],
    state: tuple[Tensor, ...],
    start: float,
    end: float,
    tolerance: float,
) -> tuple[Tensor, ...]:
    """The state at time `end` > 0 of d state/dt = slope(t, state), by Dormand and Prince's method in log t.

    The score changes as fast as t itself near 0, which equal steps in log t follow.

    Args:
        tolerance: error of a step, absolute and relative, as a root mean square over the state.
    """
    # Imported here because only adaptive solutions need it.
    from torchdiffeq import odeint

    low, high = min(start, end), max(start, end)

    def in_log(log_t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        # The last step goes beyond the end, where the solution is interpolated.
        t = min(max(math.exp(float(log_t)), low), high)
        return tuple(t * part for part in slope(t, state))

    span = torch.tensor([math.log(start), math.log(end)], dtype=torch.float64, device=state[0].device)
    # The solver would choose its first step from the slope at T, which is almost 0.
    options = {"first_step": 0.01 * abs(float(span[1] - span[0]))}
    solution = odeint(in_log, state, span, method="dopri5", rtol=tolerance, atol=tolerance, options=options)
    return tuple(part[-1] for part in solution)


@dataclass(frozen=True)
class Heun:
    """Heun's method, two evaluations per interval and one for the last."""

    def times(self, process: Process, evaluations: int, end_dt: float) -> np.ndarray:
        """See `level_grid`."""
        return level_grid(process, (evaluations + 1) // 2, end_dt)

    def stepper(self, process: Process, score: Score, times: np.ndarray) -> Step:
        """See `SteppingSampler`."""

        def step(x: Tensor, t: float, u: float, draw: Draw) -> Tensor:
            s = score_at(score, x, t)
            if u == 0:
                return posterior_mean(process, x, s, t)
            here = velocity(process, x, s, t)
            there = x + (u - t) * here
            return x + 0.5 * (u - t) * (here + velocity(process, there, score_at(score, there, u), u))

        return step


@dataclass(frozen=True)
class Adaptive:
    """Dormand and Prince's method with steps chosen by its error estimate: as many evaluations as that takes.

    The error is that of all rows at once: rows agree with those of another batch to about the tolerance. `generate` carries
    as many together as `rows_together`, whatever is asked for.
    """

    memoryless = False
    last_step_replaceable = False
    tolerance: float = 1e-4
    """Error per step, absolute and relative."""
    rows_together: int = 256
    """Rows that share their steps."""

    def times(self, process: Process, evaluations: int, end_dt: float) -> np.ndarray:
        """From T to end_dt, then 0, whatever the evaluations."""
        return np.array([process.horizon, end_dt, 0.0])

    def __call__(self, process: Process, score: Score, times: np.ndarray, x: Tensor, draw: Draw) -> Tensor:
        """See `Solver`."""

        def slope(t: float, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            return (velocity(process, state[0], score_at(score, state[0], t), t),)

        start, end = float(times[0]), float(times[-2])
        (x,) = solve_adaptively(slope, (x,), start, end, self.tolerance)
        return posterior_mean(process, x, score_at(score, x, end), end)
