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
    """M, V and E of paths and their mirrors at their current step.

    The probe u has E uuᵀ = I and does not depend on the noise: random signs for isotropic modes; sqrt(d) times a
    random axis of the own mode for the others, because for it the matrices in the recursion are numbers.

    Args:
        process: gives Df.
        modes: the modes of B paths and, in the second half, of their mirrors.
        dimension: d.
        generator: draws the probes.
    """

    def __init__(self, process: Langevin, modes: Modes, dimension: int, generator: torch.Generator) -> None:
        self._process, self._modes = process, modes
        paths = len(modes.component) // 2
        # The mirrors' M is -M.
        self._m = torch.zeros(dimension, paths)
        self._first = torch.arange(paths)
        self._v = torch.zeros_like(modes.variance)
        # E where it is not V u: for paths that have been near another mode.
        self._e = torch.zeros(dimension, 2 * paths)
        self._inside = torch.full((2 * paths,), process.mixture is not None)
        self._axis: Tensor | None = None
        # A path and its mirror share their probe: they share what does not depend on the noise.
        if modes.isotropic:
            signs = torch.randint(2, (dimension, paths), generator=generator)
            self.probe = signs.float().mul_(2).sub_(1).repeat(1, 2)
        else:
            self._axis = torch.randint(dimension, (paths,), generator=generator).repeat(2)
            chosen = torch.zeros(dimension, 2 * paths)
            chosen[self._axis, torch.arange(2 * paths)] = dimension**0.5
            self.probe = modes.from_axes(chosen)

    def _on_probe(self, table: Tensor, paths: Tensor) -> Tensor:
        """Entries of a table (r, K) for some paths along their probes, (m,)."""
        columns = self._modes.of_paths(table, paths)
        return columns[0] if self._axis is None else columns[self._axis[paths], torch.arange(len(paths))]

    def _contraction(self, a: Tensor) -> Tensor:
        return 1 - a / self._modes.variance

    def _variance_after(self, a: Tensor, s: Tensor) -> Tensor:
        c = self._contraction(a)
        return c * c * self._v + s * s

    def _tangent_after(self, y: Tensor, t: float, a: Tensor, s: Tensor, paths: Tensor) -> Tensor:
        """E after a step from y of paths outside their modes, (d, m)."""
        modes, before = self._modes, self._e.index_select(1, paths)
        slope = modes.to_axes(self._process.drift_derivative_columns(y, before, t), paths)
        moved = before - modes.from_axes(modes.of_paths(a, paths) * slope, paths)
        probe = self.probe.index_select(1, paths)
        return moved * self._on_probe(self._contraction(a), paths) + probe * self._on_probe(s * s, paths)

    def leave_modes(self, own_share: Tensor | None) -> None:
        """Note which paths start a step outside their mode; `own_share` is the own mode's responsibility, (2B,)."""
        if own_share is None:
            return
        leaving = (self._inside & (own_share < 1 - OTHER_MODES)).nonzero()[:, 0]
        if len(leaving):
            self._inside[leaving] = False
            self._e[:, leaving] = self.probe[:, leaving] * self._on_probe(self._v, leaving)

    def advance(self, y: Tensor, t: float, a: Tensor, s: Tensor, z: Tensor) -> None:
        """Take a step from y, (d, 2B), with coefficients (r, K) and the paths' noise z along the axes, (d, B)."""
        modes, outside = self._modes, (~self._inside).nonzero()[:, 0]
        if len(outside):
            self._e[:, outside] = self._tangent_after(y.index_select(1, outside), t, a, s, outside)
        self._m.mul_(modes.of_paths(self._contraction(a), self._first))
        self._m.addcmul_(modes.of_paths(s, self._first), z)
        self._v = self._variance_after(a, s)

    def recorded(
        self, y: Tensor, t: float, a: Tensor, s: Tensor, z: Tensor, both: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """G of some paths, (d, m), D u of them and their mirrors, (d, 2m), and sqrt(V) along the probe, (m,).

        Args:
            y: where their step starts, (d, 2m).
            a, s: coefficients of that step, (r, K).
            z: the paths' noise along the axes, (d, m).
            both: which paths, and then their mirrors, (2m,).
        """
        modes, first, v = self._modes, both[: len(both) // 2], self._variance_after(a, s)
        m = modes.of_paths(self._contraction(a), first) * self._m.index_select(1, first)
        m.addcmul_(modes.of_paths(s, first), z)
        weight = modes.from_axes(m.div_(modes.of_paths(v, first)), first)
        tangent = self.probe.index_select(1, both)
        outside = (~self._inside[both]).nonzero()[:, 0]
        if len(outside):
            paths = both[outside]
            e = self._tangent_after(y.index_select(1, outside), t, a, s, paths)
            tangent[:, outside] = e / self._on_probe(v, paths)
        return weight, tangent, self._on_probe(v, first).sqrt()
