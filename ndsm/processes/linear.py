"""Linear noising dY = -a(t) Y dt + g(t) dW, whose transition law is known: Y_t = α(t) Y_0 + σ(t) Z.

They are the baselines: variance preserving (VP, eq. 23 of the paper), variance exploding (VE), sub-VP, and
Ornstein-Uhlenbeck. Each states three functions of time (log α, σ and the rate a), from which the rest follows.
"""

import copy
import math
from abc import ABC, abstractmethod
from typing import Self

import torch
from torch import Tensor

from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.processes.components import Components


class Linear(ABC):
    """Base class of the linear processes.

    Args:
        horizon: T.
    """

    modes: None = None
    """Not the Langevin process of a mixture."""
    hidden: None = None
    """All rows are noised alike."""

    @property
    def components(self) -> Components | None:
        """None: the states are the rows themselves."""
        return None

    stable_dt = math.inf
    """No limit: rows are drawn from the transition law, and the reverse process is stable on the usual grids."""

    def __init__(self, horizon: float = 1.0) -> None:
        if not horizon > 0:
            raise InputError(f"{type(self).__name__}: expected a horizon above 0, found {horizon}")
        self.horizon = float(horizon)
        self.mixture: GaussianMixture | None = None

    def for_dimension(self, dimension: int) -> Self:
        """The same process with a prior for data of `dimension` columns: N(0, (α(T)² + σ(T)²) I)."""
        end = torch.tensor([self.horizon], dtype=torch.float64)
        # For VP, sub-VP and OU with standardised data the variance is 1 up to terms of the order of α(T)².
        return self.starting_from(
            GaussianMixture(torch.ones(1), torch.zeros(1, dimension), self.state_std(end) ** 2, "spherical")
        )

    @property
    def transition(self) -> Self:
        """The process itself: it is known by log α and σ."""
        return self

    @property
    def levels(self) -> Self:
        """The process itself."""
        return self

    def starting_from(self, prior: GaussianMixture) -> Self:
        """The same process with another prior."""
        changed = copy.copy(self)
        changed.mixture = prior
        return changed

    def along_axes(self) -> None:
        """None: a step takes no product with a matrix."""
        return

    @property
    def prior(self) -> GaussianMixture:
        """Law that generation starts from."""
        if self.mixture is None:
            raise InputError(
                f"{type(self).__name__}: the prior's dimension is not known yet; use for_dimension(d)"
            )
        return self.mixture

    @abstractmethod
    def log_alpha(self, t: Tensor) -> Tensor:
        """log α(t), (B,)."""

    @abstractmethod
    def std(self, t: Tensor) -> Tensor:
        """σ(t), (B,)."""

    @abstractmethod
    def rate(self, t: float) -> float:
        """a(t) = -d log α/dt."""

    @abstractmethod
    def diffusion(self, t: float) -> float:
        """g(t)."""

    def to(self, device: torch.device | str) -> Self:
        """The same process with its prior on another device; itself where that is there."""
        mixture = None if self.mixture is None else self.mixture.to(device)
        return self if mixture is None or mixture is self.mixture else self.starting_from(mixture)

    def drift(self, y: Tensor, t: float) -> Tensor:
        """f(y, t) = a(t) y, (B, d) → (B, d)."""
        return y * self.rate(t)

    def drift_columns(self, y: Tensor, t: float) -> Tensor:
        """f(y, t) on columns, (d, B) → (d, B)."""
        return y * self.rate(t)

    def drift_derivative_columns(self, y: Tensor, v: Tensor, t: float) -> Tensor:
        """Df(y, t) v on columns, (d, B), (d, B) → (d, B)."""
        return v * self.rate(t)

    def check_jacobian_product(self) -> None:
        """Return at once: no user gives the derivative."""
        return

    def stationary_score(self, y: Tensor) -> Tensor | None:
        """The prior's score, (B, d) → (B, d)."""
        return self.prior.score(y)

    def kernel(self, start: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean α(t) Y_0 and standard deviation σ(t) of Y_t given Y_0; (B, d), (B,) → (B, d), (B,)."""
        return start * self.log_alpha(t).exp()[:, None], self.std(t)

    def variance(self, t: Tensor) -> Tensor:
        """V(t) = σ(t)², (B,)."""
        return self.std(t) ** 2

    def state_std(self, t: Tensor) -> Tensor:
        """Standard deviation of Y_t for data of variance 1, (B,): scales the network's input."""
        return (torch.exp(2 * self.log_alpha(t)) + self.std(t) ** 2).sqrt()


class VP(Linear):
    """dY = -½β(t) Y dt + sqrt(β(t)) dW, β linear from beta_min to beta_max (eq. 23)."""

    def __init__(self, horizon: float = 1.0, beta_min: float = 0.1, beta_max: float = 20.0) -> None:
        super().__init__(horizon)
        if not 0 < beta_min <= beta_max < math.inf:
            raise InputError(
                f"{type(self).__name__}: expected 0 < beta_min <= beta_max, found {beta_min} and {beta_max}"
            )
        self.beta_min, self.beta_max = beta_min, beta_max

    def beta(self, t: float) -> float:
        """β(t)."""
        return self.beta_min + (self.beta_max - self.beta_min) * t / self.horizon

    def log_alpha(self, t: Tensor) -> Tensor:
        """-½ ∫β."""
        return -0.5 * (self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t**2 / self.horizon)

    def std(self, t: Tensor) -> Tensor:
        """sqrt(1 - α²)."""
        return (-torch.expm1(2 * self.log_alpha(t))).sqrt()

    def rate(self, t: float) -> float:
        """½β(t)."""
        return 0.5 * self.beta(t)

    def diffusion(self, t: float) -> float:
        """sqrt(β(t))."""
        return math.sqrt(self.beta(t))


class SubVP(VP):
    """VP's drift with g² = β (1 - exp(-2∫β)), so that σ = 1 - α² (dissertation, 7.2)."""

    def std(self, t: Tensor) -> Tensor:
        """1 - α²."""
        return -torch.expm1(2 * self.log_alpha(t))

    def diffusion(self, t: float) -> float:
        """sqrt(β (1 - α⁴))."""
        log_alpha = float(self.log_alpha(torch.tensor(t, dtype=torch.float64)))
        return math.sqrt(max(0.0, -self.beta(t) * math.expm1(4 * log_alpha)))


class OU(VP):
    """dY = -Y dt + sqrt(2) dW: the Langevin process of N(0, I)."""

    def __init__(self, horizon: float = 3.0) -> None:
        super().__init__(horizon, 2.0, 2.0)


class VE(Linear):
    """dY = g dW with σ(t)² = s(t)² - s(0)², s(t) = sigma_min (sigma_max/sigma_min)^(t/T) (dissertation, 7.2)."""

    def __init__(self, horizon: float = 1.0, sigma_min: float = 0.01, sigma_max: float = 20.0) -> None:
        super().__init__(horizon)
        if not 0 < sigma_min < sigma_max < math.inf:
            raise InputError(f"VE: expected 0 < sigma_min < sigma_max, found {sigma_min} and {sigma_max}")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self._growth = math.log(sigma_max / sigma_min) / horizon

    def log_alpha(self, t: Tensor) -> Tensor:
        """0: the mean stays."""
        return torch.zeros_like(t)

    def std(self, t: Tensor) -> Tensor:
        """sqrt(s(t)² - s(0)²)."""
        return self.sigma_min * torch.expm1(2 * self._growth * t).sqrt()

    def rate(self, t: float) -> float:
        """0."""
        return 0.0

    def diffusion(self, t: float) -> float:
        """sqrt(ds²/dt)."""
        return self.sigma_min * math.exp(self._growth * t) * math.sqrt(2 * self._growth)

    @property
    def noise_scales(self) -> Self:
        """The process itself."""
        return self

    def noise_scale(self, t: float) -> float:
        """σ(t) as a number."""
        return float(self.std(torch.tensor(t, dtype=torch.float64)))

    def time_of(self, std: float) -> float:
        """t with σ(t) = std."""
        return 0.5 * math.log1p((std / self.sigma_min) ** 2) / self._growth
