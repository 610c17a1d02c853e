"""Mirrored paths and the running sums behind the path control variate (docs/path-control-variate.md).

For the chain Y_k = Y_{k-1} - A f(Y_{k-1}) + S Z_k and a mode whose own chain contracts by c = 1 - A/v,

    M ← c M + S Z,    V ← c² V + S²,    G_n = M/V,
    E ← c (Dμ E) + S² u,    D_n u = E/V,    Dμ e = e - A Df e

all along the mode's axes. V depends on the mode only and is known beforehand. What is carried is D u itself: with
α = c V/V' and β = S²/V', V' the value after the step, D u ← α Dμ D u + β u. While a path stays inside its mode, D u = u.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ndsm.processes.langevin import Langevin
from ndsm.processes.modes import Modes

OTHER_MODES = 1e-6
"""Responsibility of other modes below which the drift counts as the own mode's, and the tangent as known."""
MANY = 0.3
"""Share of columns outside their mode above which computing all tangents is cheaper than gathering those."""


class Chain(NamedTuple):
    """Numbers of n steps along the axes of each component, (n, r, K) or, if all components have the same, (n, r, 1)."""

    a: Tensor
    """A."""
    s: Tensor
    """S."""
    contraction: Tensor
    """c."""
    before: Tensor
    """V where each step starts."""
    after: Tensor
    """V where it ends."""
    kept: Tensor
    """α."""
    added: Tensor
    """β."""


def make_chain(variance: Tensor, a: Tensor, s: Tensor, before: Tensor | None = None) -> Chain:
    """The numbers of n steps, one after the other or, given V before each of them, (n, r, K), of n separate ones.

    Args:
        variance: v, (r, K).
        a, s: A and S, (n, r, K) or (n, 1, 1).
    """
    c, added = 1 - a / variance, s * s
    if before is None:
        v = [torch.zeros_like(variance)]
        for contraction, noise in zip(c[:-1], added, strict=False):
            v.append(contraction * contraction * v[-1] + noise)
        before = torch.stack(v)
    after = c * c * before + added
    return Chain(a, s, c, before, after, c * before / after, added / after)


