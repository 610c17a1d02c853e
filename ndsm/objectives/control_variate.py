"""The factor ε(t) of the control variate, and how it is chosen (Theorem 3.2, eq. 22).

The loss trained is base + ε(t) W with E W = 0, so that ε changes the variance of the gradient and not its mean.
With g₀ = ∇θ base and g_W = ∇θ W of one row and ḡ = E g₀, eq. 22 is, row by row, quadratic in ε:

    |g₀ + ε g_W - ḡ|² = |g₀ - ḡ|² + 2 ε A + ε² B,        A = <g₀ - ḡ, g_W>,  B = |g_W|²

so that all any choice of ε needs are the two numbers A and B of each row (`gradient_moments`), and the best
constant over a range of times is -E A / E B.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from ndsm.networks.embeddings import TimeEmbedding
from ndsm.networks.mlp import zero_linear
from ndsm.objectives.ndsm import Score

CHUNK_BYTES = 256 * 2**20
"""Memory that per-sample gradients may take at a time."""


@dataclass(frozen=True)
class GradientMoments:
    """Inner products of per-sample gradients, each (B,) float64: with them any ε's variance is known."""

    base_base: Tensor
    """|g₀|²."""
    base_cv: Tensor
    """<g₀, g_W>; zeros without a control variate."""
    cv_cv: Tensor
    """|g_W|²."""
    mean_cv: Tensor
    """<ḡ, g_W>."""
    mean_mean: float
    """|ḡ|², ḡ the batch's mean of g₀."""

    @property
    def linear(self) -> Tensor:
        """A = <g₀ - ḡ, g_W> of each row, (B,)."""
        return self.base_cv - self.mean_cv


def gradient_moments(
    model: nn.Module,
    losses: Callable[[Score], tuple[Tensor, Tensor | None]],
    chunk_bytes: int = CHUNK_BYTES,
) -> GradientMoments:
    """The moments of per-sample gradients of a batch, without B copies of the gradient in memory.

    A row's loss depends on θ only through the network's outputs on that row. Their cotangents are had for the
    whole batch by one cheap backward pass that stops at the outputs; what is left, the network's own
    vector-Jacobian product, is taken row by row in chunks.

    Memory: two gradients per row of a chunk, at most `chunk_bytes`, beside the chunk's activations.
    Cost: about three forward and backward passes of the batch.

    Args:
        model: s(y, t); its method `learned(y, t)` is the part that depends on the weights.
        losses: given a score function that it calls once, on rows in order (several evaluations per row one
            after the other, as `torch.cat` makes them), the base and control-variate losses (B,), weighted.
    """
    seen: list[Tensor] = []

    def score(y: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            out = model(y, t)
        seen.extend([y.detach(), t.detach(), out.requires_grad_()])
        return seen[2]

    base, cv = losses(score)
    y, t, out = seen
    rows = len(base)
    per_row = len(y) // rows
    (c_base,) = torch.autograd.grad(base.sum(), out, retain_graph=cv is not None)
    c_cv = torch.zeros_like(out) if cv is None else torch.autograd.grad(cv.sum(), out)[0]
    parameters = {f"model.{k}": p.detach() for k, p in model.named_parameters() if p.requires_grad}

    def group(x: Tensor) -> Tensor:
        # (per_row · B, ...) in evaluation-major order → (B, per_row, ...)
        return x.reshape(per_row, rows, *x.shape[1:]).transpose(0, 1)

    part = LearnedPart(model)

    def learned(p: dict[str, Tensor], y: Tensor, t: Tensor) -> Tensor:
        result: Tensor = functional_call(part, p, (y, t))
        return result

    total_pull = vjp(lambda p: learned(p, y, t), parameters)[1]
    mean: dict[str, Tensor] = total_pull(c_base / rows)[0]

    def moments(y: Tensor, t: Tensor, c0: Tensor, cw: Tensor) -> tuple[Tensor, ...]:
        pull = vjp(lambda p: learned(p, y, t), parameters)[1]
        (g0,) = pull(c0)
        if cv is None:
            zero = c0.new_zeros(())
            return dot(g0, g0), zero, zero, zero
        (gw,) = pull(cw)
        return dot(g0, g0), dot(g0, gw), dot(gw, gw), dot(mean, gw)

    count = sum(p.numel() for p in parameters.values())
    chunk = max(1, int(chunk_bytes / (8 * count)))
    parts = vmap(moments, chunk_size=chunk)(group(y), group(t), group(c_base), group(c_cv))
    base_base, base_cv, cv_cv, mean_cv = (p.detach().double() for p in parts)
    return GradientMoments(base_base, base_cv, cv_cv, mean_cv, float(dot(mean, mean)))


class LearnedPart(nn.Module):
    """A score model called for its learned part only, which is what `functional_call` can reach."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, y: Tensor, t: Tensor) -> Tensor:
        """`model.learned(y, t)`."""
        out: Tensor = self.model.learned(y, t)  # type: ignore[operator]
        return out


def dot(a: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
    """<a, b> over all parameters."""
    # As matrix products: the elementwise ones would make a temporary of every gradient's size.
    return torch.stack([torch.dot(a[k].flatten(), b[k].flatten()) for k in a]).sum()


class Epsilon(ABC):
    """ε(t), and how it learns from per-sample moments."""

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
        """What `load_state` needs."""
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
        """Nothing to learn."""


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
        """-ΣA/ΣB of each time's bin, (B,); 0 where nothing was seen."""
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
        """The sums."""
        return {"sums": self._sums}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take the sums."""
        self._sums = state["sums"]


class NetworkEpsilon(Epsilon):
    """The paper's ε_φ(t): three hidden layers of 10 with ReLU, trained on eq. 22 (Algorithm 3, line 7).

    Args:
        t_min, t_max: range of times.
        lr: Adam's learning rate γ₂.
        seed: of the initial weights.
    """

    def __init__(self, t_min: float, t_max: float, lr: float = 1e-3, seed: int = 0) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = (1, 10, 10, 10)
            layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())]
            # Starts as ε = 0, which is NDSM.
            self._net = nn.Sequential(*layers, zero_linear(10, 1))
        self._features = TimeEmbedding(t_min, t_max, 0, 1.0, torch.Generator())
        self._optimizer = torch.optim.Adam(self._net.parameters(), lr=lr)

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
        """Take φ and Adam's moments."""
        self._net.load_state_dict(state["net"])
        self._optimizer.load_state_dict(state["optimizer"])
