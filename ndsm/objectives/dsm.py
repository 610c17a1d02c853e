"""Denoising score matching, for noising with a known kernel Y_t = mean + std·Z."""

from typing import ClassVar

import torch
from torch import Tensor

from ndsm.core.types import Score
from ndsm.objectives.base import ControlVariate, Losses, OneStep, labelled


class DSM(OneStep):
    """½|s(Y, t) + Z/σ|² (Vincent 2011; dissertation, 5.2); one evaluation of the score per row."""

    rows_from: ClassVar[str] = "kernel"
    kind: ClassVar[str] = "dsm"
    control_variate: ClassVar[ControlVariate] = 0.0

    def __call__(self, score: Score, rows: dict[str, Tensor]) -> Losses:
        """Loss of each row, (B,); there is no control variate."""
        y = torch.addcmul(rows["mean"], rows["noise"], rows["std"][:, None])
        error = labelled(score, rows)(y, rows["t"]) + rows["noise"] / rows["std"][:, None]
        return Losses(0.5 * (error * error).sum(1), None)
