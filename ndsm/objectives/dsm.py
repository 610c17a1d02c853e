"""Denoising score matching, for noising with a known kernel Y_t = mean + std·Z."""

from typing import ClassVar

import torch
from torch import Tensor

from ndsm.core.types import Score
from ndsm.objectives.base import ControlVariate, Losses, OneStep, labelled


class DSM(OneStep):
    """½|s(Y, t) + Z/σ|² (Vincent 2011; dissertation, 5.2); one evaluation of the score per row.

    Args:
        mirrored: take the mean over Z and -Z, which have the same law: two evaluations per row, and a gradient with less
            variance than that of twice as many rows.
    """

    rows_from: ClassVar[str] = "kernel"
    kind: ClassVar[str] = "dsm"
    control_variate: ClassVar[ControlVariate] = 0.0

    def __init__(self, mirrored: bool = False) -> None:
        self.mirrored = mirrored

    def __call__(self, score: Score, rows: dict[str, Tensor]) -> Losses:
        """Loss of each row, (B,); there is no control variate."""
        mean, noise, t, std = rows["mean"], rows["noise"], rows["t"], rows["std"][:, None]
        if not self.mirrored:
            y = torch.addcmul(mean, noise, std)
            error = labelled(score, rows)(y, t) + noise / std
            return Losses(0.5 * (error * error).sum(1), None)
        step, target = noise * std, noise / std
        plus, minus = labelled(score, rows)(torch.cat([mean + step, mean - step]), torch.cat([t, t])).chunk(2)
        plus, minus = plus + target, minus - target
        return Losses(0.25 * ((plus * plus).sum(1) + (minus * minus).sum(1)), None)
