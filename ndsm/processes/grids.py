"""Time grids 0 = t_0 < t_1 < ... < t_n = T, in general and for a process."""

import math
from collections.abc import Callable

import numpy as np
import torch

from ndsm.errors import InputError
from ndsm.processes.base import Process

LEVEL_NODES = 10_000
"""Nodes of the table that inverts a level."""
ACCURATE = 0.1
"""Largest step of a geometric grid, as a share of the largest stable one. Euler-Maruyama inflates a
component's stationary variance by 1/(1 - share): at 0.1 by 11 %, and past 0.5 the reverse process expands."""

INTEGRAL_NODES = 2000
"""Nodes of the integral of g²/V, equally spaced in log t."""


def uniform_grid(horizon: float, steps: int) -> np.ndarray:
    """Equal steps; (steps + 1,) float64."""
    return np.linspace(0.0, horizon, steps + 1)


def geometric_grid(horizon: float, steps: int, first_dt: float, max_dt: float = np.inf) -> np.ndarray:
    """Steps h_k = min(first_dt · g^k, max_dt) with the growth g that reaches the horizon; (steps + 1,).

    If equal steps are already smaller than `first_dt`, the grid is uniform.

    Raises:
        InputError: `steps` steps of at most `max_dt` do not reach the horizon.
    """
    first_dt = min(first_dt, max_dt)
    if first_dt + (steps - 1) * max_dt < horizon:
        needed = 1 + int(np.ceil((horizon - first_dt) / max_dt))
        raise InputError(
            f"time grid: {steps} steps of at most {max_dt:.3g} (a fifth of the mixture's smallest variance) do not "
            f"reach the horizon {horizon:g}; expected at least {needed} steps, or a larger reference.reg_covar"
        )
    if steps * first_dt >= horizon:
        return uniform_grid(horizon, steps)
    k = np.arange(steps)

    def steps_for(log_growth: float) -> np.ndarray:
        return np.minimum(first_dt * np.exp(np.minimum(k * log_growth, 700.0)), max_dt)

    low, high = 0.0, np.log(horizon / first_dt) + 1.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if steps_for(middle).sum() < horizon else (low, middle)
    times = np.concatenate([[0.0], np.cumsum(steps_for(high))])
    return times * (horizon / times[-1])


def power_grid(
    horizon: float,
    steps: int,
    end_dt: float,
    power: float,
    level: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Times from the horizon down to `end_dt`, equally spaced in the power-th root of a level, and then 0; (steps + 1,).

    Args:
        level: increasing function of time, t itself if None.
    """
    end = min(end_dt, horizon)
    if level is None:
        return np.append(np.linspace(horizon ** (1 / power), end ** (1 / power), steps) ** power, 0.0)
    times = np.geomspace(end, horizon, LEVEL_NODES)
    levels = np.log(level(times))
    roots = np.linspace(np.exp(levels[-1] / power), np.exp(levels[0] / power), steps)
    spaced = np.exp(np.interp(power * np.log(roots), levels, np.log(times)))
    return np.append(spaced, 0.0)


def forward_grid(
    process: Process, kind: str, steps: int, last_dt: float | None, integrator: str = "euler-maruyama"
) -> np.ndarray:
    """The simulation's times, (steps + 1,), checked against the stability limit of Euler-Maruyama where that scheme is used.

    Args:
        kind: `uniform`, `geometric` (first step `last_dt`, later ones at most `ACCURATE` of the stable size) or
            `importance` (see `importance_grid`).
        last_dt: Δt_N, the recorded example's own step, or None for the grid's own.

    Raises:
        InputError: a step is above the stability limit, or the horizon cannot be reached or is no longer than `last_dt`.
    """
    if last_dt is not None and last_dt >= process.horizon:
        raise InputError(
            f"process.last_dt: expected less than the horizon {process.horizon:g}, found {last_dt:g}"
        )
    exact = integrator == "exponential"
    first = last_dt if last_dt is not None else process.horizon / steps / 100
    if kind == "importance":
        times = importance_grid(process, steps, first)
    elif kind == "geometric":
        largest = math.inf if exact else ACCURATE * process.stable_dt
        times = geometric_grid(process.horizon, steps, first, largest)
    else:
        times = uniform_grid(process.horizon, steps)
    # The recorded step of an example is Euler-Maruyama's with either integrator.
    largest = max(0.0 if exact else float(np.diff(times).max()), last_dt or 0.0)
    if largest >= process.stable_dt:
        needed = math.ceil(process.horizon / (0.5 * process.stable_dt))
        raise InputError(
            f"process.grid: expected steps below {process.stable_dt:.3g} (twice the mixture's smallest variance, "
            f"where Euler-Maruyama becomes unstable), found {largest:.3g}; use at least {needed} steps, fewer "
            "mixture components or a larger reference.reg_covar"
        )
    return times


def noise_integral(process: Process, first: float, last: float) -> tuple[np.ndarray, np.ndarray]:
    """Times from `first` to `last`, and ∫ g²/V dt from `first` up to each of them; (m,) each."""
    times = np.geomspace(first, last, INTEGRAL_NODES)
    g = np.array([process.diffusion(float(t)) for t in times])
    rate = g**2 / process.variance(torch.from_numpy(times)).cpu().numpy()
    parts = 0.5 * (rate[1:] + rate[:-1]) * np.diff(times)
    return times, np.concatenate([[0.0], np.cumsum(parts)])


def importance_grid(process: Process, steps: int, first: float) -> np.ndarray:
    """0, `first`, and then times up to T over which ∫ g²/V dt grows equally, (steps + 1,): the density of such times is the
    proposal of importance sampling for the likelihood weighting (dissertation, 9.5.1)."""
    times, grown = noise_integral(process, first, process.horizon)
    # From its end: a single step reaches T.
    return np.append(0.0, np.interp(np.linspace(grown[-1], 0.0, steps)[::-1], grown, times))


def reverse_grid(process: Process, steps: int, end_dt: float, sampler: str = "em") -> np.ndarray:
    """Times of generation from T down to 0, (steps + 1,): fine near 0, where the score changes fast.

    The last step, from about `end_dt` to 0, is the final denoising step. A uniform grid would add noise of
    std sqrt(2h) in its last step, often more than the data's thin directions have. Steps of the exponential sampler
    grow up to the smallest variance or, if they are few, twice their mean: beyond, a step multiplies the score's
    error by exp(h/v).
    """
    largest = ACCURATE * process.stable_dt
    if sampler == "exponential":
        largest = max(0.5 * process.stable_dt, 2 * process.horizon / steps)
    return geometric_grid(process.horizon, steps, end_dt, largest)[::-1].copy()
