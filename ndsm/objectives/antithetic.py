"""NDSM averaged over both signs of the last increment."""

from typing import ClassVar

import torch
from torch import Tensor

from ndsm.core.types import Score
from ndsm.objectives.base import ControlVariate, Losses, OneStep, labelled


class AntitheticNDSM(OneStep):
    """¼(|s₊|² + |s₋|²) + Z·(s₊ - s₋)/(2σ), s± = s(μ ± σZ).

    Z and -Z have the same law, so this is the mean of the NDSM loss (eq. 9) over both; s(μ) and with it the
    control variate W cancel exactly, and two evaluations of the score per row are enough as before.
    """

    rows_from: ClassVar[str] = "path"
    kind: ClassVar[str] = "antithetic"
    control_variate: ClassVar[ControlVariate] = 0.0

    def __call__(self, score: Score, rows: dict[str, Tensor]) -> Losses:
        """Loss of each row, (B,); there is no control variate."""
        mean, noise, t, std = rows["mean"], rows["noise"], rows["t"], rows["std"]
        step = noise * std[:, None]
        plus, minus = labelled(score, rows)(torch.cat([mean + step, mean - step]), torch.cat([t, t])).chunk(2)
        squares = 0.25 * ((plus * plus).sum(1) + (minus * minus).sum(1))
        return Losses(squares + (noise * (plus - minus)).sum(1) / (2 * std), None)
