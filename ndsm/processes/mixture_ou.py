"""Noising of each row by the linear process of a component of a mixture: a nonlinear diffusion whose laws are closed forms.

The component K of a row is drawn from the responsibilities r(Y_0) of a Gaussian mixture with factors L_k L_kᵀ = Σ_k. Given
K = k the row obeys

    dY = -(Y - μ_k) dt + sqrt(2) L_k dW,    Y_t = μ_k + α(t) (Y_0 - μ_k) + σ(t) L_k Z,    α = exp(-t), σ² = 1 - α²,

and Y_T has the law Σ_k π_k N(μ_k, Σ_k) up to terms of the order of α(T), π_k = E r_k(Y_0). In the component's coordinates
u = L_k⁻¹ (y - μ_k) this is the Ornstein-Uhlenbeck process of N(0, I), whatever the component. At a fixed point of the EM
algorithm the rows of a component have mean 0 and covariance I there, so that all directions of all components lose their signal
at the same time.

Everything that knows the transition of a linear process works in the component's coordinates, with a score s(u, t, k) that
knows the component. Rows are taken there and back by `Components`.
"""

from typing import Self

import torch
from torch import Tensor

from ndsm.mixture import GaussianMixture
from ndsm.processes.base import Process, require
from ndsm.processes.components import Components
from ndsm.processes.linear import OU


class MixtureOU(OU):
    """The process of the module's docstring; its states are u, and its prior is N(0, I).

    Args:
        components: a mixture, or its `Components`.
        horizon: T; α(T) = exp(-T).
    """

    def __init__(self, components: GaussianMixture | Components, horizon: float = 3.0) -> None:
        super().__init__(horizon)
        self._components = components if isinstance(components, Components) else Components(components)
        inner = self._components.mixture
        self.mixture = GaussianMixture(
            torch.ones(1), torch.zeros(1, inner.dimension), torch.ones(1), "spherical",
            device=inner.device, dtype=inner.dtype,
        )  # fmt: skip

    @property
    def components(self) -> Components:
        """Components in whose coordinates the states are."""
        return self._components

    def to(self, device: torch.device | str) -> Self:
        """The same process on another device; itself where it is there."""
        moved = super().to(device)
        if moved is not self:
            moved._components = self._components.to(device)
        return moved


def with_mode_weights(process: Process, weights: Tensor) -> MixtureOU:
    """The process whose generated rows have these shares of the components, (K,).

    Raises:
        InputError: it has no components, or the weights are not such numbers, see `Components.with_weights`.
    """
    components = require(process, "components", "mode weights")
    return MixtureOU(components.with_weights(weights), process.horizon)
