"""Time grids of the probability flow."""

import math
from dataclasses import dataclass

import numpy as np
import torch

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
    levels, signal = process.levels, spacing.signal
    if signal is None:
        signal = LITTLE if levels is None and steps < FEW else 0.0
    start = _time_of_signal(process, signal) if signal else process.horizon
    if levels is None:
        return power_grid(start, steps, end, spacing.power or TIME_POWER)

    def level(times: np.ndarray) -> np.ndarray:
        t = torch.from_numpy(times)
        return (levels.std(t) / levels.log_alpha(t).exp()).numpy()

    return power_grid(start, steps, end, spacing.power or LEVEL_POWER, level)


def _time_of_signal(process: Process, signal: float) -> float:
    """The first time at which α, in a mode of the mean variance, is at most `signal`; T if it never is."""
    horizon, levels = process.horizon, process.levels
    if levels is not None:
        times = torch.linspace(0, horizon, SIGNAL_NODES, dtype=torch.float64)
        return float(times[(levels.log_alpha(times) > math.log(signal)).sum().clamp(max=SIGNAL_NODES - 1)])
    if process.mixture is None:
        return horizon
    return min(horizon, -math.log(signal) * process.mixture.mean_variance)
