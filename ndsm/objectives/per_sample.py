"""Inner products of per-sample gradients, without B copies of the gradient in memory.

Two ways to the same numbers. For networks of linear and normalisation layers the inner product of two per-sample
gradients is a sum over layers of products of small Gram matrices (a linear layer's per-sample gradient is
Σ_r δ_r a_rᵀ over the row's evaluations r, so <Σ_r δ_r a_rᵀ, Σ_s δ'_s a_sᵀ> = Σ_rs (δ_r·δ'_s)(a_r·a_s)): two backward
passes over the batch, and no per-sample gradient at all. For any other network they are taken by
`torch.func` in chunks of rows.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap

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
    """The moments of the per-sample gradients of a batch.

    A row's loss depends on θ only through the network's outputs on that row. Their cotangents are had for the
    whole batch by one cheap backward pass that stops at the outputs; what is left is the network's own
    vector-Jacobian product.

    Memory: activations; for networks that `torch.func` has to differentiate row by row, two gradients per row of
    a chunk besides, at most `chunk_bytes`.

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
    (c_base,) = torch.autograd.grad(base.sum(), out, retain_graph=cv is not None)
    c_cv = None if cv is None else torch.autograd.grad(cv.sum(), out)[0]
    inner = _by_layers if _is_layered(model) else _by_chunks
    return inner(model, y, t, c_base, c_cv, rows, chunk_bytes)


def _is_layered(model: nn.Module) -> bool:
    """Whether all weights belong to layers whose per-sample gradients `_by_layers` knows."""
    return all(
        isinstance(m, nn.Linear | nn.LayerNorm) or not list(m.parameters(recurse=False))
        for m in model.modules()
    )


def _by_layers(
    model: nn.Module, y: Tensor, t: Tensor, c_base: Tensor, c_cv: Tensor | None, rows: int, chunk_bytes: int
) -> GradientMoments:
    """The moments by two backward passes that stop at the layers' outputs."""
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
    d_cv = None if c_cv is None else torch.autograd.grad(out, outputs, c_cv)
    group = _grouped(rows)
    totals = torch.zeros(4, rows, dtype=torch.float64, device=y.device)
    mean_mean = 0.0
    for k, (layer, a, _) in enumerate(calls):
        d0 = group(d_base[k])
        dw = torch.zeros_like(d0) if d_cv is None else group(d_cv[k])
        inner = _linear if isinstance(layer, nn.Linear) else _norm
        products, square = inner(layer, group(a), d0, dw)
        totals += products
        mean_mean += square
    return GradientMoments(totals[0], totals[1], totals[2], totals[3], mean_mean)


def _linear(layer: nn.Module, a: Tensor, d0: Tensor, dw: Tensor) -> tuple[Tensor, float]:
    """|g₀|², <g₀, g_W>, |g_W|², <ḡ, g_W> of each row, (4, B), and |ḡ|², for one linear layer.

    Args:
        a: inputs, (B, r, in).
        d0, dw: cotangents of the outputs, (B, r, out).
    """
    r = a.shape[1]
    gram = a @ a.transpose(1, 2) + 1.0  # + 1 for the bias, whose input is the constant 1
    both = torch.cat([d0, dw], 1)
    blocks = (both @ both.transpose(1, 2)).reshape(-1, 2, r, 2, r)
    products = (blocks * gram[:, None, :, None, :]).sum((2, 4))
    weight, bias = torch.einsum("bro,bri->oi", d0, a) / len(a), d0.sum(1).mean(0)
    along = ((dw @ weight) * a).sum((1, 2)) + (dw @ bias).sum(1)
    square = float((weight * weight).sum() + (bias * bias).sum())
    return torch.stack([products[:, 0, 0], products[:, 0, 1], products[:, 1, 1], along]).double(), square


def _norm(layer: nn.Module, a: Tensor, d0: Tensor, dw: Tensor) -> tuple[Tensor, float]:
    """As `_linear`, for a normalisation's gain and bias, whose per-sample gradients are small enough to have."""
    assert isinstance(layer, nn.LayerNorm)
    x = nn.functional.layer_norm(a, layer.normalized_shape, eps=layer.eps)
    g0, gw = (torch.cat([(d * x).sum(1), d.sum(1)], 1).double() for d in (d0, dw))
    mean = g0.mean(0)
    products = torch.stack([(g0 * g0).sum(1), (g0 * gw).sum(1), (gw * gw).sum(1), gw @ mean])
    return products, float(mean @ mean)


def _grouped(rows: int) -> Callable[[Tensor], Tensor]:
    """(r · B, ...), evaluation by evaluation, to (B, r, ...)."""
    return lambda x: x.reshape(len(x) // rows, rows, *x.shape[1:]).transpose(0, 1)


def _by_chunks(
    model: nn.Module, y: Tensor, t: Tensor, c_base: Tensor, c_cv: Tensor | None, rows: int, chunk_bytes: int
) -> GradientMoments:
    """The moments by `torch.func`, two gradients per row of a chunk in memory."""
    parameters = {f"model.{k}": p.detach() for k, p in model.named_parameters() if p.requires_grad}
    group = _grouped(rows)
    part = LearnedPart(model)

    def learned(p: dict[str, Tensor], y: Tensor, t: Tensor) -> Tensor:
        result: Tensor = functional_call(part, p, (y, t))
        return result

    total_pull = vjp(lambda p: learned(p, y, t), parameters)[1]
    mean: dict[str, Tensor] = total_pull(c_base / rows)[0]

    def moments(y: Tensor, t: Tensor, c0: Tensor, cw: Tensor) -> tuple[Tensor, ...]:
        pull = vjp(lambda p: learned(p, y, t), parameters)[1]
        (g0,) = pull(c0)
        if c_cv is None:
            zero = c0.new_zeros(())
            return dot(g0, g0), zero, zero, zero
        (gw,) = pull(cw)
        return dot(g0, g0), dot(g0, gw), dot(gw, gw), dot(mean, gw)

    count = sum(p.numel() for p in parameters.values())
    chunk = max(1, int(chunk_bytes / (8 * count)))
    cotangents = group(c_base), group(c_base if c_cv is None else c_cv)
    parts = vmap(moments, chunk_size=chunk)(group(y), group(t), *cotangents)
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
