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

from ndsm.processes.base import Process
from ndsm.processes.modes import Modes

OTHER_MODES = 1e-6
"""Responsibility of the other modes below which the drift counts as linear, and D u as u."""


class Chain(NamedTuple):
    """Coefficients of n steps along the axes of each component, (n, r, K) or, if all components share them, (n, r, 1)."""

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
    """Coefficients of n consecutive steps, or, given V before each of them, (n, r, K), of n separate steps.

    Args:
        variance: v, (r, K).
        a, s: A and S, (n, r, K) or (n, 1, 1).
    """
    a, s = a.to(variance.device), s.to(variance.device)
    c, added = 1 - a / variance, s * s
    squared = c * c
    if before is None:
        v = [torch.zeros_like(variance)]
        for factor, noise in zip(squared[:-1], added[:-1], strict=True):
            v.append(torch.addcmul(noise, factor, v[-1]))
        before = torch.stack(v)
    after = squared * before + added
    return Chain(a, s, c, before, after, c * before / after, added / after)


class StepStart(NamedTuple):
    """Where the recorded steps of m paths and their mirrors start, (d, 2, m) each, and M of the paths, (d, m)."""

    m: Tensor
    state: Tensor
    score: Tensor
    tangents: tuple[Tensor, Tensor] | None
    """D u and -Df D u; None while all paths are inside their modes."""


