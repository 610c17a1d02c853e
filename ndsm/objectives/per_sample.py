"""Inner products of per-sample gradients, without B copies of the gradient in memory.

Two ways to the same numbers. For networks of linear and normalisation layers the inner product of two per-sample
gradients is a sum over layers of products of small Gram matrices (a linear layer's per-sample gradient is
Σ_r δ_r a_rᵀ over the row's evaluations r, so <Σ_r δ_r a_rᵀ, Σ_s δ'_s a_sᵀ> = Σ_rs (δ_r·δ'_s)(a_r·a_s)): two backward
passes over the batch, and no per-sample gradient at all. For any other network they are taken by
`torch.func` in chunks of rows.

The batch may come in parts (micro-batches), and the parts on several workers: all that a part needs of the others is
the mean gradient ḡ.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

from ndsm.objectives.ndsm import Score

RowLosses = Callable[[Score], tuple[Tensor, Tensor | None]]
"""Given a score function that it calls once, on rows in order (several evaluations per row one after the other, as
`torch.cat` makes them): the base and control-variate losses of those rows, (B,), weighted."""

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
    """<ḡ, g_W>; ḡ is the mean of g₀ over all rows of all workers."""
    mean_mean: float
    """|ḡ|²."""

    @property
    def linear(self) -> Tensor:
        """A = <g₀ - ḡ, g_W> of each row, (B,)."""
        return self.base_cv - self.mean_cv


class PulledBack(Protocol):
    """The losses of some rows pulled back through the network, as far as the rows' own products need it."""

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

    Memory: activations of one part; for networks that `torch.func` has to differentiate row by row, two gradients
    per row of a chunk besides, at most `chunk_bytes`. Time: two backward passes over each part, and again over
    all parts but one, whose activations could not be kept until ḡ was known.

    Args:
        model: s(y, t); its method `learned(y, t)` is the part that depends on the weights.
        parts: the losses of the batch's rows, part by part.
        reduce: sums a tensor over all workers; called once.
    """
    sums: list[Tensor] | None = None
    rows = 0
    for part in parts:
        # Free the part before, so that never two are held.
        pulled = None
        pulled, count = _pull_back(model, part, chunk_bytes)
        total, rows = pulled.total(), rows + count
        sums = total if sums is None else [a + b for a, b in zip(sums, total, strict=True)]
    assert sums is not None
    assert pulled is not None
    flat = reduce(torch.cat([*(x.flatten() for x in sums), sums[0].new_tensor([rows])]))
    flat = flat[:-1] / flat[-1]
    mean = [m.view_as(x) for m, x in zip(flat.split([x.numel() for x in sums]), sums, strict=True)]
    found = [pulled.products(mean)]
    for part in reversed(parts[:-1]):
        pulled = None
        pulled, _ = _pull_back(model, part, chunk_bytes)
        found.append(pulled.products(mean))
    products = torch.cat(found[::-1], 1)
    return GradientMoments(products[0], products[1], products[2], products[3], float(flat @ flat))


def _pull_back(model: nn.Module, losses: RowLosses, chunk_bytes: int) -> tuple[PulledBack, int]:
    """The losses of one part pulled back to the network's outputs and through it, and its number of rows."""
    seen: list[Tensor] = []

    def score(y: Tensor, t: Tensor) -> Tensor:
        with torch.no_grad():
            out = model(y, t)
        seen.extend([y.detach(), t.detach(), out.requires_grad_()])
        return seen[2]

    base, cv = losses(score)
    y, t, out = seen
    rows = len(base)
    (c_base,) = torch.autograd.grad(base.sum(), out, retain_graph=cv is not None)
    c_cv = None if cv is None else torch.autograd.grad(cv.sum(), out)[0]
    if _is_layered(model):
        return ByLayers(model, y, t, c_base, c_cv, rows), rows
    return ByChunks(model, y, t, c_base, c_cv, rows, chunk_bytes), rows


def _is_layered(model: nn.Module) -> bool:
    """Whether all weights belong to layers whose per-sample gradients `ByLayers` knows."""
    return all(
        (isinstance(m, nn.Linear | nn.LayerNorm) and m.bias is not None)
        or not list(m.parameters(recurse=False))
        for m in model.modules()
    )


class ByLayers:
    """Two backward passes that stop at the layers' outputs.

    Args:
        model: of linear and normalisation layers only.
        y, t: what it was called on, evaluation by evaluation of the rows, (r · B, d) and (r · B,).
        c_base, c_cv: cotangents of the outputs, (r · B, d).
        rows: B.
    """

    def __init__(
        self, model: nn.Module, y: Tensor, t: Tensor, c_base: Tensor, c_cv: Tensor | None, rows: int
    ) -> None:
        calls: list[tuple[nn.Module, Tensor, Tensor]] = []
        layers = [m for m in model.modules() if list(m.parameters(recurse=False))]
        hooks = [
            m.register_forward_hook(lambda m, inputs, output: calls.append((m, inputs[0].detach(), output)))
            for m in layers
        ]
        try:
            with torch.enable_grad():
                out: Tensor = model.learned(y, t)  # type: ignore[operator]
        finally:
            for hook in hooks:
                hook.remove()
        outputs = [output for _, _, output in calls]
        d_base = torch.autograd.grad(out, outputs, c_base, retain_graph=c_cv is not None)
        d_cv = (
            [torch.zeros_like(d) for d in d_base] if c_cv is None else torch.autograd.grad(out, outputs, c_cv)
        )
        group = _grouped(rows)
        self._layers = [
            _layer(layer, group(a), group(d0), group(dw))
            for (layer, a, _), d0, dw in zip(calls, d_base, d_cv, strict=True)
        ]

    def total(self) -> list[Tensor]:
        """Two tensors for each layer: weight (or gain) and bias."""
        return [x for layer in self._layers for x in layer.total()]

    def products(self, mean: list[Tensor]) -> Tensor:
        """Sums over the layers."""
        pairs = zip(mean[::2], mean[1::2], strict=True)
        return torch.stack([x.products(*m) for x, m in zip(self._layers, pairs, strict=True)]).sum(0)


