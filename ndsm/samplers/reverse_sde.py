"""Generation by the reverse SDE (Algorithm 2).

dX = (f(X, t) + g(t)² s(X, t)) dt + g(t) dW (eq. 1), run from the prior at t = T down to t = 0, by Euler-Maruyama or by
the step that belongs to the exponential integrator.
"""

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor

from ndsm.errors import InputError
from ndsm.objectives import Score
from ndsm.processes import Process
from ndsm.processes.modes import Modes
from ndsm.streams import torch_stream

CHUNK = 4096
"""Rows that share one random stream, so that what is generated does not depend on how many are asked for
at a time."""


Step = Callable[[Process, Tensor, Tensor, float, float, Tensor | None], Tensor]
"""X at time t - h from x at time t, its score s, t, h and standard normal noise or None, (B, d)."""


def euler_maruyama(process: Process, x: Tensor, s: Tensor, t: float, h: float, z: Tensor | None) -> Tensor:
    """x + (f + g² s) h + g sqrt(h) z."""
    g = process.diffusion(t)
    x = x + (process.drift(x, t) + g * g * s) * h
    return x if z is None else x.add_(z, alpha=g * math.sqrt(h))


def exponential(process: Process, x: Tensor, s: Tensor, t: float, h: float, z: Tensor | None) -> Tensor:
    """μ + ((x - μ) + q s)/a + sqrt(q) z, a = exp(-h/v), q = v (1 - a²) along each axis of x's likeliest component.

    The mean is that of Y_{t-h} given Y_t = x wherever the forward process is that mode's own, for any h (Tweedie's
    formula for one exponential step). The variance is exact for data spread like the mode. Data concentrated at a point
    would have q(h) q(t - h)/q(t), q(t) = v (1 - exp(-2t/v)); with the same grid that loses more variance than this adds.

    Raises:
        InputError: the process has no mixture.
    """
    mixture = process.mixture
    if mixture is None:
        raise InputError(
            "sample.sampler 'exponential': expected a process with a mixture, found a drift without one"
        )
    modes = Modes(mixture, x.T)
    v = modes.of_paths(modes.variance)
    center = mixture.means.to(x)[modes.component].T
    q = -v * torch.expm1(-2 * h / v)
    moved = (modes.to_axes(x.T - center) + q * modes.to_axes(s.T)) * torch.exp(h / v)
    if z is not None:
        moved += q.sqrt() * z.T
    return (center + modes.from_axes(moved)).T


STEPS: dict[str, Step] = {"em": euler_maruyama, "exponential": exponential}


@torch.no_grad()
def reverse_sde(
    process: Process,
    score: Score,
    times: np.ndarray,
    x: Tensor,
    generator: torch.Generator,
    draw_rows: int | None = None,
    sampler: str = "em",
) -> Tensor:
    """x at time times[0] carried to times[-1], (B, d) → (B, d).

    The last step adds no noise: it is the posterior mean of Y_0 given Y_h = x (Tweedie's formula for the local kernel).

    Args:
        times: decreasing, (steps + 1,), ending in 0.
        draw_rows: rows of noise drawn per step, B if not given; x uses the first B of them.
        sampler: `em` or `exponential`.
    """
    noise = x.new_empty(draw_rows or len(x), x.shape[1])
    for t, h in zip(times[:-1], times[:-1] - times[1:], strict=True):
        s = score(x, torch.full((len(x),), float(t), device=x.device))
        z = None if t == times[-2] else noise.normal_(generator=generator)[: len(x)]
        x = STEPS[sampler](process, x, s, float(t), float(h), z)
    return x


def generate(
    process: Process,
    score: Score,
    times: np.ndarray,
    n: int,
    seed: int,
    device: torch.device | str = "cpu",
    sampler: str = "em",
) -> Iterator[Tensor]:
    """n generated rows in chunks of at most 4096, (m, d) each; the stream (seed, "sample", chunk) drives each.

    Args:
        process, score: on `device`.
        times, sampler: as `reverse_sde`.
    """
    for chunk, size in enumerate(chunk_sizes(n)):
        generator = torch_stream(seed, "sample", chunk, device=device)
        # A whole chunk's numbers are drawn whatever `n` is: the first rows stay the same for a larger n.
        x = process.prior.sample(CHUNK, generator)[:size]
        yield reverse_sde(process, score, times, x, generator, CHUNK, sampler)


def chunk_sizes(n: int) -> list[int]:
    """n split into chunks of `CHUNK` and a rest."""
    return [CHUNK] * (n // CHUNK) + ([n % CHUNK] if n % CHUNK else [])


def sample_prior(process: Process, n: int, seed: int) -> Tensor:
    """n rows of the prior alone, (n, d): what a model has to beat."""
    device = process.mixture.device if process.mixture is not None else "cpu"
    return process.prior.sample(n, torch_stream(seed, "prior", device=device))
