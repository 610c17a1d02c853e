"""Exact symmetry of a score under a finite group.

A law that no g of the group changes, p(g x) = p(x), has a score with s(x) = g⁻¹ s(g x). The mean of the right side
over the group has that property whatever s is, and is the score nearest to s that has it (Cohen and Welling 2016).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ndsm.core.symmetry import Symmetry, inverses


class Equivariant(nn.Module):
    """(1/|G|) Σ_g g⁻¹ s(g x, t) for a score s, at |G| evaluations in one call.

    Args:
        score: s(y, t), or s(y, t, label) of a model with labels: a module or any function.
        group: functions on rows (B, d), linear isometries that include all their products.

    Raises:
        InputError: the functions are no such group; found at the first call, when d is known.
    """

    def __init__(self, score: Any, group: Sequence[Symmetry]) -> None:
        super().__init__()
        self.score, self._group, self._dimension = score, tuple(group), 0
        self._inverses: list[Symmetry] = []

    def forward(self, y: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The symmetrised score, (B, d), (B,), (B,) → (B, d)."""
        return self._symmetrised(self.score, y, t, label)

    def learned(self, y: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        """The symmetrised part that depends on the weights, of a `ScoreModel`."""
        return self._symmetrised(self.score.learned, y, t, label)

    @contextmanager
    def plain(self) -> Iterator[None]:
        """As `ScoreModel.plain`."""
        with getattr(self.score, "plain", nullcontext)():
            yield

    def _symmetrised(self, score: Any, y: Tensor, t: Tensor, label: Tensor | None) -> Tensor:
        if self._dimension != y.shape[1]:
            self._inverses, self._dimension = inverses(self._group, y.shape[1]), y.shape[1]
        n = len(self._group)
        given = [t] if label is None else [t, label]
        parts = score(torch.cat([g(y) for g in self._group]), *(x.repeat(n) for x in given)).chunk(n)
        return torch.stack([back(s) for back, s in zip(self._inverses, parts, strict=True)]).mean(0)
