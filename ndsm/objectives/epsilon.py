"""The factor ε(t) of the control variate, and how it is chosen (Theorem 3.2, eq. 22).

The loss trained is base + ε(t) W with E W = 0, so that ε changes the variance of the gradient and not its mean.
With g₀ = ∇θ base and g_W = ∇θ W of one row and ḡ = E g₀, eq. 22 is, row by row, quadratic in ε:

    |g₀ + ε g_W - ḡ|² = |g₀ - ḡ|² + 2 ε A + ε² B,        A = <g₀ - ḡ, g_W>,  B = |g_W|²

so that all any choice of ε needs are the two numbers A and B of each row (`gradient_moments`), and the best
constant over a range of times is -E A / E B.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ndsm.core.global_state import seeded
from ndsm.core.optimizer import Adam
from ndsm.networks.embeddings import TimeEmbedding
from ndsm.networks.mlp import zero_linear
from ndsm.objectives.base import ControlVariate


class Epsilon(ABC):
    """ε(t), and its update from per-sample moments."""

    learns = True
    """Whether `update` needs to be called."""

    @abstractmethod
    def __call__(self, t: Tensor) -> Tensor:
        """ε at the times, (B,) → (B,); never differentiated through."""

    @abstractmethod
    def update(
        self, t: Tensor, linear: Tensor, quadratic: Tensor, reduce: Callable[[Tensor], Tensor]
    ) -> None:
        """Learn from a batch: its times, A and B, each (B,).

        Args:
            reduce: sums a tensor over all workers; called equally often on each.
        """

    def state(self) -> dict[str, Any]:
        """State for `load_state`."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from `state`."""
        return


class ConstantEpsilon(Epsilon):
    """ε fixed: 0 is NDSM, 1 the loss without cancellation."""

    learns = False

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, t: Tensor) -> Tensor:
        """The value, for every time."""
        return torch.full_like(t, self.value)

    def update(
        self, t: Tensor, linear: Tensor, quadratic: Tensor, reduce: Callable[[Tensor], Tensor]
    ) -> None:
        """Return at once: ε is fixed."""
        return


class PiecewiseLinearEpsilon(Epsilon):
    """ε given at times equally spaced in log t, with straight lines over log t between them.

    Args:
        t_min, t_max: the first and the last of those times; ε is constant beyond.
        values: ε there, (k,), k >= 2.
    """

    learns = False

    def __init__(self, t_min: float, t_max: float, values: tuple[float, ...]) -> None:
        self._low, self._length = math.log(t_min), math.log(t_max / t_min)
        self._values = torch.tensor(values)

    def __call__(self, t: Tensor) -> Tensor:
        """The line's value at each time, (B,)."""
        values, last = self._values.to(t), len(self._values) - 1
        x = ((t.log() - self._low) * (last / self._length)).clamp(0, last)
        left = x.long().clamp(max=last - 1)
        return torch.lerp(values[left], values[left + 1], x - left)

    def update(
        self, t: Tensor, linear: Tensor, quadratic: Tensor, reduce: Callable[[Tensor], Tensor]
    ) -> None:
        """Return at once: ε is fixed."""
        return


