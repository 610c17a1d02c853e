"""Regression on the velocity of noising by components that the network does not see (`ndsm.processes.marginal`)."""

from typing import ClassVar

import torch
from torch import Tensor

from ndsm.core.types import Score
from ndsm.objectives.base import ControlVariate, Losses, OneStep, labelled
from ndsm.processes.base import HiddenComponents
from ndsm.simulation import ONE_STEP_AND_SIGNAL


class VelocityMatching(OneStep):
    """½|M (s(Y, t) - α (Y_0 - μ_K) + (α²/σ) L_K Z)|², whose minimiser is s = -v, the velocity of the flow reversed.

    M is any matrix that depends on Y alone: L_k⁻¹ of Y's likeliest component, so that thin directions count as much as wide ones.

    Args:
        hidden: gives M.
        mirrored: as of `ndsm.objectives.dsm.DSM`.
    """

    records: ClassVar[tuple[str, ...]] = ONE_STEP_AND_SIGNAL
    rows_from: ClassVar[str] = "kernel"
    kind: ClassVar[str] = "dsm"
    control_variate: ClassVar[ControlVariate] = 0.0

    def __init__(self, hidden: HiddenComponents, mirrored: bool = False) -> None:
        self._hidden, self.mirrored = {"cpu": hidden.to("cpu")}, mirrored

    def _on(self, device: torch.device) -> HiddenComponents:
        if str(device) not in self._hidden:
            self._hidden[str(device)] = self._hidden["cpu"].to(device)
        return self._hidden[str(device)]

    def __call__(self, score: Score, rows: dict[str, Tensor]) -> Losses:
        """Loss of each row, (B,); there is no control variate."""
        mean, noise, signal = rows["mean"], rows["noise"], rows["signal"]
        t, std = rows["t"], rows["std"][:, None]
        step, back = noise * std, noise * ((1 - std * std) / std)
        if self.mirrored:
            y, t = torch.cat([mean + step, mean - step]), torch.cat([t, t])
            target = torch.cat([signal - back, signal + back])
        else:
            y, target = mean + step, signal - back
        error = self._on(y.device).whitened(labelled(score, rows)(y, t) - target, y)
        loss = 0.5 * (error * error).sum(1)
        return Losses(0.5 * (loss[: len(mean)] + loss[len(mean) :]) if self.mirrored else loss, None)
