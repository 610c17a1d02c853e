"""Generation: rows of the prior, in chunks with a random stream each, carried to the data by a sampler."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndsm.config import Sample, SamplerName
from ndsm.core.rng import torch_stream
from ndsm.errors import InputError
from ndsm.objectives import Score
from ndsm.processes import Process
from ndsm.processes.transitions import LinearKernel, MixtureKernel, kernel_of
from ndsm.samplers.annealed import AnnealedLangevin
from ndsm.samplers.base import Sampler, Spacing, draw_prior
from ndsm.samplers.flow import Flow
from ndsm.samplers.ode import Adaptive, Heun
from ndsm.samplers.reverse_sde import PredictorCorrector, ReverseSDE

CHUNK = 4096
"""Rows that share one random stream, so that what is generated does not depend on how many are asked for
at a time."""

SAMPLERS: dict[SamplerName, Sampler] = {
    "em": ReverseSDE("em"),
    "exponential": ReverseSDE("exponential"),
    "reverse-diffusion": ReverseSDE("reverse-diffusion"),
    "ancestral": Flow(kernel_of, "ancestral", noise=1.0),
    "pc": PredictorCorrector(),
    "annealed": AnnealedLangevin(),
    "ode": Heun(),
    "ode-adaptive": Adaptive(),
    "flow": Flow(MixtureKernel, "flow"),
    "flow2": Flow(MixtureKernel, "flow2", order=2),
    "ddim": Flow(LinearKernel, "ddim"),
    "dpmpp-2m": Flow(LinearKernel, "dpmpp-2m", order=2),
}


def find_sampler(
    sampler: str | Sampler,
    noise: float | None = None,
    spacing: Spacing | None = None,
    slope_error: float | None = None,
) -> Sampler:
    """The sampler of a name; one of your own as it is.

    Args:
        noise: η of `Flow`, in place of the sampler's own.
        spacing: of the times of `Flow`, in place of the sampler's own.
        slope_error: ε of `Flow`, in place of that of a learned score; 0 for a score that is known exactly.

    Raises:
        InputError: there is no such name, or one of the others for a sampler that is no `Flow`.
    """
    if isinstance(sampler, str):
        if sampler not in SAMPLERS:
            raise InputError(f"sample.sampler: expected one of {', '.join(SAMPLERS)}, found {sampler!r}")
        found: Sampler = SAMPLERS[sampler]
    else:
        found = sampler
    given = {"noise": noise, "spacing": spacing, "slope_error": slope_error}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not changes:
        return found
    if not isinstance(found, Flow):
        known = ", ".join(name for name, one in SAMPLERS.items() if isinstance(one, Flow))
        fields = {
            "noise": "sample.noise",
            "spacing": "sample.power, signal or end",
            "slope_error": "sample.slope_error",
        }[next(iter(changes))]
        raise InputError(f"{fields}: expected one of the samplers {known}, found {sampler!r}")
    return replace(found, **changes)


def requested_sample(
    own: Sample, sampler: str | None = None, steps: int | None = None, noise: float | None = None
) -> Sample:
    """A run's `sample` section with what a request says in its place; what the run says of its sampler goes with that one only."""
    asked: dict[str, Any] = {"steps": steps, "noise": noise}
    if sampler not in (None, own.sampler):
        asked |= {"sampler": sampler, "steps": steps or own.steps}
        own = Sample()
    return own.model_copy(update={name: value for name, value in asked.items() if value is not None})


def configured_sampler(sample: Sample) -> Sampler:
    """The sampler of a configuration.

    Raises:
        InputError: settings for a sampler that does not have them.
    """
    spacing = Spacing(sample.power, sample.signal, sample.end)
    return find_sampler(
        sample.sampler, sample.noise, None if spacing == Spacing() else spacing, sample.slope_error
    )


def reverse_times(process: Process, sampler: str | Sampler, evaluations: int, end_dt: float) -> np.ndarray:
    """A sampler's own times of generation, see `Sampler.times`.

    Raises:
        InputError: fewer than 2 evaluations, or the process does not support the sampler.
    """
    return find_sampler(sampler).times(process, checked_evaluations(evaluations), end_dt)


def checked_evaluations(evaluations: int) -> int:
    """The number itself.

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
    return find_sampler(sampler)(
        process, score, times, x, lambda: noise.normal_(generator=generator)[: len(x)]
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
    together: int | None = getattr(find_sampler(sampler), "rows_together", None)
    for chunk, size in enumerate(chunk_sizes(n), first_chunk):
        first = torch_stream(seed, "sample", chunk)
        # A whole chunk's numbers are drawn whatever `n` is: the first rows stay the same for a larger n.
        x = draw_prior(process, CHUNK, first).to(device)
        generator = first if x.device.type == "cpu" else torch_stream(seed, "sample", chunk, device=device)
        groups = [x[:size]]
        if together is not None:
            groups = [x[begin : begin + together] for begin in range(0, size, together)]
        carried = [integrate(process, score, times, y, generator, CHUNK, sampler) for y in groups]
        yield torch.cat(carried)[:size]


def chunk_sizes(n: int) -> list[int]:
    """n split into chunks of `CHUNK` and a rest."""
    return [CHUNK] * (n // CHUNK) + ([n % CHUNK] if n % CHUNK else [])


def sample_prior(process: Process, n: int, seed: int) -> Tensor:
    """n rows of the prior alone, (n, d): what a model has to beat."""
    return draw_prior(process, n, torch_stream(seed, "prior"))
