"""Generation by the reverse SDE (Algorithm 2), Euler-Maruyama.

dX = (f(X, t) + g(t)² s(X, t)) dt + g(t) dW (eq. 1), run from the prior at t = T down to t = 0.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ndsm.objectives import Score
from ndsm.processes import Process
from ndsm.streams import torch_stream

CHUNK = 4096
"""Rows that share one random stream, so that what is generated does not depend on how many are asked for
at a time."""


@torch.no_grad()
def reverse_sde(
    process: Process,
    score: Score,
    times: np.ndarray,
    x: Tensor,
    generator: torch.Generator,
    draw_rows: int | None = None,
) -> Tensor:
    """x at time times[0] carried to times[-1], (B, d) → (B, d).

    The last step adds no noise: x + (f + g² s)·h, which is the posterior mean of Y_0 given Y_h = x
    (Tweedie's formula for the local kernel, whose variance is g² h).

    Args:
        times: decreasing, (steps + 1,), ending in 0.
        draw_rows: rows of noise drawn per step, B if not given; x uses the first B of them.
    """
    noise = x.new_empty(draw_rows or len(x), x.shape[1])
    for t, h in zip(times[:-1], times[:-1] - times[1:], strict=True):
        s = score(x, torch.full((len(x),), float(t), device=x.device))
        g = process.diffusion(float(t))
        x = x + (process.drift(x, float(t)) + g * g * s) * float(h)
        if t != times[-2]:
            x.add_(noise.normal_(generator=generator)[: len(x)], alpha=g * math.sqrt(float(h)))
    return x


def generate(
    process: Process, score: Score, times: np.ndarray, n: int, seed: int, device: torch.device | str = "cpu"
) -> Iterator[Tensor]:
    """n generated rows in chunks of at most 4096, (m, d) each; the stream (seed, "sample", chunk) drives each.

    Args:
        process, score: on `device`.
        times: as `reverse_sde`.
    """
    for chunk, size in enumerate(chunk_sizes(n)):
        generator = torch_stream(seed, "sample", chunk, device=device)
        # A whole chunk's numbers are drawn whatever `n` is: the first rows stay the same for a larger n.
        x = process.prior.sample(CHUNK, generator)[:size]
        yield reverse_sde(process, score, times, x, generator, CHUNK)


def chunk_sizes(n: int) -> list[int]:
    """n split into chunks of `CHUNK` and a rest."""
    return [CHUNK] * (n // CHUNK) + ([n % CHUNK] if n % CHUNK else [])


def sample_prior(process: Process, n: int, seed: int) -> Tensor:
    """n rows of the prior alone, (n, d): what a model has to beat."""
    device = process.mixture.device if process.mixture is not None else "cpu"
    return process.prior.sample(n, torch_stream(seed, "prior", device=device))
