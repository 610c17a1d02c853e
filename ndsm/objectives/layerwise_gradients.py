"""Inner products of per-sample gradients layer by layer: linear layers, convolutions and normalisations.

Two backward passes over the batch give the cotangents δ of every layer's outputs, and a row's gradient of a layer's
weight is Σ_r δ_r a_rᵀ over the row's evaluations (and, in a convolution, the places of the image), a_r the layer's inputs
there. One layer after the other, whichever takes fewer multiplications: the inner products are sums of products of small
Gram matrices, <Σ_r δ_r a_rᵀ, Σ_s δ'_s a_sᵀ> = Σ_rs (δ_r·δ'_s)(a_r·a_s), and no per-sample gradient is formed at all, or
that layer's gradients are formed for a chunk of rows.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Call:
    """A layer with weights, as it was called."""

    layer: nn.Module
    input: Tensor
    output: Tensor


@contextmanager
def recorded_calls(model: nn.Module, calls: list[Call]) -> Iterator[None]:
    """Append every call of a layer with weights to `calls`, in order."""
    hooks = [
        m.register_forward_hook(lambda m, inputs, output: calls.append(Call(m, inputs[0].detach(), output)))
        for m in model.modules()
        if list(m.parameters(recurse=False))
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def is_layered(model: nn.Module) -> bool:
    """Whether all weights belong to layers whose per-sample gradients `ByLayers` knows."""
    return all(_is_known(m) for m in model.modules() if list(m.parameters(recurse=False)))


def _is_known(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        plain = layer.groups == 1 and set(layer.dilation) == {1} and layer.padding_mode == "zeros"
        return plain and not isinstance(layer.padding, str)
    if isinstance(layer, nn.LayerNorm | nn.GroupNorm):
        features = len(layer.normalized_shape) if isinstance(layer, nn.LayerNorm) else 1
        return features == 1 and layer.bias is not None
    return isinstance(layer, nn.Linear)


class ByLayers:
    """Two backward passes that stop at the layers' outputs, the first also giving Σ g₀.

    Args:
        calls: of the layers with weights, all of them known to `_is_known`.
        out: what the model returned, evaluation by evaluation of the rows, (r · B, d).
        c_base, c_cv: cotangents of that, (r · B, d).
        rows: B.
        chunk_bytes: memory for a chunk of rows.
    """

    def __init__(
        self,
        calls: list[Call],
        out: Tensor,
        c_base: Tensor,
        c_cv: Tensor | None,
        rows: int,
        chunk_bytes: int,
    ) -> None:
        outputs = [call.output for call in calls]
        weights: list[Tensor] = [p for call in calls for p in call.layer.parameters()]
        gradients = torch.autograd.grad(out, outputs + weights, c_base, retain_graph=c_cv is not None)
        d_base, self._total = gradients[: len(outputs)], list(gradients[len(outputs) :])
        d_cv = [None] * len(outputs) if c_cv is None else torch.autograd.grad(out, outputs, c_cv)
        self._calls = [(c.layer, c.input, d0, dw) for c, d0, dw in zip(calls, d_base, d_cv, strict=True)]
        self._rows, self._chunk_bytes = rows, chunk_bytes

    def total(self) -> list[Tensor]:
        """One tensor for each parameter, layer by layer."""
        return self._total

    def products(self, mean: list[Tensor]) -> Tensor:
        """Sums over the layers, a chunk of rows at a time."""
        totals = torch.zeros(4, self._rows, dtype=torch.float64, device=mean[0].device)
        means, group = iter(mean), by_row(self._rows)
        for layer, *tensors in self._calls:
            g = [next(means) for _ in layer.parameters()]
            a, d0, dw = (None if x is None else group(_channels_last(layer, x)) for x in tensors)
            assert a is not None
            assert d0 is not None
            products = _norm if isinstance(layer, nn.LayerNorm | nn.GroupNorm) else _linear
            chunk = max(1, self._chunk_bytes // _row_bytes(layer, a, d0))
            for begin in range(0, self._rows, chunk):
                part = slice(begin, begin + chunk)
                of_cv = torch.zeros_like(d0[part]) if dw is None else dw[part]
                totals[:, part] += products(layer, a[part], torch.stack([d0[part], of_cv], 1), g)
        return totals


def _row_bytes(layer: nn.Module, a: Tensor, d: Tensor) -> int:
    """Upper bound of the memory for the moments of one row's gradients of a layer, in bytes."""
    window = math.prod(layer.kernel_size) if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d) else 1
    weights = sum(p.numel() for p in layer.parameters())
    return a.element_size() * (window * (a[0].numel() + 2 * d[0].numel()) + 2 * weights)


def _channels_last(layer: nn.Module, x: Tensor) -> Tensor:
    """A layer's input or output with its features in the last dimension."""
    return x.movedim(1, -1) if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.GroupNorm) else x


