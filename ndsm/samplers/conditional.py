"""Rows given some of their numbers: imputation (dissertation, 7.5), for linear and nonlinear noising alike.

At a fixed time the score of Y_t's free numbers given the others is the free part of s(y, t): nothing is approximated.
What the known ones are at that time comes from a **twin**: the row, completed by a draw of the mixture given its known
numbers, is noised by the process itself along the whole grid. Generation then comes down the same grid from where the
twin ended. After each step of the reverse SDE the known numbers are put where the twin had them, and some steps of Langevin
dynamics among the free ones follow. They keep the law of the free numbers given the known ones as it is, and mend what
replacing alone leaves wrong: it never tells the free numbers.

A linear process noises each number by itself, and the twin's known numbers have exactly their law. Those of a mixture
also depend on the mode that the completed row is in, of which the mixture knows as much as it knows; that fades as t → 0.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from ndsm.components import regression
from ndsm.objectives import Score
from ndsm.processes import Langevin, Process, reverse_grid
from ndsm.processes.integrators import INTEGRATORS
from ndsm.processes.modes import Modes
from ndsm.samplers.base import KnownKernel, draw_prior, score_at, transition
from ndsm.samplers.reverse_sde import STEPS
from ndsm.streams import torch_stream

CORRECTIONS = 5
"""Langevin steps after each step of the reverse SDE."""
LARGEST = 1.5
"""Largest eigenvalue of Σ Σ_i⁻¹ over the components that a Langevin step takes: beyond 2 it would not be stable."""
BLOCK = 64
"""Rows that share a random stream in `impute`."""
CHUNK_VALUES = 1 << 16
"""Numbers that are drawn at a time: what bounds the memory of the twins' paths."""


def draw_given(
    process: Process,
    score: Score,
    rows: Tensor,
    steps: int,
    end_dt: float,
    generator: torch.Generator,
    corrections: int = CORRECTIONS,
) -> Tensor:
    """One draw of the missing numbers of each row given the others, (B, d) → (B, d); the others as they are.

    Args:
        process, score: on the rows' device.
        rows: in model units, NaN where a number is missing.
        steps: of the reverse SDE; each takes 1 + corrections evaluations of the score.
        end_dt: size of the last of them.
        generator: on the CPU.
    """
    return _draw_given(
        process, score, rows, steps, end_dt, _Streams([generator], [len(rows)], len(rows)), corrections
    )


@torch.no_grad()
def _draw_given(
    process: Process,
    score: Score,
    rows: Tensor,
    steps: int,
    end_dt: float,
    streams: "_Streams",
    corrections: int,
) -> Tensor:
    """As `draw_given`."""
    mixture = process.mixture if isinstance(process, Langevin) else None
    name = "em" if mixture is None else "exponential"
    times = reverse_grid(process, steps, end_dt, name)
    known = ~rows.isnan()
    start, draw = streams.completed(process, rows, known), partial(streams.normal, rows)
    twins = noised(process, start, times[::-1], draw)[::-1]
    x = twins[0]
    for k, (t, u) in enumerate(pairwise(times)):
        last = u == times[-1]
        s = score_at(score, x, t)
        x = STEPS[name](process, x, s, float(t), float(t - u), None if last else draw())
        x = torch.where(known, twins[k + 1], x)
        if not last:
            among = _Langevin(process, known, float(u))
            for _ in range(corrections):
                x = among.step(x, score_at(score, x, u), draw())
    return x


def noised(process: Process, start: Tensor, times: np.ndarray, draw: Callable[[], Tensor]) -> list[Tensor]:
    """Rows noised from time times[0] = 0 on, at each of the times, (B, d) each."""
    if isinstance(process, KnownKernel):
        path = [start]
        for u, t in pairwise(map(float, times)):
            a, q = transition(process, u, t)
            path.append(a * path[-1] + math.sqrt(q) * draw())
        return path
    exact = isinstance(process, Langevin) and process.mixture is not None
    modes = Modes(process.mixture if exact else None, start.T)
    integrator = INTEGRATORS["exponential" if exact else "euler-maruyama"](process, modes)
    y, path = start.T.clone(), [start]
    for t, h in zip(times[:-1], np.diff(times), strict=True):
        integrator.advance(y, process.drift_columns(y, float(t)), draw().T, float(h), float(t))
        path.append(y.T.clone())
    return path


