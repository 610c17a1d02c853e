"""Noising by components that the network does not see: the states are the rows themselves.

Rows are noised as in `ndsm.processes.mixture_ou`, K ~ r(Y_0) and

    Y_t = μ_K + α (Y_0 - μ_K) + σ L_K Z,    α = exp(-t), σ² = 1 - α²,

and what is learned is one field for all of them, the velocity of the probability flow of the law of Y_t,

    v(y, t) = E[ dY_t/dt | Y_t = y ] = E[ -α (Y_0 - μ_K) + (α²/σ) L_K Z | Y_t = y ],

as in flow matching with the mixture as its source, each row coupled to its own component (Lipman et al. 2023). Rows whose law is the
mixture have v = 0.

The network works in coordinates that are those of a component where that one is alone, and a blend where several overlap: it sees
u = Σ r_k(y) L_k⁻¹ (y - μ_k) and r itself, and v = Σ r_k(y) L_k net.

The drift of the law of Y_t is not known, and with it no score: the field -v takes the place of f + ½g² s with f = 0 and g = √2, and
samplers that need the score itself are refused (`require`).
"""

import copy
import math
from typing import Self

import torch
from torch import Tensor

from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.processes.components import Components
from ndsm.processes.linear import OU


class MarginalMixtureOU:
    """The process of the module's docstring.

    Args:
        components: a mixture, or its `Components`.
        horizon: T; α(T) = exp(-T).
    """

    transition: None = None
    """A mixture of kernels."""
    modes: None = None
    """Not the Langevin process of a mixture."""
    components: None = None
    """The states are the rows themselves."""
    stable_dt = math.inf
    """No limit: rows are drawn from their kernels."""

    def __init__(self, components: GaussianMixture | Components, horizon: float = 3.0) -> None:
        self._components = components if isinstance(components, Components) else Components(components)
        self.levels = OU(horizon)
        self.horizon = self.levels.horizon
        self._prior = self._components.mixture
        self.mixture: GaussianMixture | None = self._prior

    @property
    def hidden(self) -> Self:
        """The process itself."""
        return self

    @property
    def prior(self) -> GaussianMixture:
        """Law at t = T."""
        return self._prior

    def to(self, device: torch.device | str) -> Self:
        """The same process on another device."""
        if torch.device(device) == self._prior.device:
            return self
        moved = self.starting_from(self._prior.to(device))
        moved._components = self._components.to(device)
        return moved

    def starting_from(self, prior: GaussianMixture) -> Self:
        """The same process with another prior."""
        changed = copy.copy(self)
        changed._prior = changed.mixture = prior
        return changed

    def along_axes(self) -> None:
        """None: nothing is simulated."""
        return

    def drift(self, y: Tensor, t: float) -> Tensor:
        """0, (B, d) → (B, d): all of the flow is learned."""
        return torch.zeros_like(y)

    def drift_columns(self, y: Tensor, t: float) -> Tensor:
        """0, (d, B) → (d, B)."""
        return torch.zeros_like(y)

    def drift_derivative_columns(self, y: Tensor, v: Tensor, t: float) -> Tensor:
        """0, (d, B), (d, B) → (d, B)."""
        return torch.zeros_like(v)

    def check_jacobian_product(self) -> None:
        """Return at once: no user gives the derivative."""
        return

    def diffusion(self, t: float) -> float:
        """√2, of which half the square multiplies the learned field."""
        return math.sqrt(2.0)

    def stationary_score(self, y: Tensor) -> None:
        """None: a field of 0 generates the mixture."""
        return

    def kernel(self, start: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Refuse: each row has its own component's, see `noised`."""
        raise InputError("kernel: expected a process with one kernel for all rows, found one by components")

    def noised(self, start: Tensor, t: Tensor, uniform: Tensor, z: Tensor) -> dict[str, Tensor]:
        """Y_t = mean + std · noise with mean = μ_K + signal, signal = α (Y_0 - μ_K) and noise = L_K z; see `HiddenComponents`."""
        k = self._components.draw(start, uniform)
        center = self._components.means[k]
        signal = (start - center) * self.levels.log_alpha(t).exp()[:, None]
        noise = self._components.spread(z, k)
        return {"mean": center + signal, "noise": noise, "signal": signal, "t": t, "std": self.levels.std(t)}

    def coordinates(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """See `HiddenComponents`; the same for any prior."""
        shares = self._components.mixture.responsibilities(y)
        return self._components.enter_all(y, shares), shares

    def spread(self, u: Tensor, shares: Tensor) -> Tensor:
        """See `HiddenComponents`."""
        return self._components.spread_all(u, shares)

    def whitened(self, x: Tensor, y: Tensor) -> Tensor:
        """See `HiddenComponents`."""
        return self._components.whiten(x, self._components.mixture.responsibilities(y).argmax(1))

    def variance(self, t: Tensor) -> Tensor:
        """σ(t)², (B,), in a component's coordinates."""
        return self.levels.variance(t)

    def state_std(self, t: Tensor) -> None:
        """None: the states keep the prior's size at all times."""
        return
