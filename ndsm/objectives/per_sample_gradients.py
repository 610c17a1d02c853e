"""Inner products of per-sample gradients, without B copies of the gradient in memory.

Two ways to the same numbers: layer by layer where all weights belong to linear layers, convolutions and normalisations
(`layerwise_gradients`), and for any other network by `torch.func` in chunks of rows.

The batch may come in parts (micro-batches), and the parts on several workers: all that a part needs of the others is
the mean gradient ḡ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from ndsm.core.types import Score
from ndsm.objectives.layerwise_gradients import ByLayers, Call, by_row, is_layered, recorded_calls

RowLosses = Callable[[Score], tuple[Tensor, Tensor | None]]
"""Given a score function that it calls once, on rows in order (several evaluations per row one after the other, as
`torch.cat` makes them): the base and control-variate losses of those rows, (B,), weighted."""

CHUNK_BYTES = 64 * 2**20
"""Memory of the per-sample gradients of a chunk; more is no faster, because it exceeds the processor's caches."""


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
    """<ḡ, g_W>; ḡ is the mean of g₀ over all rows of all workers."""
    mean_mean: float
    """|ḡ|²."""

    @property
    def linear(self) -> Tensor:
        """A = <g₀ - ḡ, g_W> of each row, (B,)."""
        return self.base_cv - self.mean_cv

    def variance(self, epsilon: Tensor) -> float:
        """E |g₀ + ε g_W - ḡ|² for ε of each row, (B,): eq. 22."""
        e = epsilon.double()
        return float((self.base_base + 2 * e * self.linear + e * e * self.cv_cv).mean()) - self.mean_mean


class PulledBack(Protocol):
    """Vector-Jacobian products of the losses of some rows, from which moments follow."""

    def total(self) -> list[Tensor]:
        """Σ g₀ over the rows, in one tensor or more."""
        ...

    def products(self, mean: list[Tensor]) -> Tensor:
        """|g₀|², <g₀, g_W>, |g_W|², <ḡ, g_W> of each row, (4, B) float64, for a ḡ shaped as `total()`."""
        ...


def gradient_moments(
    model: nn.Module,
    parts: Sequence[RowLosses],
    reduce: Callable[[Tensor], Tensor] = lambda x: x,
    chunk_bytes: int = CHUNK_BYTES,
) -> GradientMoments:
    """The moments of the per-sample gradients of a batch.

    A row's loss depends on θ only through the network's outputs on that row. Their cotangents are had for a
    whole part by one cheap backward pass that stops at the outputs; what is left is the network's own
    vector-Jacobian product.

    Memory: activations of one part and, layer by layer, the cotangents of the layers' outputs; besides, for what is
    held of a chunk of rows (of one layer at a time, or by `torch.func` two whole gradients per row), about
    `chunk_bytes`. Time: for networks taken layer by layer about two and a half training steps on the same rows; two
    backward passes over each part, and again over all parts but one, whose activations could not be kept until ḡ
    was known.

    Args:
        model: s(y, t); its method `learned(y, t)` is the part that depends on the weights.
        parts: the losses of the batch's rows, part by part.
        reduce: sums a tensor over all workers; called once.
    """
    sums: list[Tensor] | None = None
    rows = 0
    for part in parts:
        # Free the part before, so that two are never in memory at once.
        pulled = None
        pulled, count = _pull_back(model, part, chunk_bytes)
        total, rows = pulled.total(), rows + count
        sums = total if sums is None else [a + b for a, b in zip(sums, total, strict=True)]
    assert sums is not None
    assert pulled is not None
    flat = reduce(torch.cat([*(x.flatten() for x in sums), sums[0].new_tensor([rows])]))
    flat = flat[:-1] / flat[-1]
    mean = [m.view_as(x) for m, x in zip(flat.split([x.numel() for x in sums]), sums, strict=True)]
    products_of = [pulled.products(mean)]
    for part in reversed(parts[:-1]):
        pulled = None
        pulled, _ = _pull_back(model, part, chunk_bytes)
        products_of.append(pulled.products(mean))
    products = torch.cat(products_of[::-1], 1)
    return GradientMoments(products[0], products[1], products[2], products[3], float(flat @ flat))


