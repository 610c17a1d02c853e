"""Draws of rows given measurements y = A x + noise, by moment matching or by projection; component by component for a process
that has them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from ndsm.core.rng import torch_stream
from ndsm.core.types import Score
from ndsm.inference.completions import CHUNK_VALUES
from ndsm.inference.guidance import MomentMatched
from ndsm.inference.noised_references import noised_measurements, responsibilities_given, start_given
from ndsm.inference.operators import Operator
from ndsm.inference.projection import ProjectedSampler
from ndsm.processes import Process, of_components, require
from ndsm.processes.components import draw_by_weight
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

    The stream (seed, "reconstruct", chunk) drives each chunk; its size depends on d alone. With a process of components each draw has
    a component by the mixture's probabilities given its measurements.

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
    require(process, "score", "reconstruction")
    linear, own_drift = process.transition is not None, process.mixture is None
    sampler = "ancestral" if linear else "em" if own_drift else "exponential"
    solver = _Solver(
        process,
        sampler,
        reverse_times(process, sampler, steps, end_dt),
        (method or ("projection" if own_drift else "moment-matched")) == "projection",
        strength,
    )
    rows, size = draws * len(y), max(16, CHUNK_VALUES // operator.matrix.shape[1])
    for chunk, begin in enumerate(range(0, rows, size)):
        taken = np.arange(begin, min(begin + size, rows)) % len(y)
        measured, std = (torch.from_numpy(a.astype(np.float32)).to(device) for a in (y[taken], noise))
        draw = solver.rows if process.components is None else solver.rows_of_components
        yield draw(score, operator, measured, std, seed, chunk).cpu().numpy()


@dataclass(frozen=True)
class _Solver:
    """Draws rows given measurements; the streams (seed, "reconstruct", index) and (seed, "reconstruct steps", index) drive them."""

    process: Process
    sampler: str
    times: np.ndarray
    projected: bool
    strength: float

    def rows(
        self, score: Score, operator: Operator, y: Tensor, std: Tensor, seed: int, *index: int
    ) -> Tensor:
        """A state for each row of measurements y, (B, m) → (B, d); std (m,)."""
        process, generator = self.process, torch_stream(seed, "reconstruct", *index)
        sampler: Sampler | str = self.sampler
        if self.projected:
            noised, x = noised_measurements(process, operator, y, std, self.times, generator)
            sampler = ProjectedSampler(sampler, operator, noised, self.strength, exact=bool((std == 0).all()))
        else:
            x = start_given(process, operator, y, std, generator)
            iterations = 4 if process.transition is not None else ITERATIONS
            matched = MomentMatched(process, score, operator, y, std, iterations=iterations)
            score = cast(Score, matched)
        steps_stream = torch_stream(seed, "reconstruct steps", *index, device=y.device)
        return integrate(process, score, self.times, x, steps_stream, sampler=sampler)

    def rows_of_components(
        self, score: Score, operator: Operator, y: Tensor, std: Tensor, seed: int, chunk: int
    ) -> Tensor:
        """As `rows`, for a process with components.

        The component K of a row is drawn by the mixture's probabilities given y; in its coordinates u the measurements are
        y - A μ_k = A L_k u + noise. The streams' index is (chunk, k), and K is drawn from (seed, "reconstruct components", chunk).
        """
        components = require(self.process, "components", "reconstruction")
        uniform = torch.rand(
            len(y), generator=torch_stream(seed, "reconstruct components", chunk), dtype=torch.float64
        )
        chosen = draw_by_weight(responsibilities_given(components.mixture, operator, y, std), uniform)
        a, out = operator.matrix.double().cpu(), y.new_empty(len(y), operator.matrix.shape[1])
        for k in chosen.unique().tolist():
            place = (chosen == k).nonzero()[:, 0].to(y.device)
            component = torch.full_like(place, k)
            seen, off = a @ components.factor(k), y[place].double().cpu() - a @ components.mixture.means[k]
            # Of one length each, for a system that is well conditioned.
            length = seen.norm(dim=1)
            length[length == 0] = 1.0
            u = self.rows(
                of_components(score, component),
                Operator(seen / length[:, None]),
                (off / length).to(y),
                std / length.to(std),
                seed,
                chunk,
                k,
            )
            out[place] = components.leave(u, component)
        return out
