"""Time grids 0 = t_0 < t_1 < ... < t_n = T."""

from collections.abc import Callable

import numpy as np

from ndsm.errors import InputError

LEVEL_NODES = 10_000
"""Of the table by which a level is inverted."""


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
    found = np.exp(np.interp(power * np.log(roots), levels, np.log(times)))
    return np.append(found, 0.0)
