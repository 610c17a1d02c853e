"""Draws of rows given measurements y = A x + noise, by moment matching or by projection."""

from collections.abc import Iterator
from typing import Literal, cast

import numpy as np
import torch

from ndsm.core.rng import torch_stream
from ndsm.core.types import Score
from ndsm.inference.completions import CHUNK_VALUES
from ndsm.inference.guidance import MomentMatched
from ndsm.inference.noised_references import noised_measurements, start_given
from ndsm.inference.operators import Operator
from ndsm.inference.projection import ProjectedSampler
from ndsm.processes import Process
from ndsm.samplers import Sampler, integrate, reverse_times

Method = Literal["moment-matched", "projection"]
ITERATIONS = 6
"""Iterations of conjugate gradients where no derivatives are taken."""


def reconstruct(
    process: Process,
    score: Score,
    operator: Operator,
    y: np.ndarray,
    noise: np.ndarray,
    draws: int,
    steps: int,
    end_dt: float,
    seed: int,
    device: torch.device | str = "cpu",
    method: Method | None = None,
    strength: float = 1.0,
) -> Iterator[np.ndarray]:
    """A row in model units for each row of measurements (n, m), `draws` times: draw after draw, (k, d) float32 at a time.

    The stream (seed, "reconstruct", chunk) drives each chunk; its size depends on d alone.

    Args:
        process, score: on `device`.
        noise: standard deviation of each measurement, (m,).
        steps: evaluations of the score.
        end_dt: size of the last step.
        method: `MomentMatched` or `ProjectedSampler`; the latter for a drift of your own if None, else the former.
        strength: λ of the projection.

    Raises:
        InputError: A does not fit y or the process's rows, or a drift of your own is to be moment-matched.
    """
    linear, own_drift = process.transition is not None, process.mixture is None
    sampler = "ancestral" if linear else "em" if own_drift else "exponential"
    times = reverse_times(process, sampler, steps, end_dt)
    rows, size = draws * len(y), max(16, CHUNK_VALUES // operator.matrix.shape[1])
    for chunk, begin in enumerate(range(0, rows, size)):
        taken = np.arange(begin, min(begin + size, rows)) % len(y)
        generator = torch_stream(seed, "reconstruct", chunk)
        measured, std = (torch.from_numpy(a.astype(np.float32)).to(device) for a in (y[taken], noise))
        wrapped: Sampler | str = sampler
        guided: Score = score
        if (method or ("projection" if own_drift else "moment-matched")) == "projection":
            noised, x = noised_measurements(process, operator, measured, std, times, generator)
            wrapped = ProjectedSampler(sampler, operator, noised, strength, exact=bool((std == 0).all()))
        else:
            x = start_given(process, operator, measured, std, generator)
            iterations = 4 if linear else ITERATIONS
            matched = MomentMatched(process, score, operator, measured, std, iterations=iterations)
            guided = cast(Score, matched)
        steps_stream = torch_stream(seed, "reconstruct steps", chunk, device=device)
        yield integrate(process, guided, times, x, steps_stream, sampler=wrapped).cpu().numpy()
