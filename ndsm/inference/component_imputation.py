"""Imputation with a process of components: rows given some of their numbers, in the coordinates of a component.

A component is drawn by the mixture's probabilities given the known numbers. In its coordinates u these are linear conditions
(L u)_known = y_known - μ_known. With the factorisation L_knownᵀ = Q R, Q a rotation, they fix the first numbers of v = Qᵀ u, and the
noising, whose noise a rotation leaves as it is, is the same in v. So `ndsm.inference.completions` completes v.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ndsm.core.rng import torch_stream
from ndsm.core.types import Score
from ndsm.inference.completions import CHUNK_VALUES, Streams, populations, warn_of_few
from ndsm.processes import Components, Process, of_components, require
from ndsm.processes.components import draw_by_weight

CHUNK_ROTATIONS = 1 << 22
"""Numbers of the rotations of a batch."""


def impute_in_components(
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
    """As `ndsm.inference.imputation.impute`, with a component for each draw of each row.

    Draws of a row in one component share populations, whose stream is (seed, "impute", population, row, component).
    """
    components = require(process.to("cpu"), "components", "imputation")
    n, d = rows.shape
    y = torch.from_numpy(rows.astype(np.float64))
    probabilities = components.mixture.responsibilities_given(y, ~y.isnan())
    chosen = torch.stack([draw_by_weight(probabilities, _uniform(seed, draw, n)) for draw in range(draws)])
    out = np.empty((draws, n, d), dtype=np.float32)
    # A population for each (number, row, component), and the draws that take its completions in turn.
    wanted: dict[tuple[int, int, int], list[int]] = {}
    uses: dict[tuple[int, int], int] = {}
    for draw, numbers in enumerate(chosen.tolist()):
        for row, k in enumerate(numbers):
            used = uses[row, k] = uses.get((row, k), -1) + 1
            wanted.setdefault((used // particles, row, k), []).append(draw)
    keys, shares = list(wanted), []
    at_once = max(1, min(CHUNK_VALUES // (d * particles), CHUNK_ROTATIONS // d**2))
    rotations: dict[tuple[int, bytes], tuple[Tensor, Tensor]] = {}
    for begin in range(0, len(keys), at_once):
        part = keys[begin : begin + at_once]
        turned, q = _conditions(components, y, part, rotations)
        k = torch.tensor([k for _, _, k in part], device=device).repeat_interleave(particles)
        q, given = q.to(device, torch.float32), of_components(score, k)
        streams = Streams([torch_stream(seed, "impute", *key) for key in part], [1] * len(part), 1)

        def turned_score(v: Tensor, t: Tensor, q: Tensor = q, given: Score = given) -> Tensor:
            u = torch.einsum("cij,cpj->cpi", q, v.reshape(len(q), -1, d))
            s = given(u.reshape(v.shape), t)
            return torch.einsum("cij,cpi->cpj", q, s.reshape(u.shape)).reshape(v.shape)

        completed, share = populations(
            process, turned_score, turned.to(device, torch.float32), steps, end_dt, streams, particles
        )
        u = torch.einsum("cij,cpj->cpi", q, completed).reshape(-1, d)
        drawn = components.leave(u.cpu(), k.cpu()).reshape(completed.shape).numpy()
        for key, completions in zip(part, drawn, strict=True):
            taken = wanted[key]
            out[taken, key[1]] = completions[: len(taken)]
            advance(len(taken))
        shares.append(share.cpu())
    warn_of_few(torch.cat(shares), particles)
    return np.where(np.isnan(rows), out, rows).astype(np.float32)


def _uniform(seed: int, draw: int, n: int) -> Tensor:
    """A uniform number for each row, (n,); the first are the same for more rows."""
    return torch.rand(n, generator=torch_stream(seed, "impute components", draw), dtype=torch.float64)


def _conditions(
    components: Components,
    y: Tensor,
    keys: list[tuple[int, int, int]],
    rotations: dict[tuple[int, bytes], tuple[Tensor, Tensor]],
) -> tuple[Tensor, Tensor]:
    """What is known of v, NaN for the rest, (C, d), and Q, (C, d, d), float64.

    Args:
        y: rows with NaN, (n, d) float64.
        keys: (number, row, component) of each population.
        rotations: Q and R by component and pattern of known numbers, to which those that are missing are added.
    """
    v, q_of_each = y.new_full((len(keys), y.shape[1]), torch.nan), []
    for i, (_, row, k) in enumerate(keys):
        known = ~y[row].isnan()
        pattern = (k, known.numpy().tobytes())
        if pattern not in rotations:
            q, r = torch.linalg.qr(components.factor(k)[known].T, mode="complete")
            rotations[pattern] = q, r[: r.shape[1]]
        q, r = rotations[pattern]
        off = (y[row] - components.mixture.means[k])[known]
        v[i, : len(off)] = torch.linalg.solve_triangular(r.T, off[:, None], upper=False)[:, 0]
        q_of_each.append(q)
    return v, torch.stack(q_of_each)