def _linear(layer: nn.Module, a: Tensor, d: Tensor, mean: list[Tensor]) -> Tensor:
    """|g₀|², <g₀, g_W>, |g_W|², <ḡ, g_W> of each row, (4, B), for a layer linear in its input.

    Args:
        a: inputs, (B, evaluations, places ..., in).
        d: cotangents of the outputs, of the base and of W, (B, 2, evaluations, places ..., out).
        mean: ḡ, for the layer's weight and its bias, if there is one.
    """
    weight, *bias = mean
    of_bias = [_dots(d.flatten(2, -2).sum(2), b) for b in bias]
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        a, d, weight = _as_products(layer, a, d, weight)
    a, d = a.flatten(1, -2), d.flatten(2, -2)
    (r, inputs), outputs = a.shape[1:], d.shape[3]
    # Compare the multiplications of either way, without those that both need.
    if r * (inputs + 4 * outputs) < inputs * outputs:
        gram, both = a @ a.transpose(1, 2), d.flatten(1, 2)
        blocks = (both @ both.transpose(1, 2)).reshape(-1, 2, r, 2, r)
        along = ((d[:, 1] @ weight) * a).sum((1, 2))
        of_weight = _moments((blocks * gram[:, None, :, None, :]).sum((2, 4)), along)
    else:
        # Both gradients by one product, which uses the processor better than two small ones.
        g = torch.bmm(d.transpose(2, 3).flatten(1, 2), a)
        of_weight = _dots(g.reshape(-1, 2, outputs * inputs), weight.flatten())
    return sum(of_bias, of_weight)


def _as_products(
    layer: nn.Conv2d | nn.ConvTranspose2d, a: Tensor, d: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (..., i), cotangents (..., o) and weight (o, i) of the linear layer that a convolution is.

    One side is what the kernel meets at each place of the other. Which one is free to choose where the stride is 1,
    and then the one with fewer channels makes the smaller matrices.
    """
    kernel, stride, padding = layer.kernel_size, layer.stride, layer.padding
    assert not isinstance(padding, str)
    if isinstance(layer, nn.ConvTranspose2d):
        return a, _windows(d, kernel, stride, padding), weight.permute(2, 3, 1, 0).flatten(0, 2)
    if set(stride) == {1} and layer.out_channels < layer.in_channels:
        # A transposed convolution by the kernel turned around.
        rest = [k - 1 - p for k, p in zip(kernel, padding, strict=True)]
        turned = weight.flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)
        return a, _windows(d, kernel, stride, rest), turned
    return _windows(a, kernel, stride, padding), d, weight.permute(0, 2, 3, 1).flatten(1)


def _windows(x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """The windows that a kernel covers, (..., height, width, channels) → (..., height', width', k · k · channels)."""
    padded = nn.functional.pad(x, (0, 0, padding[1], padding[1], padding[0], padding[0]))
    met = padded.unfold(-3, kernel[0], stride[0]).unfold(-3, kernel[1], stride[1])
    return met.movedim(-3, -1).flatten(-3)


def _norm(layer: nn.Module, a: Tensor, d: Tensor, mean: list[Tensor]) -> Tensor:
    """As `_linear`, for a normalisation's gain and bias, whose per-sample gradients are small enough to have."""
    if isinstance(layer, nn.GroupNorm):
        images = a.flatten(0, 1).movedim(-1, 1)
        x = nn.functional.group_norm(images, layer.num_groups, eps=layer.eps).movedim(1, -1)
    else:
        assert isinstance(layer, nn.LayerNorm)
        x = nn.functional.layer_norm(a, layer.normalized_shape, eps=layer.eps)
    x, d = x.reshape(len(a), 1, -1, a.shape[-1]), d.flatten(2, -2)
    return _dots(torch.cat([(d * x).sum(2), d.sum(2)], 2), torch.cat(mean))


def _dots(g: Tensor, mean: Tensor) -> Tensor:
    """|g₀|², <g₀, g_W>, |g_W|², <ḡ, g_W> of per-sample gradients (B, 2, P) and their mean (P,), as (4, B)."""
    return _moments(g @ g.transpose(1, 2), g[:, 1] @ mean)


def _moments(products: Tensor, along: Tensor) -> Tensor:
    """(B, 2, 2) and (B,) → (4, B) float64."""
    return torch.stack([products[:, 0, 0], products[:, 0, 1], products[:, 1, 1], along]).double()


def by_row(rows: int) -> Callable[[Tensor], Tensor]:
    """(r · B, ...), evaluation by evaluation, to (B, r, ...)."""
    return lambda x: x.reshape(len(x) // rows, rows, *x.shape[1:]).transpose(0, 1)
