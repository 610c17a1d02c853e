"""Interface of a noising process, and the check of what a process has."""

from typing import Any, Literal, Protocol, Self, overload

import torch
from torch import Tensor

from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.processes.components import Components


class Prior(Protocol):
    """Law that generation starts from."""

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws, (n, d), by a generator on the CPU."""
        ...


class Transition(Protocol):
    """Transition law in closed form, the same for every Y_0: Y_t = α(t) Y_0 + σ(t) Z."""

    def log_alpha(self, t: Tensor) -> Tensor:
        """log α(t), (B,)."""
        ...

    def std(self, t: Tensor) -> Tensor:
        """σ(t), (B,)."""
        ...

    def state_std(self, t: Tensor) -> Tensor:
        """sqrt(α² + σ²), (B,): standard deviation of Y_t for data of variance 1."""
        ...


class NoiseScales(Protocol):
    """A process Y_t = Y_0 + σ(t) Z, seen as a range of noise scales."""

    sigma_min: float
    sigma_max: float
    horizon: float

    @property
    def prior(self) -> GaussianMixture:
        """Law at t = T."""
        ...

    def time_of(self, std: float) -> float:
        """t with σ(t) = std."""
        ...

    def noise_scale(self, t: float) -> float:
        """σ(t)."""
        ...


class HiddenComponents(Protocol):
    """Components by one of which each row is noised, unseen by the network."""

    @property
    def prior(self) -> GaussianMixture:
        """Law at t = T."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """The same on another device."""
        ...

    def noised(self, start: Tensor, t: Tensor, uniform: Tensor, z: Tensor) -> dict[str, Tensor]:
        """Records of rows Y_0 at times t, see `ndsm.simulation.ONE_STEP_AND_SIGNAL`; (B, d) or (B,).

        Args:
            uniform: in [0, 1), (B,); draws the component.
            z: standard normal, (B, d).
        """
        ...

    def coordinates(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Σ_k r_k(y) L_k⁻¹ (y - μ_k), in which a network sees the rows, (B, d), and the responsibilities r, (B, K)."""
        ...

    def spread(self, u: Tensor, shares: Tensor) -> Tensor:
        """Σ_k r_k L_k u, which makes a network's output a velocity of rows; (B, d), (B, K) → (B, d)."""
        ...

    def whitened(self, x: Tensor, y: Tensor) -> Tensor:
        """L_k⁻¹ x with the likeliest component k of y, (B, d), (B, d) → (B, d): errors of rows in units of their component."""
        ...


class Process(Protocol):
    """A noising process dY = -f(Y, t) dt + g(t) dW on [0, T].

    What only some processes have is None for the others (`transition`, `levels`, `modes`, `components`, `hidden`,
    `stationary_score`, `state_std`) or left out (`noise_scales`); `require` asks for it.
    """

    horizon: float
    """T."""
    mixture: GaussianMixture | None
    """Stationary or terminal law, if it is a mixture."""

    @property
    def transition(self) -> Transition | None:
        """Transition law in closed form."""
        ...

    @property
    def levels(self) -> Transition | None:
        """α(t) and σ(t), in whatever coordinates a row is noised with them."""
        ...

    @property
    def hidden(self) -> HiddenComponents | None:
        """Components by one of which each row is noised, unseen by the network, see `ndsm.processes.marginal`. What is learned is
        then no score, but what takes its place in the probability flow."""
        ...

    @property
    def modes(self) -> GaussianMixture | None:
        """η* of a process with the drift -∇log η*: inside each of its components the drift is linear."""
        ...

    @property
    def components(self) -> Components | None:
        """Components in whose coordinates the states are, see `ndsm.processes.mixture_ou`; None if they are the rows themselves."""
        ...

    @property
    def prior(self) -> Prior:
        """Law that generation starts from."""
        ...

    @property
    def stable_dt(self) -> float:
        """Step above which Euler-Maruyama diverges."""
        ...

    def to(self, device: torch.device | str) -> Self:
        """The same process on another device; itself where it is there."""
        ...

    def starting_from(self, prior: GaussianMixture) -> Self:
        """The same process with another prior."""
        ...

    def along_axes(self) -> "tuple[Process, Tensor] | None":
        """The process in the coordinates x of y = axes x, where simulating it is cheaper, and axes, (d, d)."""
        ...

    def drift(self, y: Tensor, t: float) -> Tensor:
        """f(y, t), (B, d) → (B, d)."""
        ...

    def drift_columns(self, y: Tensor, t: float) -> Tensor:
        """f(y, t), (d, B) → (d, B)."""
        ...

    def drift_derivative_columns(self, y: Tensor, v: Tensor, t: float) -> Tensor:
        """Df(y, t) v, (d, B), (d, B) → (d, B)."""
        ...

    def check_jacobian_product(self) -> None:
        """Check a derivative of the drift that a user gave.

        Raises:
            InputError: it is not that of the drift.
        """
        ...

    def diffusion(self, t: float) -> float:
        """g(t)."""
        ...

    def stationary_score(self, y: Tensor) -> Tensor | None:
        """Score that Y_t tends to, (B, d) → (B, d), or None if it is not known."""
        ...

    def kernel(self, start: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of Y_t given Y_0, (B, d), (B,) → (B, d), (B,).

        Raises:
            InputError: they are not known.
        """
        ...

    def variance(self, t: Tensor) -> Tensor:
        """V(t), the variance that noising has added, (B,)."""
        ...

    def state_std(self, t: Tensor) -> Tensor | None:
        """Standard deviation of Y_t for data of variance 1, (B,), or None if it hardly changes."""
        ...


NEEDED = {
    "transition": "a process whose transition law is known (vp, subvp, ve, ou or mixture-ou of form component)",
    "levels": "a process of signal and noise levels (vp, subvp, ve, ou or mixture-ou)",
    "score": "a process whose score is learned, not the velocity of its probability flow alone (process.form component)",
    "rows": "a process whose states are the rows themselves (vp, ve, or langevin, as in the preset table-langevin)",
    "modes": "the Langevin process of a mixture",
    "components": "a process with components (mixture-ou of form component)",
    "hidden": "a process with hidden components (mixture-ou of form marginal)",
    "noise_scales": "a process of noise scales (ve)",
}
"""What an error says was expected, by attribute of a process."""


@overload
def require(process: Process, what: Literal["transition"], user: str) -> Transition: ...
@overload
def require(process: Process, what: Literal["modes"], user: str) -> GaussianMixture: ...
@overload
def require(process: Process, what: Literal["levels"], user: str) -> Transition: ...
@overload
def require(process: Process, what: Literal["hidden"], user: str) -> HiddenComponents: ...
@overload
def require(process: Process, what: Literal["rows", "score"], user: str) -> Process: ...
@overload
def require(process: Process, what: Literal["components"], user: str) -> Components: ...
@overload
def require(process: Process, what: Literal["noise_scales"], user: str) -> NoiseScales: ...
def require(process: Process, what: str, user: str) -> Any:
    """The attribute `what` of a process that has it.

    Args:
        user: who needs it; the error begins with this.

    Raises:
        InputError: the process has not got it.
    """
    value = getattr(process, what, None)
    if what == "rows" and process.hidden is not None:
        what = "score"
    if what == "rows":
        value = None if process.components is not None else process
    if what == "score":
        value = None if process.hidden is not None else process
    if value is not None:
        return value
    if what == "modes" and process.mixture is None:
        raise InputError(f"{user}: expected a process with a mixture, found a drift without one")
    raise InputError(f"{user}: expected {NEEDED[what]}, found {type(process).__name__}")
