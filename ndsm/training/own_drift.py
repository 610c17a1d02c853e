"""Number of steps that a user's drift needs, from how fast it changes in space.

Euler-Maruyama's chain of steps h leaves a direction in which the drift has the slope λ at the variance
(1/λ)/(1 - hλ/2), while densities and deterministic samplers follow the continuous flow. Over the horizon that changes the
logarithm of the variance by δ = h T λ², and the mean log-density by about δ²/4 (docs/method.md, "Simulation"). A mixture's
variances are known; the slopes of another drift are found at the rows and at draws of the prior.
"""

import math
import warnings

import numpy as np
import torch

from ndsm.config import Config
from ndsm.core.rng import torch_stream
from ndsm.errors import InputError
from ndsm.processes import Langevin
from ndsm.processes.grids import ACCURATE, forward_grid
from ndsm.samplers.base import draw_prior

STATES = 128
"""Number of rows, and of draws of the prior, at which slopes are estimated."""
ITERATIONS = 8
"""Power iterations for each of them."""
DIFFERENCE = 1e-2
"""Length of the difference step for Df v; the states are of standard deviation 1."""
WIDENING = 0.05
"""Largest h λ: the stationary variance is off by less than 2.6 %."""
SHIFT = 0.6
"""Largest δ: the mean log-density is off by less than 0.1 nats a direction."""
MOST_STEPS = 2000
"""Largest number of steps that is chosen automatically."""


def drift_slopes(process: Langevin, rows: np.ndarray, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Norms of the drift's Jacobian at rows (N, d) and at draws of the prior, half-way and at the end of the noising, (m,) each.

    They are found from below, by a power iteration with differences of the drift: it need not be differentiable by torch.
    """
    generator = torch_stream(seed, "drift slopes")
    chosen = torch.randint(len(rows), (STATES,), generator=generator).numpy()
    data = torch.from_numpy(np.asarray(rows[chosen], dtype=np.float32))
    prior = draw_prior(process, STATES, generator).to(data)
    half = process.horizon / 2
    parts = []
    with torch.no_grad():
        for y, t in ((data, 0.0), (data, half), (prior, half), (prior, process.horizon)):
            v = torch.randn(y.shape, generator=generator)
            largest = torch.zeros(len(y))
            for _ in range(ITERATIONS):
                v = v / v.norm(dim=1, keepdim=True).clamp(min=1e-30)
                ahead, behind = (process.drift(y + sign * DIFFERENCE * v, t) for sign in (1.0, -1.0))
                v = (ahead - behind) / (2 * DIFFERENCE)
                largest = torch.maximum(largest, v.norm(dim=1))
            parts.append(largest)
    return torch.cat(parts[:2]), torch.cat(parts[2:])


def with_enough_steps(config: Config, process: Langevin, rows: np.ndarray) -> Config:
    """The configuration with as many `process.grid.steps` as a drift of one's own needs; itself if it has them.

    A warning says what was found. More than `MOST_STEPS` are not taken: the warning then says what they leave.

    Args:
        rows: (N, d) in model units.

    Raises:
        InputError: not even `MOST_STEPS` keep h λ below twice `ACCURATE`, as a geometric grid keeps a mixture's steps.
    """
    if process.mixture is not None:
        return config
    at_rows, at_prior = drift_slopes(process, rows, config.train.seed)
    # The states are near the prior for most of the time; the largest slope anywhere bounds what is stable.
    typical, most = float(at_prior.square().mean().sqrt()), float(torch.maximum(at_rows, at_prior).max())
    # The simulation refuses numbers that are not finite, with their row and time.
    if not math.isfinite(most) or typical <= 0:
        return config
    horizon = process.horizon
    wanted = min(WIDENING / typical, SHIFT / (horizon * typical**2), 2 * ACCURATE / most)
    grid, last_dt = config.process.grid, config.process.last_dt

    def largest(steps: int) -> float:
        return float(np.diff(forward_grid(process, grid.kind, steps, last_dt)).max())

    if (before := largest(grid.steps)) <= wanted:
        return config
    low, high = grid.steps, max(MOST_STEPS, grid.steps)
    if largest(high) <= wanted:
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if largest(middle) <= wanted else (middle, high)
    reached = largest(high)
    slopes = (
        f"the drift's Jacobian has norms around {typical:.3g} at draws of the prior, and up to {most:.3g}"
    )
    if reached * typical > 2 * ACCURATE:
        needed = math.ceil(horizon * typical / (2 * ACCURATE))
        raise InputError(
            f"process.grid: {slopes}; expected steps of Euler-Maruyama below {2 * ACCURATE / typical:.3g}, found {reached:.3g} "
            f"with {high} steps; set process.grid.steps to at least {needed}, or take a shorter horizon"
        )
    left = 0.25 * (reached * horizon * typical**2) ** 2
    warnings.warn(
        f"{slopes}: process.grid.steps is {high} in place of {grid.steps}, with steps of at most {reached:.3g} in place of "
        f"{before:.3g}; what is left biases log-densities by about {left:.2g} nats a column",
        stacklevel=3,
    )
    return with_steps(config, high)


def with_steps(config: Config, steps: int) -> Config:
    """The configuration with so many steps of the forward grid."""
    grid = config.process.grid.model_copy(update={"steps": steps})
    return config.model_copy(update={"process": config.process.model_copy(update={"grid": grid})})
