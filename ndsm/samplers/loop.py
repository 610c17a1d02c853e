"""Generation: rows of the prior, in chunks with a random stream each, carried to the data by a sampler."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ndsm.core.rng import torch_stream
from ndsm.core.types import Score
from ndsm.errors import InputError
from ndsm.processes import Process, of_components
from ndsm.samplers.base import Sampler, draw_prior, run
from ndsm.samplers.registry import find_sampler

CHUNK = 4096
"""Rows that share one random stream, so that rows do not depend on how many are requested at a time."""


def reverse_times(process: Process, sampler: str | Sampler, evaluations: int, end_dt: float) -> np.ndarray:
    """Times of generation of a sampler, see `SteppingSampler.times`.

    Raises:
        InputError: fewer than 2 evaluations, or the process does not support the sampler.
    """
    return find_sampler(sampler).times(process, checked_evaluations(evaluations), end_dt)


def checked_evaluations(evaluations: int) -> int:
    """Return the number if it is at least 2.

    Raises:
        InputError: it is below 2.
    """
    if evaluations < 2:
        raise InputError(f"steps: expected at least 2 evaluations of the score, found {evaluations}")
    return evaluations


@torch.no_grad()
def integrate(
    process: Process,
    score: Score,
    times: np.ndarray,
    x: Tensor,
    generator: torch.Generator,
    draw_rows: int | None = None,
    sampler: str | Sampler = "em",
) -> Tensor:
    """x at time times[0] carried to times[-1] = 0 by a sampler, (B, d) → (B, d).

    Args:
        times: decreasing, ending in 0.
        draw_rows: rows of noise drawn per step, B if not given; x uses the first B of them.
    """
    noise = x.new_empty(draw_rows or len(x), x.shape[1])
    return run(
        find_sampler(sampler), process, score, times, x, lambda: noise.normal_(generator=generator)[: len(x)]
    )


def generate(
    process: Process,
    score: Score,
    times: np.ndarray,
    n: int,
    seed: int,
    device: torch.device | str = "cpu",
    sampler: str | Sampler = "em",
    first_chunk: int = 0,
) -> Iterator[Tensor]:
    """n generated rows in chunks of at most 4096, (m, d) each; the stream (seed, "sample", chunk) drives each.

    The first rows are the same for a larger n. A sampler whose rows depend on one another says how many go together by an
    attribute `rows_together`; they are then generated whatever n is.

    Args:
        process, score: on `device`.
        times, sampler: as `integrate`.
        first_chunk: where to begin; the chunks are those of a longer generation.
    """
    components = process.components
    together: int | None = getattr(find_sampler(sampler), "rows_together", None)
    for chunk, size in enumerate(chunk_sizes(n), first_chunk):
        first = torch_stream(seed, "sample", chunk)
        # A whole chunk's numbers are drawn whatever `n` is: the first rows stay the same for a larger n.
        x = draw_prior(process, CHUNK, first).to(device)
        generator = first if x.device.type == "cpu" else torch_stream(seed, "sample", chunk, device=device)
        groups = [slice(size)]
        if together is not None:
            groups = [slice(begin, begin + together) for begin in range(0, size, together)]
        if components is None:
            carried = [integrate(process, score, times, x[g], generator, CHUNK, sampler) for g in groups]
        else:
            k = components.draw_prior(CHUNK, torch_stream(seed, "components", chunk)).to(device)
            scores = [of_components(score, k[g]) for g in groups]
            carried = [
                components.leave(integrate(process, s, times, x[g], generator, CHUNK, sampler), k[g])
                for s, g in zip(scores, groups, strict=True)
            ]
        yield torch.cat(carried)[:size]


def chunk_sizes(n: int) -> list[int]:
    """n split into chunks of `CHUNK` and a rest."""
    return [CHUNK] * (n // CHUNK) + ([n % CHUNK] if n % CHUNK else [])


def sample_prior(process: Process, n: int, seed: int) -> Tensor:
    """n rows of the prior alone, (n, d): the baseline of a model."""
    generator = torch_stream(seed, "prior")
    if (components := process.to("cpu").components) is None:
        return draw_prior(process, n, generator)
    k = components.draw_prior(n, generator)
    return components.leave(draw_prior(process, n, generator), k)
