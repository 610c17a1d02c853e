"""Sliced score matching (dissertation, chapter 3), for any process that can be simulated.

E[½ |s(Y)|² + div s(Y)] is, up to a constant, half the mean squared error of s (Hyvärinen 2005), and uᵀ Ds u has the mean div s
for a probe u ~ N(0, I): nothing has to be known of how Y came about.
"""

from typing import ClassVar

import torch
from torch import Tensor

from ndsm.core.types import Score
from ndsm.objectives.base import ControlVariate, Losses, OneStep, labelled
from ndsm.objectives.path import difference_step
from ndsm.simulation import ONE_STEP_AND_PROBE


class Sliced(OneStep):
    """½|s(Y)|² + uᵀ Ds(Y) u, the derivative by a one-sided difference whose first-order error is odd in u.

    Two evaluations of the score per row, in one call.
    """

    records: ClassVar[tuple[str, ...]] = ONE_STEP_AND_PROBE
    rows_from: ClassVar[str] = "path"
    kind: ClassVar[str] = "sliced"
    control_variate: ClassVar[ControlVariate] = 0.0

    def __call__(self, score: Score, rows: dict[str, Tensor]) -> Losses:
        """Loss of each row, (B,); there is no control variate."""
        t, u = rows["t"], rows["probe"]
        y = torch.addcmul(rows["mean"], rows["noise"], rows["std"][:, None])
        towards, length = difference_step(u, rows["std"])
        s, s_moved = labelled(score, rows)(torch.cat([y, y + towards]), torch.cat([t, t])).chunk(2)
        return Losses(0.5 * (s * s).sum(1) + (u * (s_moved - s)).sum(1) / length, None)