class ClosedFormEpsilon(Epsilon):
    """-E A / E B within bins of log t, from running averages; one bin makes it a constant.

    Args:
        t_min, t_max: range of times.
        bins: equal bins of log t.
        memory: weight of the past at each update; the expectations are over the last 1/(1 - memory) updates.
    """

    def __init__(self, t_min: float, t_max: float, bins: int = 20, memory: float = 0.9) -> None:
        edges = torch.linspace(0, 1, bins + 1)[1:-1]
        self._edges = (torch.tensor(t_min).log() * (1 - edges) + torch.tensor(t_max).log() * edges).exp()
        self._memory = memory
        self._sums = torch.zeros(2, bins, dtype=torch.float64)

    def __call__(self, t: Tensor) -> Tensor:
        """-ΣA/ΣB of each time's bin, (B,); 0 in an empty bin."""
        linear, quadratic = self._sums
        values = torch.where(quadratic > 0, -linear / quadratic.clamp(min=1e-300), 0.0)
        return values.to(t)[self._bin(t)]

    def update(
        self, t: Tensor, linear: Tensor, quadratic: Tensor, reduce: Callable[[Tensor], Tensor]
    ) -> None:
        """Fold a batch into the running averages."""
        bins, new = self._bin(t), torch.zeros_like(self._sums).to(linear.device)
        new[0].index_add_(0, bins, linear.double())
        new[1].index_add_(0, bins, quadratic.double())
        self._sums = self._memory * self._sums + reduce(new).cpu()

    def _bin(self, t: Tensor) -> Tensor:
        return torch.bucketize(t.contiguous(), self._edges.to(t))

    def state(self) -> dict[str, Any]:
        """The running sums."""
        return {"sums": self._sums}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore the running sums."""
        self._sums = state["sums"]


class NetworkEpsilon(Epsilon):
    """The paper's ε_φ(t): three hidden layers of 10 with ReLU, trained on eq. 22 (Algorithm 3, line 7).

    Args:
        t_min, t_max: range of times.
        lr: Adam's learning rate γ₂.
        seed: of the initial weights.
    """

    def __init__(self, t_min: float, t_max: float, lr: float = 1e-3, seed: int = 0) -> None:
        with seeded(seed):
            sizes = (1, 10, 10, 10)
            layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
            # Starts as ε = 0, which is NDSM.
            self._net = nn.Sequential(*layers, zero_linear(10, 1))
        self._features = TimeEmbedding(t_min, t_max, 0, 1.0, torch.Generator())
        self._optimizer = Adam(self._net.parameters(), lr=lr)

    @torch.no_grad()
    def __call__(self, t: Tensor) -> Tensor:
        """ε_φ(t), (B,)."""
        return self._forward(t.cpu()).to(t)

    def _forward(self, t: Tensor) -> Tensor:
        out: Tensor = self._net(self._features(t.float()))[:, 0]
        return out

    def update(
        self, t: Tensor, linear: Tensor, quadratic: Tensor, reduce: Callable[[Tensor], Tensor]
    ) -> None:
        """One Adam step on the mean of 2 ε A + ε² B, the part of eq. 22 that depends on φ."""
        epsilon = self._forward(t.cpu())
        a, b = linear.cpu().float(), quadratic.cpu().float()
        # Divided by E B over all workers: the size of the loss would otherwise set Adam's first steps, and
        # the workers' gradients add up to the whole batch's.
        scale = float(reduce(quadratic.double().sum()))
        loss = (2 * epsilon * a + epsilon**2 * b).sum() / max(scale, 1e-30)
        self._optimizer.zero_grad()
        loss.backward()
        for p in self._net.parameters():
            if p.grad is not None:
                p.grad.copy_(reduce(p.grad.to(linear.device)))
        self._optimizer.step()

    def state(self) -> dict[str, Any]:
        """φ and Adam's moments."""
        return {"net": self._net.state_dict(), "optimizer": self._optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore φ and Adam's moments."""
        self._net.load_state_dict(state["net"])
        rates = [group["lr"] for group in self._optimizer.param_groups]
        self._optimizer.load_state_dict(state["optimizer"])
        # The learning rate is the configuration's, not the one that the state was saved with.
        for group, rate in zip(self._optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


def make_epsilon(
    control_variate: ControlVariate,
    t_min: float,
    t_max: float,
    *,
    bins: int = 20,
    lr: float = 1e-3,
    seed: int = 0,
) -> Epsilon:
    """The ε(t) that an objective's `control_variate` names, before it has learned anything.

    Args:
        control_variate: as the objective's.
        t_min, t_max: range of times.
        bins: of the closed form.
        lr, seed: of the network.
    """
    match control_variate:
        case "closed-form":
            return ClosedFormEpsilon(t_min, t_max, bins)
        case "learned":
            return NetworkEpsilon(t_min, t_max, lr, seed)
        case tuple():
            return PiecewiseLinearEpsilon(t_min, t_max, control_variate)
    return ConstantEpsilon(float(control_variate))
