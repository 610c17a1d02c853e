"""Noising by a nonlinear drift: dY = -f(Y, t) dt + sqrt(2) dW (eq. 1 with σ̃ = sqrt(2)).

With f = ∇V = -∇log η* of a Gaussian mixture (eq. 3) this is overdamped Langevin dynamics, and η* is its
stationary law: the prior that generation starts from. Any other drift works with the same simulator and the
same objectives, given a prior close to the law of Y_T.
"""

import copy
import math
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.processes.grids import geometric_grid, uniform_grid

ACCURATE = 0.1
"""Largest step of a grid that adapts itself, as a share of the largest stable one. Euler-Maruyama inflates a
component's stationary variance by 1/(1 - share): at 0.1 by 11 %, and past 0.5 the reverse process expands."""

INTEGRAL_NODES = 2000
"""Of the integral of g²/V, spaced like log t."""

Drift = Callable[[Tensor, float], Tensor]
JacobianProduct = Callable[[Tensor, Tensor, float], Tensor]


class Prior(Protocol):
    """What generation starts from."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws, (n, d), by a generator on the CPU."""
        ...


class Process(Protocol):
    """What simulation, objectives and samplers ask of a noising process dY = -f(Y, t) dt + g(t) dW on [0, T]."""

    horizon: float
    """T."""
    mixture: GaussianMixture | None
    """The stationary (or terminal) law, if it is a mixture."""

    @property
    def prior(self) -> Prior:
        """What generation starts from."""
        ...

    @property
    def stable_dt(self) -> float:
        """Step above which Euler-Maruyama diverges."""
        ...

    def to(self, device: torch.device | str) -> "Process":
        """The same process on another device."""
        ...

    def drift(self, y: Tensor, t: float) -> Tensor:
        """f(y, t), (B, d) → (B, d)."""
        ...

    def drift_columns(self, y: Tensor, t: float) -> Tensor:
        """f(y, t), (d, B) → (d, B)."""
        ...

    def diffusion(self, t: float) -> float:
        """g(t)."""
        ...

    def stationary_score(self, y: Tensor) -> Tensor | None:
        """The score that Y_t tends to, (B, d) → (B, d), or None if it is not known."""
        ...

    def kernel(self, start: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of Y_t given Y_0, (B, d), (B,) → (B, d), (B,); if it is known."""
        ...

    def variance(self, t: Tensor) -> Tensor:
        """V(t), the variance that noising has added, (B,)."""
        ...

    def state_std(self, t: Tensor) -> Tensor | None:
        """Standard deviation of Y_t for data of variance 1, (B,), or None if it hardly changes."""
        ...


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
        """The law that generation starts from."""
        return self._prior

    def to(self, device: torch.device | str) -> "Langevin":
        """The same process on another device; a drift of your own follows its argument's device."""
        moved = copy.copy(self)
        if self.mixture is not None:
            moved.mixture = self.mixture.to(device)
        if isinstance(self._prior, GaussianMixture):
            moved._prior = self._prior.to(device)
        return moved

    def starting_from(self, prior: Prior) -> "Langevin":
        """The same process with another law that generation starts from."""
        changed = copy.copy(self)
        changed._prior = prior
        return changed

    def along_axes(self) -> "tuple[Langevin, Tensor] | None":
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
            found = f"{tuple(f.shape)} {f.dtype}" if isinstance(f, Tensor) else type(f).__name__
            raise InputError(f"drift: expected {tuple(y.T.shape)} {y.dtype} at t = {t:g}, found {found}")
        return f.T

    def drift_derivative_columns(self, y: Tensor, v: Tensor, t: float) -> Tensor:
        """Df(y, t) v on columns, (d, B), (d, B) → (d, B)."""
        if self.mixture is not None:
            return self.mixture.at(y).hessian_vector_product(v).neg_()
        if self._jacobian_product is not None:
            return self._jacobian_product(y.T, v.T, t).T
        return torch.func.jvp(lambda x: self.drift_columns(x, t), (y,), (v,))[1]

    def check_jacobian_product(self) -> None:
        """Nothing, if a Jacobian product that was given agrees with a finite difference at a few draws of the prior.

        Raises:
            InputError: it does not.
        """
        if self._jacobian_product is None:
            return
        generator = torch.Generator().manual_seed(0)
        y = self.prior.sample(8, generator)
        v = torch.randn(y.shape, generator=generator, dtype=y.dtype)
        # A drift with constants of its own takes no other type than the prior's.
        step = 1e-5 if y.dtype == torch.float64 else 3e-3
        expected = (self.drift(y + step * v, 0.0) - self.drift(y - step * v, 0.0)) / (2 * step)
        found = self._jacobian_product(y, v, 0.0)
        if found.shape != expected.shape:
            raise InputError(
                f"jacobian_product: expected shape {tuple(expected.shape)}, found {tuple(found.shape)}"
            )
        difference = (found - expected).norm(dim=1)
        worst = int((difference / (expected.norm(dim=1) + 1e-3)).argmax())
        if float(difference[worst]) > 1e-2 * (float(expected[worst].norm()) + 1e-3):
            raise InputError(
                f"jacobian_product: expected {expected[worst].tolist()} by a finite difference of the drift at "
                f"y = {y[worst].tolist()}, v = {v[worst].tolist()}, found {found[worst].tolist()}"
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
        m = self.mixture
        if m is None or m.covariance_type != "spherical":
            raise InputError("mixture-dsm: expected a mixture with spherical covariances")
        i = m.responsibilities(start).argmax(1)
        center, v = m.means.to(start)[i], m.covariances.to(start)[i]
        a = torch.exp(-t / v)
        return center + a[:, None] * (start - center), (v * -torch.expm1(-2 * t / v)).sqrt()

    def state_std(self, t: Tensor) -> Tensor | None:
        """None: the states keep the prior's size at all times."""
        return None

    def variance(self, t: Tensor) -> Tensor:
        """V(t) = v (1 - exp(-2t/v)): variance that noising has added by time t inside a typical component.

        v is the mixture's mean variance (1 for a drift of your own); V(t) → 2t as t → 0.
        """
        v = 1.0 if self.mixture is None else self.mixture.mean_variance
        return -v * torch.expm1(-2.0 * t / v)


def forward_grid(
    process: Process, kind: str, steps: int, last_dt: float | None, integrator: str = "euler-maruyama"
) -> np.ndarray:
    """The simulation's times, (steps + 1,), checked against the stability of Euler-Maruyama where that takes them.

    Args:
        kind: `uniform`, `geometric` (first step `last_dt`, later ones at most `ACCURATE` of the stable size) or
            `importance` (see `importance_grid`).
        last_dt: Δt_N, the recorded example's own step, or None for the grid's own.

    Raises:
        InputError: a step is above the stability limit, or the horizon cannot be reached or is no longer than `last_dt`.
    """
    if last_dt is not None and last_dt >= process.horizon:
        raise InputError(
            f"process.last_dt: expected less than the horizon {process.horizon:g}, found {last_dt:g}"
        )
    exact = integrator == "exponential"
    first = last_dt if last_dt is not None else process.horizon / steps / 100
    if kind == "importance":
        times = importance_grid(process, steps, first)
    elif kind == "geometric":
        largest = math.inf if exact else ACCURATE * process.stable_dt
        times = geometric_grid(process.horizon, steps, first, largest)
    else:
        times = uniform_grid(process.horizon, steps)
    # An example's own step is Euler-Maruyama's whatever takes the others.
    largest = max(0.0 if exact else float(np.diff(times).max()), last_dt or 0.0)
    if largest >= process.stable_dt:
        needed = math.ceil(process.horizon / (0.5 * process.stable_dt))
        raise InputError(
            f"process.grid: expected steps below {process.stable_dt:.3g} (twice the mixture's smallest variance, "
            f"where Euler-Maruyama becomes unstable), found {largest:.3g}; use at least {needed} steps, fewer "
            "mixture components or a larger reference.reg_covar"
        )
    return times


def noise_integral(process: Process, first: float, last: float) -> tuple[np.ndarray, np.ndarray]:
    """Times from `first` to `last`, and ∫ g²/V dt from `first` up to each of them; (m,) each."""
    times = np.geomspace(first, last, INTEGRAL_NODES)
    g = np.array([process.diffusion(float(t)) for t in times])
    rate = g**2 / process.variance(torch.from_numpy(times)).cpu().numpy()
    parts = 0.5 * (rate[1:] + rate[:-1]) * np.diff(times)
    return times, np.concatenate([[0.0], np.cumsum(parts)])


def importance_grid(process: Process, steps: int, first: float) -> np.ndarray:
    """0, `first`, and then times up to T over which ∫ g²/V dt grows equally, (steps + 1,): the density of such times is the
    proposal of importance sampling for the likelihood weighting (dissertation, 9.5.1)."""
    times, grown = noise_integral(process, first, process.horizon)
    # From its end: a single step reaches T.
    return np.append(0.0, np.interp(np.linspace(grown[-1], 0.0, steps)[::-1], grown, times))


def reverse_grid(process: Process, steps: int, end_dt: float, sampler: str = "em") -> np.ndarray:
    """Times of generation from T down to 0, (steps + 1,): fine near 0, where the score changes fast.

    The last step, from about `end_dt` to 0, is the final denoising step. A uniform grid would add noise of
    std sqrt(2h) in its last step, often more than the data's thin directions have. Steps of the exponential sampler
    grow up to the smallest variance or, if they are few, twice their mean: beyond, a step multiplies the score's
    error by exp(h/v).
    """
    largest = ACCURATE * process.stable_dt
    if sampler == "exponential":
        largest = max(0.5 * process.stable_dt, 2 * process.horizon / steps)
    return geometric_grid(process.horizon, steps, end_dt, largest)[::-1].copy()