def _layer(layer: nn.Module, a: Tensor, d0: Tensor, dw: Tensor) -> "LinearShare | NormShare":
    """What one call of a layer contributes.

    Args:
        layer: with weight (or gain) and bias.
        a: inputs, (B, r, in).
        d0, dw: cotangents of the outputs, (B, r, out).
    """
    if isinstance(layer, nn.LayerNorm):
        # What gain and bias are applied to.
        return NormShare(nn.functional.layer_norm(a, layer.normalized_shape, eps=layer.eps), d0, dw)
    return LinearShare(a, d0, dw)


class LinearShare:
    """A linear layer's contribution; arguments as for `_layer`."""

    def __init__(self, a: Tensor, d0: Tensor, dw: Tensor) -> None:
        self._a, self._d0, self._dw = a, d0, dw

    def total(self) -> tuple[Tensor, Tensor]:
        """Σ g₀: weight (out, in) and bias (out,)."""
        return torch.einsum("bro,bri->oi", self._d0, self._a), self._d0.sum((0, 1))

    def products(self, weight: Tensor, bias: Tensor) -> Tensor:
        """As `PulledBack.products`."""
        r = self._a.shape[1]
        gram = self._a @ self._a.transpose(1, 2) + 1.0  # + 1 for the bias, whose input is the constant 1
        both = torch.cat([self._d0, self._dw], 1)
        blocks = (both @ both.transpose(1, 2)).reshape(-1, 2, r, 2, r)
        inner = (blocks * gram[:, None, :, None, :]).sum((2, 4))
        along = ((self._dw @ weight) * self._a).sum((1, 2)) + (self._dw @ bias).sum(1)
        return torch.stack([inner[:, 0, 0], inner[:, 0, 1], inner[:, 1, 1], along]).double()


class NormShare:
    """A normalisation's contribution; the per-sample gradients of gain and bias are small enough to have.

    Args:
        x: normalised inputs, (B, r, out).
        d0, dw: cotangents of the outputs, (B, r, out).
    """

    def __init__(self, x: Tensor, d0: Tensor, dw: Tensor) -> None:
        self._g0, self._gw = (torch.stack([(d * x).sum(1), d.sum(1)], 1) for d in (d0, dw))

    def total(self) -> tuple[Tensor, Tensor]:
        """Σ g₀: gain and bias, (out,) each."""
        gain, bias = self._g0.sum(0)
        return gain, bias

    def products(self, gain: Tensor, bias: Tensor) -> Tensor:
        """As `PulledBack.products`."""
        g0, gw, mean = self._g0.double(), self._gw.double(), torch.stack([gain, bias]).double()
        return torch.stack([(x * y).sum((1, 2)) for x, y in ((g0, g0), (g0, gw), (gw, gw), (mean, gw))])


def _grouped(rows: int) -> Callable[[Tensor], Tensor]:
    """(r · B, ...), evaluation by evaluation, to (B, r, ...)."""
    return lambda x: x.reshape(len(x) // rows, rows, *x.shape[1:]).transpose(0, 1)


class ByChunks:
    """By `torch.func`, two gradients per row of a chunk in memory; arguments as for `ByLayers`."""

    def __init__(
        self,
        model: nn.Module,
        y: Tensor,
        t: Tensor,
        c_base: Tensor,
        c_cv: Tensor | None,
        rows: int,
        chunk_bytes: int,
    ) -> None:
        self._parameters = {f"model.{k}": p.detach() for k, p in model.named_parameters() if p.requires_grad}
        self._part = LearnedPart(model)
        self._all = y, t, c_base
        group = _grouped(rows)
        self._rows = group(y), group(t), group(c_base), group(c_base if c_cv is None else c_cv)
        self._has_cv, self._chunk_bytes = c_cv is not None, chunk_bytes

    def _learned(self, p: dict[str, Tensor], y: Tensor, t: Tensor) -> Tensor:
        result: Tensor = functional_call(self._part, p, (y, t))
        return result

    def total(self) -> list[Tensor]:
        """One tensor for each parameter."""
        y, t, c_base = self._all
        pull = vjp(lambda p: self._learned(p, y, t), self._parameters)[1]
        return list(pull(c_base)[0].values())

    def products(self, mean: list[Tensor]) -> Tensor:
        """A chunk of rows at a time."""
        named = dict(zip(self._parameters, mean, strict=True))

        def moments(y: Tensor, t: Tensor, c0: Tensor, cw: Tensor) -> tuple[Tensor, ...]:
            pull = vjp(lambda p: self._learned(p, y, t), self._parameters)[1]
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

    def forward(self, y: Tensor, t: Tensor) -> Tensor:
        """`model.learned(y, t)`."""
        out: Tensor = self.model.learned(y, t)  # type: ignore[operator]
        return out


def dot(a: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
    """<a, b> over all parameters."""
    # As matrix products: the elementwise ones would make a temporary of every gradient's size.
    return torch.stack([torch.dot(a[k].flatten(), b[k].flatten()) for k in a]).sum()
