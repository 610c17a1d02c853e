"""One step of the simulation, Y' = Y - A f(Y) + S Z with A and S functions of the step size.

Euler-Maruyama has A = h and S = g sqrt(h). The exponential integrator has A = v (1 - a) and S = sqrt(v (1 - a²)),
a = exp(-h/v), for each path in its own mode's variances v: exact in law while the path is inside that mode for any
h, stable where Euler-Maruyama is not, and of the order of an exponential time-differencing step elsewhere.
"""

import math
from typing import Literal

import torch
from torch import Tensor

from ndsm.processes.langevin import Process
from ndsm.processes.modes import Modes

IntegratorName = Literal["euler-maruyama", "exponential"]


class EulerMaruyama:
    """A = h, S = g(t) sqrt(h)."""

    def __init__(self, process: Process, modes: Modes | None) -> None:
        self._process, self._modes = process, modes

    def coefficients(self, h: float, t: float) -> tuple[Tensor, Tensor]:
        """A and S along the axes of each component, (r, K) each."""
        assert self._modes is not None
        variance = self._modes.variance
        return torch.full_like(variance, h), torch.full_like(
            variance, self._process.diffusion(t) * math.sqrt(h)
        )

    def advance(
        self, y: Tensor, f: Tensor, z: Tensor, h: float, t: float, paths: Tensor | None = None
    ) -> None:
        """Y' in place of y; y, f = f(y, t) and standard normal z (d, B), along the modes' axes if there are any.

        `paths` says which of the paths the columns are, all of them if not given.
        """
        noise = z if self._modes is None else self._modes.from_axes(z, paths)
        y.sub_(f, alpha=h).add_(noise, alpha=self._process.diffusion(t) * math.sqrt(h))


class Exponential:
    """A = v (1 - exp(-h/v)), S² = v (1 - exp(-2h/v)); z is drawn along the modes' axes."""

    def __init__(self, process: Process, modes: Modes) -> None:
        self._modes = modes

    def coefficients(self, h: float, t: float) -> tuple[Tensor, Tensor]:
        """A and S along the axes of each component, (r, K) each."""
        v = self._modes.variance
        return -v * torch.expm1(-h / v), (-v * torch.expm1(-2 * h / v)).sqrt()

    def advance(
        self, y: Tensor, f: Tensor, z: Tensor, h: float, t: float, paths: Tensor | None = None
    ) -> None:
        """As `EulerMaruyama.advance`."""
        modes = self._modes
        a, s = (modes.of_paths(table, paths) for table in self.coefficients(h, t))
        y.sub_(modes.from_axes(a * modes.to_axes(f, paths) - s * z, paths))


INTEGRATORS: dict[IntegratorName, type[EulerMaruyama] | type[Exponential]] = {
    "euler-maruyama": EulerMaruyama,
    "exponential": Exponential,
}
