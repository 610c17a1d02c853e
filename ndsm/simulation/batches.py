"""Batches of simulated rows, made in this process, for the small networks that are trained beside a score."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ndsm.core.rng import torch_stream
from ndsm.errors import InputError
from ndsm.processes.base import Process, require
from ndsm.processes.grids import ACCURATE, geometric_grid
from ndsm.processes.integrators import IntegratorName
from ndsm.simulation.records import LABEL, ONE_STEP, RowLayout
from ndsm.simulation.rollout import RolloutSpec, rollout

EXACT_STEPS = 24
"""Steps of a grid that is exact inside a mode: each step is about a third of the time so far."""
GRID_STEPS = 60
"""Steps in which any other grid grows from its first to its largest step."""
MOST_STEPS = 20_000
"""Largest number of steps: beyond, a block takes minutes."""
TIMES_PER_PATH = 5
PATHS = 512
REUSE = 4
"""Uses of a simulated row, with new noise each time."""


def one_step_batches(
    process: Process,
    rows: np.ndarray,
    t_min: float,
    batch_rows: int,
    seed: int,
    labels: np.ndarray | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Endless batches of `ONE_STEP` records by name, (B, d) or (B,): Y_N = mean + std · noise at times of all scales.

    A linear process's step is its kernel from time 0. That of others is a step of their own grid, the larger the later:
    exact inside a mode for spherical components, else Euler-Maruyama's of at most `ACCURATE` of the stable size.

    Args:
        process: on the CPU.
        rows: (N, d) in model units.
        t_min: the smallest time.
        labels: (N,) int16, recorded as `LABEL` if given.

    Raises:
        InputError: the mixture's smallest variance asks for too many steps.
    """
    require(process, "rows", "training beside the score")
    mixture, horizon = process.mixture, process.horizon
    linear = process.transition is not None
    exact = not linear and mixture is not None and mixture.covariance_type == "spherical"
    integrator: IntegratorName = "exponential" if exact else "euler-maruyama"
    largest, steps = (math.inf, EXACT_STEPS) if exact else (ACCURATE * process.stable_dt, GRID_STEPS)
    if math.isfinite(largest):
        steps += math.ceil(horizon / largest)
    if steps > MOST_STEPS:
        raise InputError(
            f"expected at most {MOST_STEPS} steps of Euler-Maruyama up to the horizon {horizon:g} to learn from, found {steps} of "
            f"{largest:.3g}, a fifth of the mixture's smallest variance; use spherical components, fewer of them or a larger "
            "reference.reg_covar"
        )
    times = geometric_grid(horizon, steps, t_min, largest)
    layout = RowLayout(ONE_STEP if labels is None else (*ONE_STEP, LABEL), rows.shape[1])
    spec = RolloutSpec(
        process, times, None, TIMES_PER_PATH, PATHS, layout, seed, 0.0 if linear else 1.0, "kernel" if linear else "path",
        integrator, labels=labels,
    )  # fmt: skip
    generator, data, block = torch_stream(seed, "batches"), rows.astype(np.float32), 0
    while True:
        simulated = torch.from_numpy(rollout(spec, data, block))
        # The first times of a shifted grid may be arbitrarily small.
        simulated = simulated[layout.split(simulated)["t"] >= t_min]
        order = torch.cat([torch.randperm(len(simulated), generator=generator) for _ in range(REUSE)])
        for batch in map(layout.split, simulated[order].split(batch_rows)):
            batch["noise"].normal_(generator=generator)
            yield batch
        block += 1
