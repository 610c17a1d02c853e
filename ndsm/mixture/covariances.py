"""The components of a Gaussian mixture, by the shape of their covariances.

Symbols: d dimension, K components, B rows; P_i = Σ_i⁻¹; g_i(y) = -P_i (y - μ_i), the score of component i. The
simulator asks for the same formulas a few thousand times per block, so they are written once, on **columns**: a state
of shape (d, B). For small d that layout is about ten times faster than (B, d), because every operation then runs along
B. No (B, K, d) tensor is ever made.
"""

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Cast = Callable[[Tensor], Tensor]
"""Moves a factor, computed in float64, to the mixture's device and dtype."""


class Components(Protocol):
    """Operations of a covariance kind, all on columns; a is any (K, B) matrix of coefficients."""

    def log_joint(self, y: Tensor) -> Tensor:
        """log w_i N(y; μ_i, Σ_i) for every component; (d, B) → (K, B)."""
        ...

    def combine(self, y: Tensor, a: Tensor) -> Tensor:
        """Σ_i a_i g_i(y); (d, B), (K, B) → (d, B)."""
        ...

    def average(self, y: Tensor, joint: Tensor) -> Tensor:
        """Σ_i a_i g_i(y) / Σ_i a_i, the mixture's score for a = r up to a factor; (d, B), (K, B) → (d, B)."""
        ...

    def dots(self, y: Tensor, v: Tensor) -> Tensor:
        """g_i(y)·v for every component; (d, B), (d, B) → (K, B)."""
        ...

    def precision(self, v: Tensor, a: Tensor) -> Tensor:
        """Σ_i a_i P_i v; (d, B), (K, B) → (d, B)."""
        ...


class Averaging:
    """The posterior average of component scores by `combine`; a shape may know a faster way."""

    combine: Callable[[Tensor, Tensor], Tensor]

    def average(self, y: Tensor, joint: Tensor) -> Tensor:
        """Σ_i a_i g_i(y) / Σ_i a_i; (d, B), (K, B) → (d, B)."""
        return self.combine(y, joint).div_(joint.sum(0))


