"""The components of a Gaussian mixture as coordinates, for noising that treats each component by itself."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ndsm.core.types import Score
from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture

SETTLED = 1e-6
"""Change of a weight in a pass of `settled_weights` below which it ends."""
BLENDED = 64
"""Dimension up to which a matrix is made for each row; above, products are taken component by component."""
MOST_PASSES = 200
"""Passes of `settled_weights`."""


@dataclass(frozen=True)
class Components:
    """The components of a mixture as coordinates: u = L_k⁻¹ (y - μ_k), L_k the lower triangular factor of Σ_k.

    Args:
        mixture: gives responsibilities, factors and the shares π of generated rows.
    """

    mixture: GaussianMixture

    @property
    def count(self) -> int:
        """K."""
        return self.mixture.n_components

    @cached_property
    def _factors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """μ (K, d); L and L⁻¹, triangles where the covariances are matrices, else numbers; log det L (K,)."""
        m = self.mixture
        matrices = m.covariance_type in ("tied", "full")
        factor = torch.linalg.cholesky(m.covariances) if matrices else m.covariances.sqrt()
        diagonal = factor.diagonal(dim1=-2, dim2=-1) if matrices else factor
        log_det = diagonal.log()
        log_det = log_det * m.dimension if m.covariance_type == "spherical" else log_det.sum(-1)
        inverse = 1 / factor
        if matrices:
            inverse = torch.linalg.solve_triangular(factor, torch.eye(m.dimension).to(factor), upper=False)
        means, factor, inverse = (x.to(m.device, m.dtype).contiguous() for x in (m.means, factor, inverse))
        return means, factor, inverse, log_det.expand(m.n_components).to(m.device)

    def draw(self, y: Tensor, uniform: Tensor) -> Tensor:
        """A component of each row by its responsibilities, (B, d) → (B,) int64.

        Args:
            uniform: in [0, 1), (B,).
        """
        return draw_by_weight(self.mixture.responsibilities(y), uniform)

    def draw_prior(self, n: int, generator: torch.Generator) -> Tensor:
        """Components by their shares π, (n,) int64 on the CPU.

        Args:
            generator: on the CPU.
        """
        return torch.multinomial(self.mixture.weights, n, replacement=True, generator=generator)

    def enter(self, y: Tensor, k: Tensor) -> Tensor:
        """u of rows y and their components, (B, d), (B,) → (B, d)."""
        means, _, inverse, _ = self._factors
        return self._times(inverse, y - means[k], k)

    def leave(self, u: Tensor, k: Tensor) -> Tensor:
        """y = μ_k + L_k u, (B, d), (B,) → (B, d)."""
        return self.spread(u, k) + self.means[k]

    def spread(self, u: Tensor, k: Tensor) -> Tensor:
        """L_k u, (B, d), (B,) → (B, d)."""
        return self._times(self._factors[1], u, k)

    @property
    def means(self) -> Tensor:
        """μ, (K, d)."""
        return self._factors[0]

    def enter_all(self, y: Tensor, shares: Tensor) -> Tensor:
        """Σ_k r_k L_k⁻¹ (y - μ_k) for shares r, (B, d), (B, K) → (B, d)."""
        means, _, inverse, _ = self._factors
        if self.mixture.covariance_type == "tied":
            return (y - shares @ means) @ inverse.T
        return self._times_all(inverse, y, shares) - shares @ self._entered_means

    def spread_all(self, u: Tensor, shares: Tensor) -> Tensor:
        """Σ_k r_k L_k u for shares r, (B, d), (B, K) → (B, d)."""
        return self._times_all(self._factors[1], u, shares)

    def whiten(self, x: Tensor, k: Tensor) -> Tensor:
        """L_k⁻¹ x, (B, d), (B,) → (B, d)."""
        return self._times(self._factors[2], x, k)

    @cached_property
    def _entered_means(self) -> Tensor:
        """L_k⁻¹ μ_k, (K, d)."""
        return self._times(self._factors[2], self.means, torch.arange(self.count, device=self.means.device))

    def _times_all(self, factor: Tensor, x: Tensor, shares: Tensor) -> Tensor:
        """Σ_k r_k F_k x for factors F, one of `_factors`, (B, d), (B, K) → (B, d)."""
        match self.mixture.covariance_type:
            case "spherical":
                return x * (shares @ factor)[:, None]
            case "diag":
                return x * (shares @ factor)
            case "tied":
                return x @ factor.T
        if x.shape[1] <= BLENDED:
            matrices = (shares @ factor.flatten(1)).unflatten(1, factor.shape[1:])
            return (matrices @ x[:, :, None])[:, :, 0]
        return sum(
            (r[:, None] * (x @ f.T) for r, f in zip(shares.T, factor, strict=True)), torch.zeros_like(x)
        )

    def log_det(self, k: Tensor) -> Tensor:
        """log det L_k, (B,) → (B,) float64."""
        return self._factors[3][k]

    def factor(self, k: int) -> Tensor:
        """L_k, (d, d) float64 on the CPU."""
        m = self.mixture
        covariance = m.covariance(k)
        return covariance.sqrt().diag() if covariance.ndim == 1 else torch.linalg.cholesky(covariance)

    def _times(self, factor: Tensor, x: Tensor, k: Tensor) -> Tensor:
        """The factor of each row's component, one of `_factors`, times the row, (B, d), (B,) → (B, d)."""
        match self.mixture.covariance_type:
            case "spherical":
                return x * factor[k, None]
            case "diag":
                return x * factor[k]
            case "tied":
                return x @ factor.T
        out = torch.empty_like(x)
        counts = torch.bincount(k, minlength=self.count).tolist()
        for root, rows in zip(factor, k.argsort(stable=True).split(counts), strict=True):
            if len(rows):
                out[rows] = x[rows] @ root.T
        return out

    def to(self, device: torch.device | str) -> "Components":
        """The same on another device; itself where it is there."""
        mixture = self.mixture.to(device)
        return self if mixture is self.mixture else Components(mixture)

    def with_weights(self, weights: Tensor) -> "Components":
        """The same with other shares π of generated rows, (K,), of which some may be 0.

        Raises:
            InputError: another number of them, a negative one, or none above 0.
        """
        weights = torch.as_tensor(weights, dtype=torch.float64)
        valid = (
            bool(torch.isfinite(weights).all()) and bool((weights >= 0).all()) and float(weights.sum()) > 0
        )
        if weights.shape != (self.count,) or not valid:
            raise InputError(
                f"mode weights: expected {self.count} numbers of 0 or more, one for each component, not all 0, found "
                f"{weights.tolist()}"
            )
        # A mixture's weights are positive.
        tiny = torch.finfo(torch.float64).tiny
        return Components(self.mixture.with_weights(weights.clamp(min=tiny * float(weights.sum()))))


