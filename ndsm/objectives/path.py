"""Score matching with the path control variate (docs/path-control-variate.md).

For a chain of Gaussian steps and the sums G_n, D_n u of `ndsm.simulation.path_tangents`,

    W = s(Y_n)·G_n - uᵀ Ds(Y_n) D_n u

has mean zero for every s, so that

    L_ε = ½ |s(Y_n)|² + ε(t_n) s(Y_n)·G_n + uᵀ Ds(Y_n) (u - ε(t_n) D_n u)

is a score-matching loss for every ε(t), unbiased for the score of the simulated chain whatever its steps: ε = 0 is implicit
score matching (Hyvärinen 2005) with one probe, ε = 1 replaces the noisy divergence by a target like denoising score matching's. Where a path stayed in its mode D_n u = u,
and with ε = 1 the last term is 0.
"""

from typing import ClassVar

import torch
from torch import Tensor

from ndsm.core.types import Score
from ndsm.objectives.base import ControlVariate, Losses, checked_control_variate, labelled
from ndsm.simulation import WHOLE_PATH

DIFFERENCE = 1e-2
"""Length of the difference step for uᵀ Ds w, in standard deviations of the noise that the path has added."""
THINNING = 1.0
"""Length of u - ε D_n u, as a fraction of |u|, below which the residual term is evaluated for a random share of the rows."""

ROUNDING = 1e-5
"""Length of u - ε D_n u, as a fraction of |u|, below which it is rounding error."""


class PathControlVariate:
    """L_ε averaged over a path and its mirror, which sees the opposite noise and whose G_n is therefore the opposite.

    The mean over both has ½ ε (s(Y⁺) - s(Y⁻))·G in place of ε s(Y)·G, whose variance does not grow as t → 0. Two
    evaluations of the score per row, and one more for each of the two that has a residual term.

    A residual term with |u - ε D_n u| = ρ |u| is evaluated with probability p = min(1, ρ/thinning), decided by the recorded
    `chance`, and divided by p, which leaves its mean. The term is of the order of ρ, so that what an evaluation adds is no
    larger than a term with ρ = thinning.

    The directional derivative is a one-sided difference of s. Its first-order error is odd in u, whose law is
    symmetric, so that what remains in the mean is of second order.

    Args:
        control_variate: ε(t): a number, "closed-form" or "learned".
        thinning: as above; 0 evaluates every residual term.
    """

    records: ClassVar[tuple[str, ...]] = WHOLE_PATH
    rows_from: ClassVar[str] = "path"
    kind: ClassVar[str] = "path"

    def __init__(self, control_variate: ControlVariate = 1.0, thinning: float = THINNING) -> None:
        self.control_variate = checked_control_variate(control_variate)
        self._thinning = thinning

    def __call__(self, score: Score, rows: dict[str, Tensor]) -> Losses:
        """The loss at ε = 0 and W of each row, (B,); six evaluations of the score per row, in one call."""
        y, t, u, tangent, std = _both(rows)
        towards_u, length_u = difference_step(u, std)
        towards_tangent, length_tangent = difference_step(tangent, std)
        s, s_u, s_tangent = labelled(score, rows)(
            torch.cat([y, y + towards_u, y + towards_tangent]), torch.cat([t] * 3)
        ).chunk(3)
        divergence = (u * (s_u - s)).sum(1) / length_u
        along_tangent = (u * (s_tangent - s)).sum(1) / length_tangent
        base = 0.5 * (s * s).sum(1) + divergence
        return Losses(_mean(base), 0.5 * _against_path_weight(s, rows) - _mean(along_tangent))

    def combined(self, score: Score, rows: dict[str, Tensor], epsilon: Tensor) -> Tensor:
        """L_ε of each row, (B,), for ε (B,)."""
        y, t, u, tangent, std = _both(rows)
        rest = u - epsilon.repeat(2)[:, None] * tangent
        p = self.residual_probability(rest, u)
        # The two uniform numbers of a row need not be independent: each term's mean is its own.
        chance = torch.cat([rows["chance"], (rows["chance"] + 0.5) % 1.0])
        some = (chance < p).nonzero()[:, 0]
        towards, length = difference_step(rest[some], std[some])
        evaluated = torch.cat([torch.arange(len(y), device=y.device), some])
        at = torch.cat([y, y[some] + towards])
        s, s_moved = labelled(score, rows, evaluated)(at, t[evaluated]).tensor_split([len(y)])
        loss = 0.5 * (s * s).sum(1)
        loss = loss.index_add(0, some, (u[some] * (s_moved - s[some])).sum(1) / (length * p[some]))
        return _mean(loss) + 0.5 * epsilon * _against_path_weight(s, rows)

    def residual_probability(self, rest: Tensor, u: Tensor) -> Tensor:
        """p of rows with directions u - ε D_n u and probes u, (B, d) → (B,); 0 where there is no residual."""
        size = rest.norm(dim=1) / u.norm(dim=1)
        p = (size / self._thinning).clamp(max=1.0) if self._thinning else torch.ones_like(size)
        return p * (size > ROUNDING)


def _both(rows: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """State, time, probe, tangent and standard deviation of the paths and then of their mirrors, 2B rows."""
    return (
        torch.cat([rows["state"], rows["mirror"]]),
        torch.cat([rows["t"]] * 2),
        rows["probe"].repeat(2, 1),
        torch.cat([rows["tangent"], rows["mirror_tangent"]]),
        rows["std"].repeat(2),
    )


def _mean(both: Tensor) -> Tensor:
    """Mean over path and mirror, (2B,) → (B,)."""
    path, mirror = both.chunk(2)
    return 0.5 * (path + mirror)


def _against_path_weight(s: Tensor, rows: dict[str, Tensor]) -> Tensor:
    """(s(Y⁺) - s(Y⁻))·G, (2B, d) → (B,)."""
    path, mirror = s.chunk(2)
    return ((path - mirror) * rows["path_weight"]).sum(1)


def difference_step(direction: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """A step along each direction, (B, d), and its length as a multiple of the direction, (B,)."""
    size = direction.pow(2).mean(1).sqrt().clamp(min=1e-12)
    length = DIFFERENCE * std / size
    return direction * length[:, None], length