class MirroredPaths:
    """Paths and their mirrors: the same start, the opposite noise; columns p and p + B of (d, 2B).

    The probe u has E uuᵀ = I and does not depend on the noise: random signs for isotropic modes; sqrt(d) times a
    random axis of the own mode for the others, because for it the matrices in the recursion are numbers.

    Args:
        process: gives f and Df.
        start: Y_0, (d, B).
        generator: draws the probes.
    """

    def __init__(self, process: Langevin, start: Tensor, generator: torch.Generator) -> None:
        d, paths = start.shape
        self._process = process
        self.modes = Modes(process.mixture, start)
        # The mirrors' M is -M.
        self._state, self._m = start.repeat(1, 2), torch.zeros_like(start)
        if self.modes.isotropic:
            axis = torch.zeros(paths, dtype=torch.long)
            probe = torch.randint(2, (d, paths), generator=generator).float().mul_(2).sub_(1)
        else:
            axis = torch.randint(d, (paths,), generator=generator)
            chosen = torch.zeros(d, paths)
            chosen[axis, torch.arange(paths)] = d**0.5
            probe = self.modes.from_axes(chosen)
        # Of each path, the entry of a table (r, K) along its probe.
        self._entry = axis * self.modes.variance.shape[1] + self.modes.column
        # A path and its mirror share their probe: they share what does not depend on the noise.
        self._twice = torch.arange(paths).repeat(2)
        self._both, self._probe = self.modes.take(self._twice), probe.repeat(1, 2)
        self._drift, self._tangent = torch.empty_like(self._state), self._probe.clone()
        # Df D u, which inside a mode stays u/v.
        self._slope = self._probe / _along(self.modes.variance, self._entry).repeat(2)
        self._inside = torch.full((2 * paths,), process.mixture is not None)
        self._note_outside()

    def _note_outside(self) -> None:
        """Find the columns outside their mode, with what is asked of them at every step."""
        outside = (~self._inside).nonzero()[:, 0]
        self._none_outside = len(outside) == 0
        # None: all of them.
        self._outside: Tensor | None = None if len(outside) > MANY * len(self._inside) else outside
        paths, self._probe_outside = self._twice, self._probe
        if self._outside is not None:
            paths, self._probe_outside = paths[outside], self._probe.index_select(1, outside)
        self._modes_outside, self._entry_outside = self.modes.take(paths), self._entry[paths]

    def look(self, t: float) -> None:
        """Evaluate f, and Df D u where it is not known, at the current states; before every step."""
        state, mixture = self._state, self._process.mixture
        if mixture is None:
            self._drift = self._process.drift_columns(state, t)
            self._slope = self._process.drift_derivative_columns(state, self._tangent, t)
            return
        here = mixture.at(state)
        self._drift = here.score().neg_()
        if self._outside is not None:
            leaving = self._inside & (here.share(self._both.component) < 1 - OTHER_MODES)
            if leaving.any():
                self._inside &= ~leaving
                self._note_outside()
        if self._outside is None:
            self._slope = here.hessian_vector_product(self._tangent).neg_()
        elif not self._none_outside:
            tangent = self._tangent.index_select(1, self._outside)
            slope = here.hessian_vector_product(tangent, self._outside).neg_()
            self._slope.index_copy_(1, self._outside, slope)

    def seen(self, paths: Tensor) -> tuple[Tensor, ...]:
        """Y, f, D u and Df D u of some paths, (m,), and their mirrors, (d, 2, m) each, and M of the paths, (d, m)."""
        both = torch.cat([paths, paths + self._m.shape[1]])
        columns = (self._state, self._drift, self._tangent, self._slope)
        of_both = (x.index_select(1, both).unflatten(1, (2, len(paths))) for x in columns)
        return *of_both, self._m.index_select(1, paths)

    def advance(self, chain: Chain, n: int, z: Tensor) -> None:
        """Take step n with the paths' noise z along the axes, (d, B)."""
        modes, both, paths = self.modes, self._both, self._m.shape[1]
        self._advance_tangents(chain, n)
        noise = modes.of_paths(chain.s[n]) * z
        self._m.mul_(modes.of_paths(chain.contraction[n])).add_(noise)
        noise = modes.from_axes(noise)
        self._state.sub_(both.scale(both.of_paths(chain.a[n]), self._drift))
        self._state[:, :paths].add_(noise)
        self._state[:, paths:].sub_(noise)

    def _advance_tangents(self, chain: Chain, n: int) -> None:
        if self._none_outside:
            return
        modes, tangent, slope = self._modes_outside, self._tangent, self._slope
        if self._outside is not None:
            tangent, slope = tangent.index_select(1, self._outside), slope.index_select(1, self._outside)
        kept, added = (_along(table[n], self._entry_outside) for table in (chain.kept, chain.added))
        moved = tangent - modes.scale(modes.of_paths(chain.a[n]), slope)
        moved.mul_(kept).addcmul_(self._probe_outside, added)
        if self._outside is None:
            self._tangent = moved
        else:
            self._tangent.index_copy_(1, self._outside, moved)

    def recorded(
        self, chain: Chain, steps: Tensor, paths: Tensor, seen: tuple[Tensor, ...], z: Tensor
    ) -> tuple[Tensor, ...]:
        """Y, the mirror's Y, G, u, D u, the mirror's D u, (d, R) each, and sqrt(V) along u, (R,), after a step.

        Args:
            chain: of the recorded examples' own steps.
            steps, paths: which step of which path each example takes, (R,).
            seen: where those steps start, as `seen` returns it.
            z: noise of those steps along the axes, (d, R).
        """
        state, drift, tangent, slope = (x.flatten(1) for x in seen[:-1])
        modes, both = self.modes.take(paths), self.modes.take(paths.repeat(2))
        a, s, contraction, after = (
            table[steps, :, modes.column if table.shape[2] > 1 else 0].T
            for table in (chain.a, chain.s, chain.contraction, chain.after)
        )
        noise = s * z
        weight = modes.from_axes(noise.addcmul(contraction, seen[-1]).div_(after))
        noise = modes.from_axes(noise).repeat(1, 2)
        noise[:, len(paths) :].neg_()
        a = a.repeat(1, 2)
        state = (state - both.scale(a, drift)).add_(noise)
        probe = self._probe.index_select(1, paths)
        entry = self._entry[paths] + steps * chain.after[0].numel()
        kept, added, variance = (_along(table, entry) for table in (chain.kept, chain.added, chain.after))
        tangent = (tangent - both.scale(a, slope)).mul_(kept.repeat(2)).add_((probe * added).repeat(1, 2))
        return *state.chunk(2, 1), weight, probe, *tangent.chunk(2, 1), variance.sqrt()


def _along(table: Tensor, entry: Tensor) -> Tensor:
    """Entries of a table (r, K), or of several, along probes, (m,)."""
    return table.flatten().index_select(0, entry)
