"""Noising by a nonlinear drift: dY = -f(Y, t) dt + sqrt(2) dW (eq. 1 with σ̃ = sqrt(2)).

With f = ∇V = -∇log η* of a Gaussian mixture (eq. 3) this is overdamped Langevin dynamics, and η* is its
stationary law: the prior that generation starts from. Any other drift works with the same simulator and the
same objectives, given a prior close to the law of Y_T.
"""

import copy
import math
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.processes.base import Prior, Process

Drift = Callable[[Tensor, float], Tensor]
JacobianProduct = Callable[[Tensor, Tensor, float], Tensor]


class Langevin:
    """The process dY = -f(Y, t) dt + sqrt(2) dW on [0, horizon].

    Args:
        mixture: η*; gives the drift f = -∇log η* and the prior.
        horizon: T.
        drift: f(y, t) of your own, (B, d) and a number → (B, d); then `prior` is needed too.
        prior: law that generation starts from; should be close to the law of Y_T.
        jacobian_product: Df(y, t) v of a drift of your own, (B, d), (B, d) and a number → (B, d); by automatic
            differentiation if not given. Only the path objective needs it.
        stationary: whether f = -∇ log of the prior's density, at least roughly. The score is then learned as a
            difference from -f, which keeps the reverse process from running away where f grows fast.

    Raises:
        InputError: neither a mixture nor a drift with its prior, or a prior that cannot be sampled.
    """

    transition: None = None
    """Not known in closed form."""
    levels: None = None
    """Each mode has its own."""
    components: None = None
    """The states are the rows themselves."""
    hidden: None = None
    """All rows are noised alike."""

    def __init__(
        self,
        mixture: GaussianMixture | None = None,
        *,
        horizon: float = 0.5,
        drift: Drift | None = None,
        prior: Prior | None = None,
        jacobian_product: JacobianProduct | None = None,
        stationary: bool = True,
    ) -> None:
        if (mixture is None) == (drift is None):
            raise InputError(
                "Langevin: expected either a mixture or a drift with its prior, found both or neither"
            )
        if mixture is None and not hasattr(prior, "sample"):
            raise InputError(
                f"Langevin: a drift of your own needs a prior with sample(n, generator), found {type(prior).__name__}"
            )
        if not horizon > 0:
            raise InputError(f"Langevin: expected a horizon above 0, found {horizon}")
        self.mixture, self._drift, self.horizon = mixture, drift, float(horizon)
        self._jacobian_product = jacobian_product
        self._stationary = stationary
        self._prior: Prior = mixture if mixture is not None else prior  # type: ignore[assignment]

    @property
    def prior(self) -> Prior:
        """Law that generation starts from."""
        return self._prior

    @property
    def modes(self) -> GaussianMixture | None:
        """η*, or None for a drift of your own."""
        return self.mixture

    def to(self, device: torch.device | str) -> Self:
        """The same process on another device, itself where it is there; a drift of your own follows its argument's device."""
        mixture = None if self.mixture is None else self.mixture.to(device)
        # Most often one object: a mixture factorises its covariances on each device.
        prior = self._prior if mixture is None or self._prior is not self.mixture else mixture
        if isinstance(prior, GaussianMixture):
            prior = prior.to(device)
        if mixture is self.mixture and prior is self._prior:
            return self
        moved = copy.copy(self)
        moved.mixture, moved._prior = mixture, prior
        return moved

    def starting_from(self, prior: Prior) -> Self:
        """The same process with another prior."""
        changed = copy.copy(self)
        changed._prior = prior
        return changed

    def along_axes(self) -> tuple[Process, Tensor] | None:
        """The process seen along the axes of the covariance that all components share, and these axes in columns, (d, d) on its
        device: y = axes x. None where there is no such covariance, or the axes are the coordinates'.

        A rotation leaves the noise's law alone, and makes the covariance diagonal: a step takes no (d, d) product.
        """
        m = self.mixture
        if m is None or m.covariance_type != "tied" or m.axes is None:
            return None
        variances, axes = m.axes
        turned = GaussianMixture(
            m.weights, m.means @ axes, variances.expand_as(m.means), "diag", device=m.device, dtype=m.dtype
        )
        return Langevin(turned, horizon=self.horizon), axes.to(m.device, m.dtype)

    def drift(self, y: Tensor, t: float) -> Tensor:
        """f(y, t), (B, d) → (B, d)."""
        return self.drift_columns(y.T, t).T

    def drift_columns(self, y: Tensor, t: float) -> Tensor:
        """f(y, t) on columns, (d, B) → (d, B): the layout of the simulator."""
        if self._drift is None:
            assert self.mixture is not None
            return self.mixture.score_columns(y).neg_()
        f = self._drift(y.T, t)
        if not isinstance(f, Tensor) or f.shape != y.T.shape or f.dtype != y.dtype:
            returned = f"{tuple(f.shape)} {f.dtype}" if isinstance(f, Tensor) else type(f).__name__
            raise InputError(f"drift: expected {tuple(y.T.shape)} {y.dtype} at t = {t:g}, found {returned}")
        return f.T

    def drift_derivative_columns(self, y: Tensor, v: Tensor, t: float) -> Tensor:
        """Df(y, t) v on columns, (d, B), (d, B) → (d, B)."""
        if self.mixture is not None:
            return self.mixture.at(y).hessian_vector_product(v).neg_()
        if self._jacobian_product is not None:
            return self._jacobian_product(y.T, v.T, t).T
        return torch.func.jvp(lambda x: self.drift_columns(x, t), (y,), (v,))[1]

    def check_jacobian_product(self) -> None:
        """Compare a Jacobian product that was given with a finite difference at a few draws of the prior.

        Raises:
            InputError: they do not agree.
        """
        if self._jacobian_product is None:
            return
        generator = torch.Generator().manual_seed(0)
        y = self.prior.sample(8, generator)
        v = torch.randn(y.shape, generator=generator, dtype=y.dtype)
        # The constants in a drift may have the prior's type, and then it takes no other.
        step = 1e-5 if y.dtype == torch.float64 else 3e-3
        expected = (self.drift(y + step * v, 0.0) - self.drift(y - step * v, 0.0)) / (2 * step)
        product = self._jacobian_product(y, v, 0.0)
        if product.shape != expected.shape:
            raise InputError(
                f"jacobian_product: expected shape {tuple(expected.shape)}, found {tuple(product.shape)}"
            )
        difference = (product - expected).norm(dim=1)
        worst = int((difference / (expected.norm(dim=1) + 1e-3)).argmax())
        if float(difference[worst]) > 1e-2 * (float(expected[worst].norm()) + 1e-3):
            raise InputError(
                f"jacobian_product: expected {expected[worst].tolist()} by a finite difference of the drift at "
                f"y = {y[worst].tolist()}, v = {v[worst].tolist()}, found {product[worst].tolist()}"
            )

    def diffusion(self, t: float) -> float:
        """σ̃(t) = sqrt(2)."""
        return math.sqrt(2.0)

    @property
    def stable_dt(self) -> float:
        """Step above which Euler-Maruyama diverges: twice the smallest variance; infinite if unknown."""
        return math.inf if self.mixture is None else 2.0 * self.mixture.min_variance

    def stationary_score(self, y: Tensor) -> Tensor | None:
        """-∇V(y), (B, d) → (B, d), or None for a drift that has no such V."""
        if self.mixture is not None:
            return self.mixture.score(y)
        return -self.drift(y, 0.0) if self._stationary else None

    def kernel(self, start: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of Y_t if Y_0's likeliest component were alone; (B, d), (B,) → (B, d), (B,).

        That component's Ornstein-Uhlenbeck kernel: μ_i + a (Y_0 - μ_i) and sqrt(v_i (1 - a²)), a = exp(-t/v_i).
        Exact for one component, close where components are far apart; needs spherical covariances.
        """
        if self.mixture is None or self.mixture.covariance_type != "spherical":
            raise InputError("mixture-dsm: expected a mixture with spherical covariances")
        return mode_kernel(self.mixture, start, t, self.mixture.responsibilities(start).argmax(1))

    def state_std(self, t: Tensor) -> Tensor | None:
        """None: the states keep the prior's size at all times."""
        return None

    def variance(self, t: Tensor) -> Tensor:
        """V(t) = v (1 - exp(-2t/v)): variance that noising has added by time t inside a typical component.

        v is the mixture's mean variance (1 for a drift of your own); V(t) → 2t as t → 0.
        """
        v = 1.0 if self.mixture is None else self.mixture.mean_variance
        return -v * torch.expm1(-2.0 * t / v)


def mode_kernel(mixture: GaussianMixture, start: Tensor, t: Tensor, i: Tensor) -> tuple[Tensor, Tensor]:
    """μ_i + a (Y_0 - μ_i) and sqrt(v_i (1 - a²)), a = exp(-t/v_i), of spherical components i, (B,); (B, d) and (B,)."""
    center, v = mixture.means.to(start)[i], mixture.covariances.to(start)[i]
    a = torch.exp(-t / v)
    return center + a[:, None] * (start - center), (v * -torch.expm1(-2 * t / v)).sqrt()
