"""Populations of completions of rows given some of their numbers, for linear and nonlinear noising alike.

Wanted is p(z | y) for the free numbers z of a row and its known ones y. From T to τ, the last time before 0, lead the laws

    π_t(z) ∝ p_t(y_t, z),    y_t = α(t) y,    α = 1 for nonlinear noising,

of which the score is the free part of s(y_t, z, t). π_τ is the law wanted, but for the noise of time τ. π_T is known: that of
the prior given y_T, which is drawn exactly, component and all. (A prior without `sample_given`, which a `GaussianMixture` has, is drawn without regard
to y_T, which is exact if its numbers are independent, and `START_CORRECTIONS` of the steps below come before the rest.)

A population of completions goes down this path: sequential Monte Carlo (Del Moral, Doucet and Jasra 2006) with a transport
(Vaikuntanathan and Jarzynski 2008). With the velocity F = -f - ½g² s of the probability flow, between two times

- the free numbers move with the free part of F, while the known ones follow y_t;
- the logarithm of a completion's weight grows by ∫ (ẏ_t - F_known)·s_known - div_known F dt, because ∂_t log p_t is
  -div F - F·s and the free numbers' move takes the free part of that away;
- populations whose weights have become uneven are drawn anew by them;
- a Langevin step of the free numbers follows, accepted by Metropolis and Hastings' rule, which leaves π_t as it is. The ratio of
  the densities is the integral of the score along the step, by Simpson's rule.

In the limit of many completions and short steps the draws have the law wanted if the score is exact. Where the data's law is the
mixture of the noising, F = 0, all weights are equal, and the draws are exact whatever the number of either.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from ndsm.core.types import Score
from ndsm.processes import Process
from ndsm.samplers.base import draw_prior, posterior_mean, score_at
from ndsm.samplers.grids import Spacing, level_grid
from ndsm.samplers.ode import velocity

STEP_SIZE = 0.5
"""Size of a Langevin step of one free number, as a share of V(t); it falls with the cube root of their number."""
START_CORRECTIONS = 20
"""Langevin steps at T for a prior without a conditional law in closed form."""
UNEVEN = 0.5
"""Effective share of a population below which it is drawn anew."""
FEW = 0.2
"""Mean effective share of the populations below which a warning is given."""
PROBES = 4
"""Directional derivatives for div_known F: exact up to so many known numbers, random signs for more, the same for a whole
population, the only completions whose weights are compared."""
CHUNK_VALUES = 1 << 16
"""Numbers per batch."""


@torch.no_grad()
def populations(
    process: Process,
    score: Score,
    rows: Tensor,
    steps: int,
    end_dt: float,
    streams: "Streams",
    particles: int,
) -> tuple[Tensor, Tensor]:
    """As many draws of each row as particles, (B, P, d), and the effective share of each population, (B,): the product
    of those at which it was drawn anew and at the end."""
    (batch, d), weighted = rows.shape, particles > 1
    known = (~rows.isnan()).repeat_interleave(particles, 0)
    clean = torch.where(known, rows.repeat_interleave(particles, 0), 0.0)
    free_count = (~known).sum(1, keepdim=True).clamp(min=1)
    times = level_grid(process, steps, end_dt, Spacing(signal=0.0))
    log_weights = rows.new_zeros(batch, particles, dtype=torch.float64)
    kept = torch.ones(batch, dtype=torch.float64, device=rows.device)

    def known_at(t: float) -> Tensor:
        if process.transition is None:
            return clean
        return clean * float(process.transition.log_alpha(torch.tensor([t], dtype=torch.float64)).exp())

    def correct(x: Tensor, t: float) -> tuple[Tensor, Tensor]:
        variance = float(process.variance(torch.tensor([t], dtype=torch.float64)))
        size = STEP_SIZE * variance / free_count ** (1 / 3)
        z, level = streams.normal(rows, (particles, d)), streams.uniform(rows, particles)
        return _langevin(score, x, t, size, ~known, z.reshape(x.shape), level.reshape(-1))

    start, end = float(times[0]), float(times[-2])
    x = torch.where(known, known_at(start), streams.prior_given(process, known_at(start), known))
    if not hasattr(process.prior, "sample_given"):
        for _ in range(START_CORRECTIONS):
            x, _ = correct(x, start)
    s = score_at(score, x, start)
    for t, u in pairwise(map(float, times[:-1])):
        # The midpoint rule, for weights and rows alike.
        middle, h = 0.5 * (t + u), u - t
        half = torch.where(known, known_at(middle), x + 0.5 * h * velocity(process, x, s, t))
        if weighted:
            directions = streams.directions(rows, particles)
            s, flow, slope = _flow_and_divergence(process, score, half, middle, directions)
            along = torch.where(known, s * (known_at(u) - known_at(t) - h * flow), 0.0).sum(1)
            log_weights += (along - h * slope).double().reshape(batch, particles)
        else:
            flow = velocity(process, half, score_at(score, half, middle), middle)
        x = torch.where(known, known_at(u), x + h * flow)
        if weighted:
            share = _effective_share(log_weights)
            uneven = (share < UNEVEN)[:, None]
            kept = torch.where(uneven[:, 0], kept * share, kept)
            taken = torch.where(
                uneven,
                _systematic(log_weights, streams.uniform(rows, 1)),
                torch.arange(particles, device=rows.device),
            )
            x = _of_populations(x, taken)
            log_weights = torch.where(uneven, 0.0, log_weights)
        x, s = correct(x, u)
    x = torch.where(known, clean, posterior_mean(process, x, s, end))
    if weighted:
        kept = kept * _effective_share(log_weights)
        x = _of_populations(x, _systematic(log_weights, streams.uniform(rows, 1)))
        # Shuffle, so that each place of a population has the same law.
        x = _of_populations(x, streams.uniform(rows, particles).argsort(1))
    return x.reshape(batch, particles, d), kept


def _flow_and_divergence(
    process: Process, score: Score, x: Tensor, t: float, directions: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """s and F, (B, d), and Σ uᵀ DF u over the directions u (P, B, d), (B,)."""

    def both(y: Tensor) -> tuple[Tensor, Tensor]:
        s = score_at(score, y, t)
        return velocity(process, y, s, t), s

    def along(u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (flow, s), (slope, _) = torch.func.jvp(both, (x,), (u,))[:2]
        return s, flow, (slope * u).sum(1)

    each: Callable[..., Any] = torch.func.vmap(along, out_dims=(None, None, 0))  # type: ignore[arg-type]
    s, flow, slopes = each(directions)
    return s, flow, slopes.sum(0)


def _langevin(
    score: Score, x: Tensor, t: float, size: Tensor, free: Tensor, z: Tensor, level: Tensor
) -> tuple[Tensor, Tensor]:
    """x + ε s + sqrt(2ε) z of the free numbers where accepted, else x, and the score there, (B, d) each.

    Args:
        size: ε, (B, 1).
        free: (B, d) bool.
        z, level: standard normal (B, d), and uniform numbers (B,) that a step is accepted below.
    """
    here = score_at(score, x, t)
    move = torch.where(free, size * here + (2 * size).sqrt() * z, 0.0)
    there, between = score_at(score, x + move, t), score_at(score, x + 0.5 * move, t)
    gained = (move * (here + 4 * between + there)).sum(1) / 6
    forth, back = move - size * here, -move - size * there
    gained += (torch.where(free, forth**2 - back**2, 0.0) / (4 * size)).sum(1)
    accepted = (level.log() < gained)[:, None]
    return torch.where(accepted, x + move, x), torch.where(accepted, there, here)


def _effective_share(log_weights: Tensor) -> Tensor:
    """(Σ w)²/(P Σ w²) of each population, (B, P) → (B,)."""
    return 1 / (log_weights.softmax(1) ** 2).sum(1) / log_weights.shape[1]


def _systematic(log_weights: Tensor, offset: Tensor) -> Tensor:
    """Indices (B, P) of each population drawn by its weights, each as often as P times its weight, rounded up or down."""
    count = log_weights.shape[1]
    at = (torch.arange(count, device=offset.device) + offset.double()) / count
    return torch.searchsorted(log_weights.softmax(1).cumsum(1), at).clamp(max=count - 1)


def _of_populations(x: Tensor, taken: Tensor) -> Tensor:
    """The taken ones (B, P) of each population of rows, (B P, d) → (B P, d)."""
    populations = x.reshape(*taken.shape, -1)
    return populations.gather(1, taken[..., None].expand_as(populations)).reshape(x.shape)


@dataclass(frozen=True)
class Streams:
    """A random stream for each block of consecutive rows; what a row gets does not depend on how many its block has."""

    generators: Sequence[torch.Generator]
    """On the CPU."""
    counts: list[int]
    """Rows of each block."""
    size: int
    """Rows that are drawn for each block; the first ones are used."""

    def normal(self, rows: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Standard normal numbers of a shape for each row, (B, ...)."""
        return self._each(lambda g: torch.randn(self.size, *shape, generator=g)).to(rows)

    def uniform(self, rows: Tensor, count: int) -> Tensor:
        """Uniform numbers for each row, (B, count)."""
        return self._each(lambda g: torch.rand(self.size, count, generator=g)).to(rows)

    def directions(self, rows: Tensor, particles: int) -> Tensor:
        """Vectors u (P, B · particles, d) in the known numbers with Σ E uᵀ M u the trace of M over these: axes, or random signs
        where there are more of them than `PROBES`."""
        count, known = min(PROBES, rows.shape[1] - 1), ~rows.isnan()
        place = torch.arange(1, count + 1, device=rows.device)[:, None, None]
        vectors = ((known.cumsum(1) == place) & known).to(rows)
        if rows.shape[1] - 1 > PROBES:
            signs = self._each(
                lambda g: torch.randint(2, (self.size, count, rows.shape[1]), generator=g) * 2 - 1
            )
            random = signs.to(rows).transpose(0, 1) * known / math.sqrt(count)
            vectors = torch.where(known.sum(1, keepdim=True) > PROBES, random, vectors)
        return vectors.repeat_interleave(particles, 1)

    def prior_given(self, process: Process, y: Tensor, known: Tensor) -> Tensor:
        """Draws of the prior given the known numbers of each row of y, (B, d); without regard to them if it is no mixture."""
        sample_given, particles = getattr(process.prior, "sample_given", None), len(y) // sum(self.counts)
        parts = []
        of_blocks = [particles * count for count in self.counts]
        for generator, values, k in zip(
            self.generators, y.split(of_blocks), known.split(of_blocks), strict=True
        ):
            if sample_given is not None:
                padded = torch.arange(self.size * particles, device=y.device).clamp(max=len(values) - 1)
                drawn = sample_given(values[padded], k[padded], generator)
            else:
                drawn = draw_prior(process, self.size * particles, generator).to(y)
            parts.append(drawn[: len(values)])
        return torch.cat(parts)

    def _each(self, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        return torch.cat([draw(g)[:count] for g, count in zip(self.generators, self.counts, strict=True)])


def warn_of_few(shares: Tensor, particles: int) -> None:
    """Warn if the weights of populations leave little of them.

    Args:
        shares: effective share of each population, (B,).
    """
    if (left := float(shares.mean())) < FEW:
        warnings.warn(
            f"missing numbers: the weights leave {left * particles:.1f} of {particles} completions of a row on average, so that the "
            "model and its prior disagree about the rows; more particles or a mixture with more components would do better",
            stacklevel=4,
        )