def _pull_back(model: nn.Module, losses: RowLosses, chunk_bytes: int) -> tuple[PulledBack, int]:
    """The losses of one part pulled back to the network's outputs and through it, and its number of rows."""
    layered = is_layered(model)
    calls: list[Call] = []
    evaluation: list[Any] = []

    def score(y: Tensor, t: Tensor, label: Tensor | None = None, component: Tensor | None = None) -> Tensor:
        given = {"label": label, "component": component}
        known = {name: x for name, x in given.items() if x is not None}
        with torch.set_grad_enabled(layered), recorded_calls(model, calls):
            out = model(y, t, **known)
        leaf = out.detach().requires_grad_()
        evaluation.extend([{"y": y.detach(), "t": t.detach(), **known}, out, leaf])
        return leaf

    base, cv = losses(score)
    inputs, out, leaf = evaluation
    rows = len(base)
    (c_base,) = torch.autograd.grad(base.sum(), leaf, retain_graph=cv is not None)
    c_cv = None if cv is None else torch.autograd.grad(cv.sum(), leaf)[0]
    if layered:
        return ByLayers(calls, out, c_base, c_cv, rows, chunk_bytes), rows
    return ByChunks(model, inputs, c_base, c_cv, rows, chunk_bytes), rows


class ByChunks:
    """Products by `torch.func`, with two gradients per row of a chunk in memory; arguments as for `ByLayers`.

    Args:
        inputs: arguments of `model.learned` by name for the evaluations, (r · B, ...): y, t and what else the model knows.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        c_base: Tensor,
        c_cv: Tensor | None,
        rows: int,
        chunk_bytes: int,
    ) -> None:
        self._parameters = {f"model.{k}": p.detach() for k, p in model.named_parameters() if p.requires_grad}
        self._part = LearnedPart(model)
        self._names, self._inputs, self._c_base = list(inputs), list(inputs.values()), c_base
        group = by_row(rows)
        self._rows = [group(c_base), group(c_base if c_cv is None else c_cv), *map(group, self._inputs)]
        self._has_cv, self._chunk_bytes = c_cv is not None, chunk_bytes

    def _learned(self, p: dict[str, Tensor], *inputs: Tensor) -> Tensor:
        result: Tensor = functional_call(self._part, p, kwargs=dict(zip(self._names, inputs, strict=True)))
        return result

    def total(self) -> list[Tensor]:
        """One tensor for each parameter."""
        pull = vjp(lambda p: self._learned(p, *self._inputs), self._parameters)[1]
        return list(pull(self._c_base)[0].values())

    def products(self, mean: list[Tensor]) -> Tensor:
        """A chunk of rows at a time."""
        named = dict(zip(self._parameters, mean, strict=True))

        def moments(c0: Tensor, cw: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
            pull = vjp(lambda p: self._learned(p, *inputs), self._parameters)[1]
            (g0,) = pull(c0)
            if not self._has_cv:
                zero = c0.new_zeros(())
                return dot(g0, g0), zero, zero, zero
            (gw,) = pull(cw)
            return dot(g0, g0), dot(g0, gw), dot(gw, gw), dot(named, gw)

        count = sum(p.numel() for p in self._parameters.values())
        chunk = max(1, int(self._chunk_bytes / (8 * count)))
        return torch.stack(vmap(moments, chunk_size=chunk)(*self._rows)).detach().double()


class LearnedPart(nn.Module):
    """A score model called for its learned part only, which is what `functional_call` can reach."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Tensor:
        """`model.learned(y, t)`, with what else the model knows."""
        out: Tensor = self.model.learned(**inputs)  # type: ignore[operator]
        return out


def dot(a: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
    """<a, b> over all parameters."""
    # As matrix products: the elementwise ones would make a temporary of every gradient's size.
    return torch.stack([torch.dot(a[k].flatten(), b[k].flatten()) for k in a]).sum()
