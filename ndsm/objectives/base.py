"""Interface of an objective, and what the objectives share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, cast

from torch import Tensor

from ndsm.core.types import Score
from ndsm.errors import InputError
from ndsm.simulation import COMPONENT, LABEL, ONE_STEP

ControlVariate = float | tuple[float, ...] | Literal["closed-form", "learned"]
"""How ε(t), the factor of an objective's control variate, is chosen: fixed (one number, or several joined by lines over log
t), minimising eq. 22 within bins of log t, or the paper's network ε_φ(t)."""


@dataclass(frozen=True)
class Losses:
    """The loss of each row, up to the control variate: base + ε(t) · control_variate is trained."""

    base: Tensor
    """(B,)."""
    control_variate: Tensor | None
    """W, (B,), with mean zero for every θ; None if the objective has none."""


class Objective(Protocol):
    """A loss, and the quantities that a simulator records for it."""

    records: ClassVar[tuple[str, ...]]
    """Names of the recorded quantities, see `ndsm.simulation.RowLayout`."""
    rows_from: ClassVar[str]
    """`path`: the process is simulated; `kernel`: rows are drawn from its known transition law."""

    @property
    def kind(self) -> str:
        """Its name in `objective.kind`."""
        ...

    @property
    def control_variate(self) -> ControlVariate:
        """How its ε(t) is chosen; 0 if it has no control variate."""
        ...

    def __call__(self, score: Score, rows: dict[str, Tensor]) -> Losses:
        """Losses of each row; calls the score once, evaluations of one row B rows apart (as `torch.cat`)."""
        ...

    def combined(self, score: Score, rows: dict[str, Tensor], epsilon: Tensor) -> Tensor:
        """base + ε · control_variate of each row, (B,), at the least cost."""
        ...


def labelled(score: Score, rows: dict[str, Tensor], evaluated: Tensor | None = None) -> Score:
    """The score with the components and labels of the rows, if they have any; else the score itself.

    Args:
        evaluated: the row of each evaluation, (m,), modulo B; if None all rows come once or several times, as `torch.cat`
            makes them.
    """
    recorded = {name: rows[name] for name in (COMPONENT, LABEL) if name in rows}
    if not recorded:
        return score

    def with_labels(y: Tensor, t: Tensor) -> Tensor:
        of_each = {
            name: value.repeat(len(y) // len(value)) if evaluated is None else value[evaluated % len(value)]
            for name, value in recorded.items()
        }
        return cast(Any, score)(y, t, **of_each)

    return with_labels


def checked_control_variate(value: ControlVariate) -> ControlVariate:
    """The same value.

    Raises:
        InputError: it is not a number, several of them, "closed-form" or "learned".
    """
    few = isinstance(value, tuple) and len(value) < 2
    if isinstance(value, bool) or few or (isinstance(value, str) and value not in ("closed-form", "learned")):
        raise InputError(
            f"control_variate: expected a number, two or more of them, 'closed-form' or 'learned', found {value!r}"
        )
    return value


class OneStep(ABC):
    """Base of the objectives of a single Gaussian step, whose control variate costs no evaluation of the score."""

    records: ClassVar[tuple[str, ...]] = ONE_STEP

    @abstractmethod
    def __call__(self, score: Score, rows: dict[str, Tensor]) -> Losses:
        """Losses of each row."""

    def combined(self, score: Score, rows: dict[str, Tensor], epsilon: Tensor) -> Tensor:
        """base + ε · control_variate of each row, (B,), for ε (B,)."""
        losses = self(score, rows)
        if losses.control_variate is None:
            return losses.base
        return losses.base + epsilon * losses.control_variate
