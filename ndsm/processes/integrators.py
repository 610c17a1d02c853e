"""One step of the simulation, Y' = Y - A f(Y) + S Z with A and S functions of the step size.

Euler-Maruyama has A = h and S = g sqrt(h). The exponential integrator has A = v (1 - a) and S = sqrt(v (1 - a²)),
a = exp(-h/v), for each path in its own mode's variances v: exact in law while the path is inside that mode for any
h, stable where Euler-Maruyama is not, and of the order of an exponential time-differencing step elsewhere.
"""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ndsm.processes.base import Process
from ndsm.processes.modes import Modes

IntegratorName = Literal["euler-maruyama", "exponential"]


class EulerMaruyama:
    """A = h, S = g(t) sqrt(h)."""

    def __init__(self, process: Process, modes: Modes | None) -> None:
        self._process, self._modes = process, modes

    def coefficients(self, h: np.ndarray, t: np.ndarray) -> tuple[Tensor, Tensor]:
        """A and S of n steps, (n, 1, 1) each: they are the same along all axes of all components."""
        g = np.array([self._process.diffusion(float(time)) for time in t])
        return _column(h), _column(g * np.sqrt(h))

    def advance(self, y: Tensor, f: Tensor, z: Tensor, h: float, t: float) -> None:
        """Y' in place of y; y, f = f(y, t) and standard normal z (d, B), along the modes' axes if there are any."""
        noise = z if self._modes is None else self._modes.from_axes(z)
        y.sub_(f, alpha=h).add_(noise, alpha=self._process.diffusion(t) * math.sqrt(h))


class Exponential:
    """A = v (1 - exp(-h/v)), S² = v (1 - exp(-2h/v)); z is drawn along the modes' axes."""

    def __init__(self, process: Process, modes: Modes) -> None:
        self._modes = modes

    def coefficients(self, h: np.ndarray, t: np.ndarray) -> tuple[Tensor, Tensor]:
        """A and S of n steps along the axes of each component, (n, r, K) each."""
        return self._tables(_column(h).to(self._modes.variance.device))

    def _tables(self, h: Tensor | float) -> tuple[Tensor, Tensor]:
        v = self._modes.variance
        rate = h * v.reciprocal()
        return -v * torch.expm1(-rate), (-v * torch.expm1(-2 * rate)).sqrt()

    def advance(self, y: Tensor, f: Tensor, z: Tensor, h: float, t: float) -> None:
        """As `EulerMaruyama.advance`."""
        modes = self._modes
        a, s = (modes.of_paths(table) for table in self._tables(h))
        y.sub_(modes.from_axes(a * modes.to_axes(f) - s * z))


def _column(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x).float()[:, None, None]


INTEGRATORS: dict[IntegratorName, type[EulerMaruyama] | type[Exponential]] = {
    "euler-maruyama": EulerMaruyama,
    "exponential": Exponential,
}
