"""Nonlinear denoising score matching (Theorem 3.1).

With Y_N = μ_{N-1} + σ_{N-1} Z_N, the law of Y_N, that of the simulated chain and not of the continuous process, has the score
that minimises

    E[ ½ |s(Y_N, t_N)|² + Z_N · (s(Y_N, t_N) - s(μ_{N-1}, t_N)) / σ_{N-1} ]        (eq. 9)

The subtracted term has mean zero (Z_N is independent of μ_{N-1}) and cancels what would otherwise make the
variance grow as 1/Δt_N.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import torch
from torch import Tensor

from ndsm.errors import InputError
from ndsm.simulation import ONE_STEP

ControlVariate = float | tuple[float, ...] | Literal["closed-form", "learned"]
"""How the factor ε(t) of an objective's control variate is chosen: fixed (one number, or several joined by lines over log
t), minimising eq. 22 within bins of log t, or the paper's network ε_φ(t)."""


class Score(Protocol):
    """A score: rows (B, d) and times (B,), or times beside labels (B, 2), → (B, d)."""

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

    @property
    def kind(self) -> str:
        """Its name in `objective.kind`."""
        ...

    @property
    def control_variate(self) -> ControlVariate:
        """How its ε(t) is chosen; 0 if it has no control variate."""
        ...

    def __call__(self, score: Score, rows: dict[str, Tensor]) -> Losses:
        """Losses of each row; calls the score once, evaluations of one row B rows apart (as `torch.cat`)."""
        ...

    def combined(self, score: Score, rows: dict[str, Tensor], epsilon: Tensor) -> Tensor:
        """base + ε · control_variate of each row, (B,), at the least cost."""
        ...


def checked_control_variate(value: ControlVariate) -> ControlVariate:
    """The same value.

    Raises:
        InputError: it is not a number, several of them, "closed-form" or "learned".
    """
    few = isinstance(value, tuple) and len(value) < 2
    if isinstance(value, bool) or few or (isinstance(value, str) and value not in ("closed-form", "learned")):
        raise InputError(
            f"control_variate: expected a number, two or more of them, 'closed-form' or 'learned', found {value!r}"
        )
    return value


class OneStep(ABC):
    """What the objectives of a single Gaussian step share: its record, and that a control variate costs no evaluation."""

    records: ClassVar[tuple[str, ...]] = ONE_STEP

    @abstractmethod
    def __call__(self, score: Score, rows: dict[str, Tensor]) -> Losses:
        """Losses of each row."""

    def combined(self, score: Score, rows: dict[str, Tensor], epsilon: Tensor) -> Tensor:
        """base + ε · control_variate of each row, (B,), for ε (B,)."""
        found = self(score, rows)
        return found.base if found.control_variate is None else found.base + epsilon * found.control_variate


class NDSM(OneStep):
    """The loss of eq. 9 and the control variate of eq. 20; two evaluations of the score per row, in one call.

    Args:
        control_variate: ε(t): a number (None is 0, which trains eq. 9 alone), "closed-form" or "learned".

    Raises:
        InputError: something else.
    """

    rows_from: ClassVar[str] = "path"

    def __init__(self, control_variate: ControlVariate | None = None) -> None:
        self.control_variate = checked_control_variate(0.0 if control_variate is None else control_variate)
        self.kind = "ndsm" if control_variate is None else "ndsm-cv"

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