@dataclass(frozen=True)
class _Streams:
    """A random stream for each block of consecutive rows; what a row gets does not depend on how many its block has."""

    generators: Sequence[torch.Generator]
    """On the CPU."""
    counts: list[int]
    """Rows of each block."""
    size: int
    """Rows that are drawn for each block; the first ones are used."""

    def normal(self, rows: Tensor) -> Tensor:
        """Standard normal numbers like the rows, (B, d)."""
        shape = (self.size, rows.shape[1])
        drawn = [
            torch.randn(shape, generator=g)[:count]
            for g, count in zip(self.generators, self.counts, strict=True)
        ]
        return torch.cat(drawn).to(rows)

    def completed(self, process: Process, rows: Tensor, known: Tensor) -> Tensor:
        """Rows (B, d) whose unknown numbers are drawn from the mixture given the known ones, or from the prior."""
        mixture = process.mixture if isinstance(process, Langevin) else None
        parts = []
        for generator, y, k in zip(
            self.generators, rows.split(self.counts), known.split(self.counts), strict=True
        ):
            if mixture is None:
                drawn = torch.where(k, y, draw_prior(process, self.size, generator)[: len(y)].to(y))
            else:
                padded = torch.arange(self.size).clamp(max=len(y) - 1)
                drawn = mixture.sample_given(y[padded], k[padded], generator)[: len(y)]
            parts.append(drawn)
        return torch.cat(parts)


class _Langevin:
    """Langevin steps x + Σ_t s + sqrt(2) Σ_t^½ z of the free numbers, Σ_t given the known ones.

    Σ_t = Σ (1 - exp(-2t Σ⁻¹)), what noising adds inside a mode, with the mixture's pooled covariance Σ, smaller if some
    component is much thinner; V(t) for a process without a mixture.
    """

    def __init__(self, process: Process, known: Tensor, t: float) -> None:
        self._free, self._regression = ~known, None
        mixture = process.mixture if isinstance(process, Langevin) else None
        if mixture is None:
            self._root = process.variance(torch.tensor([t])).sqrt().to(known.device)
            return
        covariance = mixture.pooled_covariance * min(1.0, LARGEST / mixture.thinness)
        if covariance.ndim == 1:
            self._root = (-covariance * torch.expm1(-2 * t / covariance)).sqrt().float().to(known.device)
            return
        variance, axes = torch.linalg.eigh(covariance)
        added = -variance * torch.expm1(-2 * t / variance)
        self._root = ((axes * added.sqrt()) @ axes.T).float().to(known.device)
        self._regression = regression((axes * added) @ axes.T, known.cpu()).float().to(known.device)

    def step(self, x: Tensor, s: Tensor, z: Tensor) -> Tensor:
        """x one step on, for its score s and standard normal noise, (B, d) each."""
        if self._regression is None:
            move = self._root**2 * s + math.sqrt(2.0) * self._root * z
            return torch.where(self._free, x + move, x)
        move = (s @ self._root) @ self._root + math.sqrt(2.0) * (z @ self._root)
        move = move - (self._regression @ move[..., None])[..., 0]
        return torch.where(self._free, x + move, x)


def impute(
    process: Process,
    score: Score,
    rows: np.ndarray,
    draws: int,
    steps: int,
    end_dt: float,
    seed: int,
    device: torch.device | str = "cpu",
) -> Iterator[np.ndarray]:
    """Rows (n, d) with NaN completed `draws` times: draw after draw, (m, d) float32 in model units at a time.

    The stream (seed, "impute", draw, block) drives the rows of each block of 64: a row's draws do not depend on how many rows
    follow it, nor on how many draws are made.
    """
    n, d = rows.shape
    blocks = [(draw, begin) for draw in range(draws) for begin in range(0, n, BLOCK)]
    at_once = max(1, CHUNK_VALUES // (d * BLOCK))
    for first in range(0, len(blocks), at_once):
        part = blocks[first : first + at_once]
        taken = [rows[begin : begin + BLOCK] for _, begin in part]
        streams = _Streams(
            [torch_stream(seed, "impute", draw, begin // BLOCK) for draw, begin in part],
            [len(block) for block in taken],
            BLOCK,
        )
        x = torch.from_numpy(np.concatenate(taken).astype(np.float32)).to(device)
        yield _draw_given(process, score, x, steps, end_dt, streams, CORRECTIONS).cpu().numpy()