class MirroredPaths:
    """Paths and their mirrors: the same start, the opposite noise; columns p and p + B of (d, 2B).

    The probe u has E uuᵀ = I, a symmetric law, and does not depend on the noise: random signs for isotropic modes; sqrt(d)
    times a random axis of the own mode with a random sign for the others, because for an axis the matrices in the recursion
    are numbers. The symmetry is what removes the first-order error of a one-sided difference along u from the mean.

    Tangents are carried from the first step on which any path is outside its mode, and then of all: in high dimensions
    none ever is, in low ones many are, and in between gathering those that are would cost what it saves.

    Args:
        process: gives f and Df.
        start: Y_0, (d, B).
        generator: draws the probes.
    """

    def __init__(self, process: Process, start: Tensor, generator: torch.Generator) -> None:
        (d, paths), device = start.shape, start.device
        self._process = process
        self.modes = Modes(process.mixture, start)
        # A path and its mirror share all that does not depend on the noise, such as the probe; the mirror's M is -M.
        self._both = self.modes.take(_twice(paths, device))
        self._state, self._m = start.repeat(1, 2), torch.zeros_like(start)
        self._score = torch.empty_like(self._state)
        if self.modes.isotropic:
            axis = torch.zeros(paths, dtype=torch.long, device=device)
            signs = torch.randint(2, (d, paths), generator=generator, device=device)
            probe = signs.float().mul_(2).sub_(1)
        else:
            # One draw for both, so that the generator moves on as for an axis alone.
            drawn = torch.randint(2 * d, (paths,), generator=generator, device=device)
            axis, sign = drawn % d, 1.0 - 2.0 * (drawn // d)
            chosen = torch.zeros(d, paths, device=device)
            chosen[axis, torch.arange(paths, device=device)] = sign * d**0.5
            probe = self.modes.from_axes(chosen)
        self._probe = probe.repeat(1, 2)
        # Of each column, the entry of a table (r, K) along its probe.
        self._entry = axis.repeat(2) * self.modes.variance.shape[1] + self._both.column
        self._inside = process.mixture is not None
        self._tangent, self._curvature = self._probe.clone(), torch.empty_like(self._probe)

    def look(self, t: float) -> None:
        """Evaluate -f, and -Df D u if tangents are carried, at the current states; before every step."""
        state, mixture = self._state, self._process.mixture
        if mixture is None:
            self._score = self._process.drift_columns(state, t).neg()
            self._curvature = self._process.drift_derivative_columns(state, self._tangent, t).neg()
            return
        here = mixture.at(state)
        self._score = here.score()
        if self._inside:
            self._inside = float(here.share(self._both.component).min()) >= 1 - OTHER_MODES
        if not self._inside:
            self._curvature = here.hessian_vector_product(self._tangent)

    def starts(self, paths: Tensor) -> StepStart:
        """Where the next step of some paths, (m,), and their mirrors starts."""
        both = torch.cat([paths, paths + self._m.shape[1]])

        def chosen(x: Tensor) -> Tensor:
            return x.index_select(1, both).view(len(x), 2, len(paths))

        tangents = None if self._inside else (chosen(self._tangent), chosen(self._curvature))
        return StepStart(self._m.index_select(1, paths), chosen(self._state), chosen(self._score), tangents)

    def advance(self, chain: Chain, n: int, z: Tensor) -> None:
        """Take step n with the paths' noise z along the axes, (d, B)."""
        modes, both, paths = self.modes, self._both, self._m.shape[1]
        noise = modes.of_paths(chain.s[n]) * z
        self._m.mul_(modes.of_paths(chain.contraction[n])).add_(noise)
        noise = modes.from_axes(noise)
        a = both.of_paths(chain.a[n])
        both.add_scaled(self._state, a, self._score)
        self._state[:, :paths].add_(noise)
        self._state[:, paths:].sub_(noise)
        if not self._inside:
            kept, added = (_along(table[n], self._entry) for table in (chain.kept, chain.added))
            both.add_scaled(self._tangent, a, self._curvature)
            self._tangent.mul_(kept).addcmul_(self._probe, added)

    def recorded(
        self, chain: Chain, steps: Tensor, paths: Tensor, starts: list[StepStart], z: Tensor
    ) -> tuple[Tensor, ...]:
        """Y, the mirror's Y, G, u, D u, the mirror's D u, (d, R) each, and sqrt(V) along u, (R,), after the recorded steps.

        Args:
            chain: of the recorded steps.
            steps, paths: which step of which path each example takes, (R,).
            starts: where these steps start, in the same order.
            z: noise of the recorded steps along the axes, (d, R).
        """
        modes = self.modes.take(paths)
        a, s, contraction, after = (
            table[steps, :, modes.column if table.shape[2] > 1 else 0].T
            for table in (chain.a, chain.s, chain.contraction, chain.after)
        )
        noise, m = s * z, torch.cat([part.m for part in starts], 1)
        path_weight = modes.from_axes(noise.addcmul(contraction, m).div_(after))
        noise = modes.from_axes(noise)
        state, score = (_joined(parts) for parts in zip(*(part[1:3] for part in starts), strict=True))
        modes.take(_twice(len(paths), paths.device)).add_scaled(state, a.repeat(1, 2), score)
        y, mirror = state.chunk(2, 1)
        y.add_(noise)
        mirror.sub_(noise)
        probe, entry = self._probe.index_select(1, paths), self._entry[paths] + steps * chain.after[0].numel()
        tangents, std = (probe, probe), _along(chain.after, entry).sqrt()
        if carried := [part.tangents for part in starts if part.tangents is not None]:
            tangent, curvature = (_joined(parts) for parts in zip(*carried, strict=True))
            # Once carried, tangents are carried to the end: these are the last examples, and then their mirrors.
            n = tangent.shape[1] // 2
            first = len(paths) - n
            those = first + _twice(n, paths.device)
            kept, added = (_along(table, entry[those]) for table in (chain.kept, chain.added))
            modes.take(those).add_scaled(tangent, a.index_select(1, those), curvature)
            tangent.mul_(kept).addcmul_(probe.index_select(1, those), added)
            before = probe[:, :first]
            tangents = torch.cat([before, tangent[:, :n]], 1), torch.cat([before, tangent[:, n:]], 1)
        return y, mirror, path_weight, probe, *tangents, std


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    """(d, 2, m_1), ..., of paths and mirrors → (d, 2R), all paths and then all mirrors."""
    return torch.cat(parts, 2).flatten(1)


def _twice(n: int, device: torch.device) -> Tensor:
    """0..n-1 and again, (2n,)."""
    return torch.arange(n, device=device).repeat(2)


def _along(table: Tensor, entry: Tensor) -> Tensor:
    """Entries of a table (r, K), or of several, along probes, (m,)."""
    return table.flatten().index_select(0, entry)