class Spherical:
    """Σ_i = v_i I."""

    def __init__(self, log_weights: Tensor, means: Tensor, covariances: Tensor, cast_to: Cast) -> None:
        d, v = means.shape[1], covariances
        scaled = means / v[:, None]
        log_norm = d * (2 * math.pi * v).log() + (means**2).sum(1) / v
        constant = (log_weights - 0.5 * log_norm)[:, None]
        # One matrix product gives the quadratic form, the state being extended by the rows |y|² and 1, and
        # one gives all sums over components. The simulator's time is spent here.
        self._quadratic = cast_to(torch.cat([scaled, -0.5 / v[:, None], constant], 1))
        self._gather = cast_to(torch.cat([scaled.T, (1 / v)[None], torch.ones_like(v)[None]]))
        self._scaled, self._inverse = cast_to(scaled), cast_to((1 / v)[:, None])

    def log_joint(self, y: Tensor) -> Tensor:
        return self._quadratic @ torch.cat([y, (y * y).sum(0, keepdim=True), torch.ones_like(y[:1])])

    def combine(self, y: Tensor, a: Tensor) -> Tensor:
        return self._sums(y, a)[0]

    def average(self, y: Tensor, joint: Tensor) -> Tensor:
        total, weight = self._sums(y, joint)
        return total.div_(weight)

    def _sums(self, y: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        d, sums = y.shape[0], self._gather @ a
        return torch.addcmul(sums[:d], y, sums[d : d + 1], value=-1), sums[d + 1]

    def dots(self, y: Tensor, v: Tensor) -> Tensor:
        return self._scaled @ v - self._inverse * (y * v).sum(0)

    def precision(self, v: Tensor, a: Tensor) -> Tensor:
        return v * (self._inverse.T @ a)


class Diagonal(Averaging):
    """Σ_i diagonal."""

    def __init__(self, log_weights: Tensor, means: Tensor, covariances: Tensor, cast_to: Cast) -> None:
        inverse = 1 / covariances
        log_norm = (2 * math.pi * covariances).log().sum(1) + (means**2 * inverse).sum(1)
        self._constant = cast_to((log_weights - 0.5 * log_norm)[:, None])
        self._scaled, self._inverse = cast_to(means * inverse), cast_to(inverse)

    def log_joint(self, y: Tensor) -> Tensor:
        linear = torch.addmm(self._constant, self._scaled, y)
        return torch.addmm(linear, self._inverse, y * y, alpha=-0.5)

    def combine(self, y: Tensor, a: Tensor) -> Tensor:
        return torch.addcmul(self._scaled.T @ a, y, self._inverse.T @ a, value=-1)

    def dots(self, y: Tensor, v: Tensor) -> Tensor:
        return self._scaled @ v - self._inverse @ (y * v)

    def precision(self, v: Tensor, a: Tensor) -> Tensor:
        return v * (self._inverse.T @ a)


class Tied(Averaging):
    """Σ_i = Σ for every component."""

    def __init__(self, log_weights: Tensor, means: Tensor, covariances: Tensor, cast_to: Cast) -> None:
        d = means.shape[1]
        root = torch.linalg.cholesky(covariances)
        precision = torch.cholesky_inverse(root)
        log_det = 2 * root.diagonal().log().sum()
        scaled = means @ precision
        log_norm = d * math.log(2 * math.pi) + log_det + (scaled * means).sum(1)
        self._constant = cast_to((log_weights - 0.5 * log_norm)[:, None])
        self._precision, self._scaled = cast_to(precision), cast_to(scaled)

    def log_joint(self, y: Tensor) -> Tensor:
        return torch.addmm(self._constant, self._scaled, y) - 0.5 * (y * (self._precision @ y)).sum(0)

    def combine(self, y: Tensor, a: Tensor) -> Tensor:
        return self._scaled.T @ a - (self._precision @ y) * a.sum(0)

    def dots(self, y: Tensor, v: Tensor) -> Tensor:
        return self._scaled @ v - (y * (self._precision @ v)).sum(0)

    def precision(self, v: Tensor, a: Tensor) -> Tensor:
        return (self._precision @ v) * a.sum(0)


class Full(Averaging):
    """Σ_i arbitrary; a loop over components, so that memory stays at (d, B) whatever K is."""

    def __init__(self, log_weights: Tensor, means: Tensor, covariances: Tensor, cast_to: Cast) -> None:
        d = means.shape[1]
        roots = torch.linalg.cholesky(covariances)
        precisions = torch.cholesky_inverse(roots)
        log_det = 2 * roots.diagonal(dim1=1, dim2=2).log().sum(1)
        self._constant = cast_to((log_weights - 0.5 * (d * math.log(2 * math.pi) + log_det))[:, None])
        self._precisions = cast_to(precisions)
        self._means = cast_to(means[:, :, None])

    def _scores(self, y: Tensor) -> "list[tuple[Tensor, Tensor]]":
        # Differences first, products after: P_i y - P_i μ_i would cancel badly for thin covariances.
        return [(y - m, p) for m, p in zip(self._means, self._precisions, strict=True)]

    def log_joint(self, y: Tensor) -> Tensor:
        quadratic = torch.stack([(e * (p @ e)).sum(0) for e, p in self._scores(y)])
        return self._constant - 0.5 * quadratic

    def combine(self, y: Tensor, a: Tensor) -> Tensor:
        total = torch.zeros_like(y)
        for (e, p), c in zip(self._scores(y), a, strict=True):
            total.addmm_(p, e * c, alpha=-1)
        return total

    def dots(self, y: Tensor, v: Tensor) -> Tensor:
        return torch.stack([-(e * (p @ v)).sum(0) for e, p in self._scores(y)])

    def precision(self, v: Tensor, a: Tensor) -> Tensor:
        total = torch.zeros_like(v)
        for p, c in zip(self._precisions, a, strict=True):
            total.addmm_(p, v * c)
        return total
