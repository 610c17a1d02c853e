"""Finite groups of symmetries: functions g on rows, (B, d) → (B, d), each linear and an isometry."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ndsm.core.rng import numpy_stream
from ndsm.errors import InputError

Symmetry = Callable[[Tensor], Tensor]
"""g(x), (B, d) → (B, d)."""


def identity(x: Tensor) -> Tensor:
    """x."""
    return x


def half_turn(x: Tensor) -> Tensor:
    """Images turned by 180°: the row of pixels (B, d) in reverse."""
    return x.flip(1)


GROUPS: dict[str, tuple[Symmetry, ...]] = {"none": (identity,), "c2": (identity, half_turn)}
"""By the name in `data.symmetry`."""


def inverses(group: Sequence[Symmetry], dimension: int) -> list[Symmetry]:
    """The inverse of each function among them, known by what they do to a few random rows of `dimension` columns.

    A finite set of one-to-one maps that holds all its products holds the identity and all inverses too.

    Raises:
        InputError: the functions are no group of isometries.
    """
    # Uses NumPy's generator: PyTorch's may not be drawn from inside `vmap`.
    x = torch.from_numpy(numpy_stream(0, "group").normal(size=(4, dimension)))
    images, inverse_of = [g(x) for g in group], {}
    for i, gx in enumerate(images):
        if gx.shape != x.shape or not torch.allclose(torch.cdist(gx, gx), torch.cdist(x, x)):
            raise InputError(
                f"group: expected functions on rows that keep distances, found that number {i} does not"
            )
        for j, h in enumerate(group):
            product = h(gx)
            if torch.allclose(product, x):
                inverse_of[i] = h
            if not any(torch.allclose(product, y) for y in images):
                raise InputError(
                    f"group: expected the product of any two of the functions among them, found that number {j} after "
                    f"number {i} is not"
                )
    return [inverse_of[i] for i in range(len(group))]


def mean_image(group: Sequence[Symmetry], x: Tensor) -> Tensor:
    """Mean of g(x) over the group, (B, d) → (B, d): the rows' nearest ones that no g moves."""
    return torch.stack([g(x) for g in group]).mean(0)
