"""Imputation: rows given some of their numbers, completed as often as wanted, see `ndsm.inference.completions`."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ndsm.core.rng import torch_stream
from ndsm.core.types import Score
from ndsm.inference.completions import CHUNK_VALUES, Streams, populations, warn_of_few
from ndsm.inference.component_imputation import impute_in_components
from ndsm.processes import Process, require

STEPS = 40
"""Default number of times of the path; twice as many give the same laws within a Kolmogorov-Smirnov distance of 0.01."""
PARTICLES = 16
"""Default number of completions of a population."""
BLOCK = 64
"""Rows that share a random stream in `impute`."""


def draw_given(
    process: Process,
    score: Score,
    rows: Tensor,
    steps: int,
    end_dt: float,
    generator: torch.Generator,
    particles: int = PARTICLES,
) -> Tensor:
    """One draw of the missing numbers of each row given the others, (B, d) → (B, d); the others as they are.

    Args:
        process, score: on the rows' device.
        rows: in model units, NaN where a number is missing.
        steps: times of the path. For each of the particles each takes four evaluations of the score, and as many derivatives
            along a direction as there are known numbers, at most `PROBES`; none of these with a single particle.
        end_dt: τ.
        generator: on the CPU.
        particles: completions of each row, one of which is drawn by its weight. A single one has no weights: its mode is as
            likely as the prior has it.
    """
    streams = Streams([generator], [len(rows)], len(rows))
    return populations(process, score, rows, steps, end_dt, streams, particles)[0][:, 0]


def impute(
    process: Process,
    score: Score,
    rows: np.ndarray,
    draws: int,
    steps: int,
    end_dt: float,
    seed: int,
    device: torch.device | str = "cpu",
    particles: int = PARTICLES,
    advance: Callable[[int], None] = lambda done: None,
) -> np.ndarray:
    """Rows (n, d) with NaN completed `draws` times, (draws, n, d) float32 in model units.

    A population of each row gives as many draws as it has completions: a row's draws do not depend on how many rows follow it, nor
    on how many draws are made.

    Args:
        particles, steps, end_dt: as `draw_given`.
        advance: called with the number of rows drawn since the last call.

    Warns:
        UserWarning: the weights leave less than `FEW` of a population.
    """
    require(process, "score", "imputation")
    # Where the states are the coordinates of components, what is known of a row is another condition in each.
    complete = _impute_rows if process.components is None else impute_in_components
    return complete(process, score, rows, draws, steps, end_dt, seed, device, particles, advance)


def _impute_rows(
    process: Process,
    score: Score,
    rows: np.ndarray,
    draws: int,
    steps: int,
    end_dt: float,
    seed: int,
    device: torch.device | str,
    particles: int,
    advance: Callable[[int], None],
) -> np.ndarray:
    """As `impute`; the stream (seed, "impute", population, block) drives the rows of each block of 64."""
    n, d = rows.shape
    out = np.empty((draws, n, d), dtype=np.float32)
    first_draws, begins = range(0, draws, particles), range(0, n, BLOCK)
    blocks = [(first, begin) for first in first_draws for begin in begins]
    at_once = max(1, CHUNK_VALUES // (d * particles * min(n, BLOCK)))
    shares = []
    for i in range(0, len(blocks), at_once):
        part = blocks[i : i + at_once]
        taken = [rows[begin : begin + BLOCK] for _, begin in part]
        counts = [len(block) for block in taken]
        streams = Streams(
            [torch_stream(seed, "impute", first // particles, begin // BLOCK) for first, begin in part],
            counts,
            BLOCK,
        )
        x = torch.from_numpy(np.concatenate(taken).astype(np.float32)).to(device)
        completed, share = populations(process, score, x, steps, end_dt, streams, particles)
        shares.append(share.cpu())
        for (first, begin), drawn in zip(part, completed.cpu().split(counts), strict=True):
            wanted = min(particles, draws - first)
            out[first : first + wanted, begin : begin + len(drawn)] = drawn[:, :wanted].transpose(0, 1)
            advance(wanted * len(drawn))
    warn_of_few(torch.cat(shares), particles)
    return out
