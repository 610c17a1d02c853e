"""The running sums behind the path control variate (docs/path-control-variate.md).

For the chain Y_k = Y_{k-1} - A f(Y_{k-1}) + S Z_k and a mode whose own chain contracts by c = 1 - A/v,

    M ← c M + S Z,    V ← c² V + S²,    G_n = M/V,
    E ← c (Dμ E) + S² u,    D_n u = E/V,    Dμ e = e - A Df e

all along the mode's axes. While a path stays inside its mode, D_n u = u.
"""

import torch
from torch import Tensor

from ndsm.processes.langevin import Langevin
from ndsm.processes.modes import Modes

OTHER_MODES = 1e-6
"""Responsibility of other modes below which the drift counts as the own mode's, and the tangent as known."""


class PathSums:
    """M, V and E of B paths at their current step.

    The probe u has E uuᵀ = I and does not depend on the noise: random signs for isotropic modes; sqrt(d) times a
    random axis of the own mode for the others, because for it the matrices in the recursion are numbers.

    Args:
        process: gives Df.
        modes: the modes of the paths and, in the second half, of their mirrors.
        dimension: d.
        generator: draws the probes.
    """

    def __init__(self, process: Langevin, modes: Modes, dimension: int, generator: torch.Generator) -> None:
        self._process, self._modes = process, modes
        paths = len(modes.component)
        self._m = torch.zeros(dimension, paths)
        self._v = torch.zeros_like(modes.variance)
        self._e = torch.zeros(dimension, paths)
        # Paths whose tangent is E = V u so far: they have not been near another mode.
        self._inside = torch.full((paths,), process.mixture is not None)
        self._axis: Tensor | None = None
        # A path and its mirror, the two halves, share their probe: they share what does not depend on the noise.
        if modes.isotropic:
            signs = torch.randint(2, (dimension, paths // 2), generator=generator)
            self.probe = signs.float().mul_(2).sub_(1).repeat(1, 2)
        else:
            self._axis = torch.randint(dimension, (paths // 2,), generator=generator).repeat(2)
            chosen = torch.zeros(dimension, paths)
            chosen[self._axis, torch.arange(paths)] = dimension**0.5
            self.probe = modes.from_axes(chosen)

    def _on_axis(self, table: Tensor, paths: Tensor) -> Tensor:
        """Entries of a table (r, K) for some paths along their probes, (m,)."""
        columns = self._modes.of_paths(table, paths)
        return columns[0] if self._axis is None else columns[self._axis[paths], torch.arange(len(paths))]

    def _tangent(
        self, y: Tensor, t: float, a: Tensor, s: Tensor, paths: Tensor, v: Tensor
    ) -> tuple[Tensor, Tensor]:
        """E after a step from y, (d, m), for some paths, and V along their probes after it, (m,)."""
        modes, c = self._modes, 1 - a / self._modes.variance
        v_now = self._on_axis(v, paths)
        inside = self._inside[paths]
        u = self.probe[:, paths]
        e = u * v_now
        outside = (~inside).nonzero()[:, 0]
        if len(outside):
            some = paths[outside]
            before = self._e[:, some]
            slope = self._process.drift_derivative_columns(y[:, outside], before, t)
            moved = before - modes.from_axes(modes.of_paths(a, some) * modes.to_axes(slope, some), some)
            e[:, outside] = self._on_axis(c, some) * moved + self._on_axis(s * s, some) * u[:, outside]
        return e, v_now

    def leave_modes(self, own_share: Tensor | None) -> None:
        """Note which paths a step starts outside their mode; `own_share` is the own mode's responsibility, (B,)."""
        if own_share is None:
            return
        leaving = (self._inside & (own_share < 1 - OTHER_MODES)).nonzero()[:, 0]
        if len(leaving):
            self._inside[leaving] = False
            self._e[:, leaving] = self.probe[:, leaving] * self._on_axis(self._v, leaving)

    def advance(self, y: Tensor, t: float, a: Tensor, s: Tensor, z: Tensor) -> None:
        """Take a step from y, (d, B), with coefficients (r, K) and noise z along the axes."""
        c = 1 - a / self._modes.variance
        v = c * c * self._v + s * s
        outside = (~self._inside).nonzero()[:, 0]
        if len(outside):
            self._e[:, outside] = self._tangent(y[:, outside], t, a, s, outside, v)[0]
        self._m.mul_(self._modes.of_paths(c)).addcmul_(self._modes.of_paths(s), z)
        self._v = v

    def recorded(
        self, y: Tensor, t: float, a: Tensor, s: Tensor, z: Tensor, paths: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """G, D u and the standard deviation sqrt(V) along the probe after a step of some paths from y, (d, m).

        Args:
            a, s: coefficients of that step, (r, K).
            z: its noise along the axes, (d, m).
        """
        modes, c = self._modes, 1 - a / self._modes.variance
        v = c * c * self._v + s * s
        m = modes.of_paths(c, paths) * self._m[:, paths] + modes.of_paths(s, paths) * z
        e, v_probe = self._tangent(y, t, a, s, paths, v)
        return modes.from_axes(m / modes.of_paths(v, paths), paths), e / v_probe, v_probe.sqrt()
