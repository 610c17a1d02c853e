"""Closed-form kernels of linear noising and of each mode of a mixture, and affine maps blended over the modes.

In mode i, along each of its axes, Y_t - μ_i = α(t) (Y_0 - μ_i) + σ(t) Z. A linear process is one mode at the origin with
its own α and σ; the Langevin process of a mixture has α = exp(-t/v_i) and σ² = v_i (1 - α²) inside component i. There
the drift is ∇V(y) = (y - μ_i)/v_i + R_i(y), and R_i is put to the score: the effective score of mode i is
f + s - (y - μ_i)/v_i, which is s inside the mode and keeps every step consistent where modes overlap.

Tables of numbers per axis and mode have the shape (r, K) or (1, 1), as in `ndsm.processes.modes`, in float64.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from ndsm.processes.base import Process, Transition, require
from ndsm.processes.modes import Modes

SLOPE_ERROR = 0.02
"""ε, error of a learned probability flow within a mode relative to its size near the data."""
ROUNDING = 1e-6
"""Smallest ε: rounding errors in float32 of an exact flow."""


def linear_step(transition: Transition, u: float, t: float) -> tuple[float, float]:
    """a and q of Y_t = a Y_u + sqrt(q) Z for u < t."""
    times = torch.tensor([u, t], dtype=torch.float64)
    log_alpha, variance = transition.log_alpha(times), transition.std(times) ** 2
    a = float((log_alpha[1] - log_alpha[0]).exp())
    return a, float(variance[1]) - a * a * float(variance[0])


@dataclass(frozen=True)
class Term:
    """coefficient ⊙ (x - μ_i) for a point, coefficient ⊙ x for a vector, along the axes of each mode i."""

    coefficient: Tensor
    """(r, K) or (1, 1)."""
    x: Tensor
    """(B, d)."""
    point: bool = False


class LinearKernel:
    """The kernel of a linear process.

    Raises:
        InputError: its transition law is not known.
    """

    pull = 0.0
    """Linear part 1/v of the drift absorbed into the effective score; 0 for a linear process."""

    has_modes = False

    def __init__(self, process: Process, user: str) -> None:
        self._transition = require(process, "transition", user)

    def log_alpha(self, t: float) -> Tensor:
        """log α(t), (1, 1)."""
        return self._transition.log_alpha(torch.tensor([[t]], dtype=torch.float64))

    def std(self, t: float) -> Tensor:
        """σ(t), (1, 1)."""
        return self._transition.std(torch.tensor([[t]], dtype=torch.float64))

    def unpulled(self, t: float, u: float) -> Tensor:
        """α(u)/α(t), (1, 1)."""
        return (self.log_alpha(u) - self.log_alpha(t)).exp()

    def trust(self, t: float, u: float, error: float) -> Tensor:
        """α(u)/α(t), (1, 1), whatever the error."""
        return self.unpulled(t, u)

    def spread(self, t: float) -> float:
        """α² + σ²: variance of Y_t for a variance of 1 of Y_0."""
        return float((2 * self.log_alpha(t)).exp() + self.std(t) ** 2)

    def slope(self, process: Process, x: Tensor, s: Tensor, t: float) -> Tensor:
        """The score, (B, d)."""
        return s

    def blend(self, x: Tensor, terms: list[Term], centred: bool = True) -> Tensor:
        """Sum of the terms, (B, d); points and vectors are the same because μ = 0."""
        return torch.stack([float(term.coefficient) * term.x for term in terms]).sum(0)


class MixtureKernel:
    """The kernels of a mixture's components.

    Raises:
        InputError: the process is not a mixture's Langevin process.
    """

    has_modes = True

    def __init__(self, process: Process, user: str) -> None:
        self._mixture = require(process, "modes", user)
        # In float64: the factors of a step reach exp(h/v).
        start = torch.zeros(self._mixture.dimension, 1, dtype=torch.float64, device=self._mixture.device)
        modes = Modes(self._mixture.to(dtype=torch.float64), start)
        self._variance, self._axes = modes.variance, modes.axes
        self.pull = 1 / self._variance
        self._means = self._mixture.means.to(self._variance)

    def log_alpha(self, t: float) -> Tensor:
        """-t/v, (r, K)."""
        return -t / self._variance

    def std(self, t: float) -> Tensor:
        """sqrt(v (1 - exp(-2t/v))), (r, K)."""
        return (-self._variance * torch.expm1(-2 * t / self._variance)).sqrt()

    def unpulled(self, t: float, u: float) -> Tensor:
        """α(u)/α(t) (1 - σ(t)²/v) = exp(-(t + u)/v), (r, K): the product, as α(u)/α(t) alone overflows in thin axes."""
        return torch.exp(-(t + u) / self._variance)

    def trust(self, t: float, u: float, error: float) -> Tensor:
        """α(u)/α(t) times α²/(α² + ε²) with α = α(t), (r, K): weight of a slope of size α and error ε.

        A step divides the slope by α, which multiplies its error beyond all measure where α is nearly 0; this factor prevents that.
        It is a bias that smaller steps do not remove: for an exact slope ε should be 0.

        Args:
            error: ε, at least `ROUNDING`.
        """
        return self.unpulled(t, u) / (self.unpulled(t, t) + max(error, ROUNDING) ** 2)

    def spread(self, t: float) -> float:
        """1: the modes are stationary."""
        return 1.0

    def slope(self, process: Process, x: Tensor, s: Tensor, t: float) -> Tensor:
        """f + s: the probability flow's, (B, d)."""
        return process.drift(x, t) + s

    def blend(self, x: Tensor, terms: list[Term], centred: bool = True) -> Tensor:
        """Σ_i r_i(x) (μ_i + Σ terms in mode i), (B, d); without the μ_i if it is a vector, `centred` false."""
        shares = self._mixture.responsibilities(x)
        means, axes = self._means.to(shares) * centred, self._axes
        points = sum((term.coefficient for term in terms if term.point), torch.zeros_like(self._variance))
        if axes is None:
            out = shares @ ((1 - points).T.to(shares) * means)
            for term in terms:
                out = out + self._of_rows(shares, term.coefficient) * term.x
            return out
        if len(axes) == 1:
            q = axes[0].to(shares)
            out = (shares @ means) @ q * (1 - points[:, 0]).to(shares)
            for term in terms:
                out = out + (term.x @ q) * term.coefficient[:, 0].to(shares)
            return out @ q.T
        out = torch.zeros_like(terms[0].x)
        for i, (share, mean, q) in enumerate(zip(shares.T, means, axes.to(shares), strict=True)):
            along = torch.zeros_like(out)
            for term in terms:
                u = term.x - mean if term.point else term.x
                along = along + (u @ q) * term.coefficient[:, min(i, term.coefficient.shape[1] - 1)].to(
                    shares
                )
            out = out + share[:, None] * (mean + along @ q.T)
        return out

    def _of_rows(self, shares: Tensor, table: Tensor) -> Tensor:
        """Σ_i r_i of a table, (B, r)."""
        return shares @ table.T.expand(shares.shape[1], -1).to(shares)


Kernel = LinearKernel | MixtureKernel


def kernel_of(process: Process, user: str) -> Kernel:
    """Kernel of a linear process, or kernels of the modes of a mixture's.

    Raises:
        InputError: the process has neither.
    """
    return MixtureKernel(process, user) if process.transition is None else LinearKernel(process, user)
