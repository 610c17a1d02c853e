"""Nonlinear denoising score matching (Theorem 3.1).

With Y_N = μ_{N-1} + σ_{N-1} Z_N, the law of Y_N has the score that minimises

    E[ ½ |s(Y_N, t_N)|² + Z_N · (s(Y_N, t_N) - s(μ_{N-1}, t_N)) / σ_{N-1} ]        (eq. 9)

The subtracted term has mean zero (Z_N is independent of μ_{N-1}) and cancels what would otherwise make the
variance grow as 1/Δt_N.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor


class Score(Protocol):
    """A score: rows (B, d) and times (B,) → (B, d)."""

    def __call__(self, y: Tensor, t: Tensor) -> Tensor:
        """s(y, t)."""
        ...


@dataclass(frozen=True)
class Losses:
    """The loss of each row, up to the control variate: base + ε(t) · control_variate is trained."""

    base: Tensor
    """(B,)."""
    control_variate: Tensor | None
    """W, (B,), with mean zero for every θ; None if the objective has none."""


class Objective(Protocol):
    """A loss, and what it needs recorded."""

    records: ClassVar[tuple[str, ...]]
    """Names of the recorded quantities, see `ndsm.processes.RowLayout`."""
    rows_from: ClassVar[str]
    """`path`: the process is simulated; `kernel`: rows are drawn from its known transition law."""

    def __call__(self, score: Score, rows: dict[str, Tensor]) -> Losses:
        """Losses of each row; calls the score once, evaluations of one row B rows apart (as `torch.cat`)."""
        ...


class NDSM:
    """The loss of eq. 9 and the control variate of eq. 20; two evaluations of the score per row, in one call."""

    records: ClassVar[tuple[str, ...]] = ("mean", "noise", "t", "std")
    rows_from: ClassVar[str] = "path"

    def __call__(self, score: Score, rows: dict[str, Tensor]) -> Losses:
        """½|s(Y)|² + Z·(s(Y) - s(μ))/σ and W = s(μ)·Z/σ for each row, (B,).

        Args:
            score: s(y, t).
            rows: mean μ and noise Z, (B, d); t and std σ, (B,).
        """
        mean, noise, t, std = rows["mean"], rows["noise"], rows["t"], rows["std"]
        y = torch.addcmul(mean, noise, std[:, None])
        s, s_mean = score(torch.cat([y, mean]), torch.cat([t, t])).chunk(2)
        base = 0.5 * (s * s).sum(1) + (noise * (s - s_mean)).sum(1) / std
        return Losses(base, (s_mean * noise).sum(1) / std)
