"""Nonlinear denoising score matching (Theorem 3.1).

With Y_N = μ_{N-1} + σ_{N-1} Z_N, the law of Y_N, that of the simulated chain and not of the continuous process, has the score
that minimises

    E[ ½ |s(Y_N, t_N)|² + Z_N · (s(Y_N, t_N) - s(μ_{N-1}, t_N)) / σ_{N-1} ]        (eq. 9)

The subtracted term has mean zero (Z_N is independent of μ_{N-1}) and cancels what would otherwise make the
variance grow as 1/Δt_N.
"""

from typing import ClassVar

import torch
from torch import Tensor

from ndsm.core.types import Score
from ndsm.objectives.base import ControlVariate, Losses, OneStep, checked_control_variate, labelled


class NDSMLoss(OneStep):
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
        s, s_mean = labelled(score, rows)(torch.cat([y, mean]), torch.cat([t, t])).chunk(2)
        base = 0.5 * (s * s).sum(1) + (noise * (s - s_mean)).sum(1) / std
        return Losses(base, (s_mean * noise).sum(1) / std)
