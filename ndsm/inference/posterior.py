"""Posterior of the clean point: mean and covariance of Y_0 given Y_t = x.

Where Y_t = μ + α (Y_0 - μ) + σ Z (a linear process, or one mode of a mixture) these are exact (dissertation, chapter 4):

    E[Y_0 | x] = μ + (x - μ + σ² s(x, t))/α,        Cov[Y_0 | x] = (σ²/α) ∂E[Y_0 | x]/∂x,

the second because ∇²log p_t is the second-order score of the noised law: the score's Jacobian, or a trained second-order score.
Where modes overlap they are blended over the responsibilities, as in `ndsm.processes.transitions`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ndsm.core.types import Score
from ndsm.processes import Process
from ndsm.processes.transitions import SLOPE_ERROR, Term, kernel_of
from ndsm.samplers.base import score_at

LARGEST_EXPONENT = 30.0
"""Largest log 1/α: thin modes would make 1/α infinite for all rows, although the shares of these rows in them are about 0."""
PIECE = 1 << 24
"""Numbers of matrices (d, d) that are held in memory."""


class SecondOrder(Protocol):
    """A second-order score: α (B, d) and β (B, d, r) with s2(y, t) = diag(α) + β βᵀ."""

    def __call__(self, y: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Of rows (B, d) at times (B,)."""
        ...


@dataclass(frozen=True)
class Covariance:
    """diag(diagonal) + factors factorsᵀ for each of B rows."""

    diagonal: Tensor
    """(B, d), not negative."""
    factors: Tensor
    """(B, d, r)."""

    @property
    def variance(self) -> Tensor:
        """Its diagonal, (B, d)."""
        return self.diagonal + self.factors.square().sum(2)

    def draw(self, z: Tensor, w: Tensor) -> Tensor:
        """Normal rows of this covariance, (B, d), from standard normal z (B, d) and w (B, r)."""
        return self.diagonal.sqrt() * z + (self.factors @ w[..., None])[..., 0]


def nearest(diagonal: Tensor, factors: Tensor) -> Covariance:
    """The covariance with the variances of diag(diagonal) + F Fᵀ, at least 0; where the diagonal is negative rows of F shrink."""
    shared = factors.square().sum(2)
    total = (diagonal + shared).clamp(min=0)
    kept = torch.minimum(shared, total)
    shrink = (kept / shared.clamp(min=torch.finfo(shared.dtype).tiny)).sqrt()
    return Covariance(total - kept, factors * shrink[..., None])


class Posterior:
    """First two moments of Y_0 given Y_t = x.

    Args:
        process, score: of the noised data, on one device.
        second_order: a trained second-order score there, such as `ndsm.inference.second_order.SecondOrderScore`.

    Raises:
        InputError: the process is neither linear nor a mixture's.
    """

    def __init__(self, process: Process, score: Score, second_order: SecondOrder | None = None) -> None:
        self._process, self._score, self._second_order = process, score, second_order
        self._kernel = kernel_of(process, "posterior")

    def mean(self, x: Tensor, t: float) -> Tensor:
        """E[Y_0 | Y_t = x], (B, d) → (B, d)."""
        return self.mean_of(x, score_at(self._score, x, t), t)

    def mean_of(self, x: Tensor, s: Tensor, t: float, learned: bool = False) -> Tensor:
        """The same given s = s(x, t), (B, d).

        Args:
            learned: whether s has errors. Near T, 1/α would multiply them by up to exp(T/v) along a mode's thin axes; the slope is
                then weighted by how far it can be trusted.
        """
        kernel = self._kernel
        inverse = kernel.trust(t, 0.0, SLOPE_ERROR if learned else 0.0)
        slope = kernel.slope(self._process, x, s, t)
        terms = [Term(kernel.unpulled(t, 0.0), x, point=True), Term(inverse * kernel.std(t) ** 2, slope)]
        return kernel.blend(x, terms).to(x)

    @property
    def has_modes(self) -> bool:
        """Whether it is a mixture's: μ, α and σ are then each mode's own."""
        return self._kernel.has_modes

    def spread(self, t: float) -> float:
        """Variance of Y_t over that of Y_0 for data spread like the modes: 1, or α² + σ² of a linear process."""
        return self._kernel.spread(t)

    def scaled(self, x: Tensor, v: Tensor, t: float, std: int, alpha: int) -> Tensor:
        """σ^std α^alpha v, blended over the modes of x, (B, d) → (B, d)."""
        kernel = self._kernel
        factor = kernel.std(t) ** std * (alpha * kernel.log_alpha(t)).clamp(max=LARGEST_EXPONENT).exp()
        return kernel.blend(x, [Term(factor, v)], centred=False).to(x)

    def variance(self, x: Tensor, t: float) -> Tensor:
        """Diagonal of Cov[Y_0 | Y_t = x], (B, d) → (B, d); costs as `covariance`."""
        return self.covariance(x, t).variance

    def covariance(self, x: Tensor, t: float, rank: int = 0) -> Covariance:
        """Cov[Y_0 | Y_t = x] for rows (B, d).

        By a trained second-order score: its factors, one evaluation of each network and d products with the Jacobian of what is
        known of the process; entries off the diagonal that are not in the factors are left out. Without one: the `rank` largest
        principal axes and the rest of the diagonal, by d products with the network's Jacobian.
        """
        if self._second_order is None:
            pieces = x.split(max(1, PIECE // x.shape[1] ** 2))
            parts = [self._by_jacobian(piece, t, rank) for piece in pieces]
            return Covariance(torch.cat([c.diagonal for c in parts]), torch.cat([c.factors for c in parts]))
        time = torch.full((len(x),), float(t), device=x.device, dtype=x.dtype)
        with torch.no_grad():
            s = self._score(x, time)
            alpha, beta = self._second_order(x, time)
            # E[Y_0 | x] depends on x by itself and by s(x, t), whose Jacobian is s2.
            variances = [
                row[:, i] + (scale.square() * alpha).sum(1)
                for i, (scale, row) in enumerate(self._products(x, t, s))
            ]
            factors = [self.scaled(x, column, t, 2, -1) for column in beta.unbind(2)]
        return nearest(torch.stack(variances, 1), torch.stack(factors, 2) if factors else beta)

    def _by_jacobian(self, x: Tensor, t: float, rank: int) -> Covariance:
        rows = torch.stack([row for _, row in self._products(x, t)], 1)
        covariance = 0.5 * (rows + rows.mT)
        diagonal = covariance.diagonal(dim1=1, dim2=2)
        if rank == 0:
            return Covariance(diagonal.clamp(min=0), x.new_empty(*x.shape, 0))
        values, axes = torch.linalg.eigh(covariance)
        factors = axes[:, :, -rank:] * values[:, None, -rank:].clamp(min=0).sqrt()
        return nearest(diagonal - factors.square().sum(2), factors)

    def _products(self, x: Tensor, t: float, s: Tensor | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """S e_i and row i of S ∂m/∂x, S = σ²/α, for each of the d coordinates, (B, d) each; s is held fixed if given."""
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            m = self.mean(x, t) if s is None else self.mean_of(x, s, t)
        for v in torch.eye(x.shape[1], device=x.device, dtype=x.dtype):
            scale = self.scaled(x.detach(), v.expand(x.shape), t, 2, -1)
            yield scale, torch.autograd.grad(m, x, scale, retain_graph=True)[0]