def draw_by_weight(weights: Tensor, uniform: Tensor) -> Tensor:
    """An index of each row by its weights, (B, K), (B,) → (B,): the inverse of their distribution function."""
    cumulative = weights.cumsum(1)
    at = uniform.to(cumulative)[:, None] * cumulative[:, -1:]
    return (cumulative <= at).sum(1).clamp(max=weights.shape[1] - 1)


def of_components(score: Score, component: Tensor) -> Score:
    """The score s(u, t, k) of a process with components, as a score of rows whose components are known.

    Args:
        component: (B,); a call with m times B rows has each row's evaluations B rows apart, as `torch.cat`.
    """

    def bound(y: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        given: Any = score
        out: Tensor = given(y, t, *label, component=component.repeat(len(y) // len(component)))
        return out

    return bound


def settled_weights(mixture: GaussianMixture, rows: Tensor) -> GaussianMixture:
    """The mixture whose weights are the mean responsibilities of these rows, (N, d): a fixed point of EM's step for the weights.

    Components that are left with less than one row are dropped.

    Warns:
        UserWarning: some are.
    """
    components = mixture.n_components
    for _ in range(MOST_PASSES):
        held = torch.zeros(mixture.n_components, dtype=torch.float64)
        for part in rows.split(4096):
            held += mixture.responsibilities(part.to(mixture.dtype)).sum(0, dtype=torch.float64)
        kept = held >= 1
        if not kept.all():
            mixture = mixture.with_components(kept)
            continue
        weights = held / len(rows)
        change = float((weights - mixture.weights).abs().max())
        mixture = mixture.with_weights(weights)
        if change < SETTLED:
            break
    if mixture.n_components < components:
        warnings.warn(
            f"{components - mixture.n_components} of {components} components of the mixture hold less than one of the {len(rows)} "
            "rows each and are left out",
            stacklevel=2,
        )
    return mixture
