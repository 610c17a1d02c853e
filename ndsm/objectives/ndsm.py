"""Nonlinear denoising score matching (Theorem 3.1).

With Y_N = μ_{N-1} + σ_{N-1} Z_N, the law of Y_N has the score that minimises

    E[ ½ |s(Y_N, t_N)|² + Z_N · (s(Y_N, t_N) - s(μ_{N-1}, t_N)) / σ_{N-1} ]        (eq. 9)

The subtracted term has mean zero (Z_N is independent of μ_{N-1}) and cancels what would otherwise make the
variance grow as 1/Δt_N.
"""

from typing import ClassVar, Protocol

import torch
from torch import Tensor


class Score(Protocol):
    """A score: rows (B, d) and times (B,) → (B, d)."""

    def __call__(self, y: Tensor, t: Tensor) -> Tensor:
        """s(y, t)."""
        ...


class Objective(Protocol):
    """A loss and what it needs the simulator to record."""

    records: ClassVar[tuple[str, ...]]
    """Names of the recorded quantities, see `ndsm.processes.RowLayout`."""

    def __call__(self, score: Score, rows: dict[str, Tensor]) -> Tensor:
        """Loss of each row, (B,)."""
        ...


class NDSM:
    """The loss of eq. 9, row by row; two evaluations of the score per row, in one call."""

    records: ClassVar[tuple[str, ...]] = ("mean", "noise", "t", "std")

    def __call__(self, score: Score, rows: dict[str, Tensor]) -> Tensor:
        """½|s(Y)|² + Z·(s(Y) - s(μ))/σ for each row, (B,).

        Args:
            score: s(y, t).
            rows: mean μ and noise Z, (B, d); t and std σ, (B,).
        """
        mean, noise, t, std = rows["mean"], rows["noise"], rows["t"], rows["std"]
        y = torch.addcmul(mean, noise, std[:, None])
        s, s_mean = score(torch.cat([y, mean]), torch.cat([t, t])).chunk(2)
        return 0.5 * (s * s).sum(1) + (noise * (s - s_mean)).sum(1) / std
