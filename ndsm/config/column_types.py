"""What `data.column_types` says about a column: what its cells are, within which bounds, and how it is transformed."""

import math
import re
from dataclasses import dataclass
from typing import Literal, Self, cast

Cells = Literal["auto", "int", "float"]
Transform = Literal["auto", "standard", "log", "quantile"]

EXPECTED = "int, float, standard, log or quantile, with bounds such as int[18,90], or two of them such as 'float[0,] log'"
_CELLS = re.compile(r"(int|float)?(?:\[([^,\[\]]*),([^,\[\]]*)\])?")


@dataclass(frozen=True)
class ColumnType:
    """What is declared of a column; "auto" and None are found in the data."""

    cells: Cells = "auto"
    """int: whole numbers; float: numbers without steps."""
    low: float | None = None
    high: float | None = None
    transform: Transform = "auto"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The type that is written as `int`, `int[18,90]`, `float[0,]`, `quantile`, `int[0,] log` and the like.

        Raises:
            ValueError: it is none of these.
        """
        words = re.sub(r"\s*([,\[\]])\s*", r"\1", text.strip()).replace("]", "] ").split()
        transform = words.pop() if words and words[-1] in ("standard", "log", "quantile") else "auto"
        found = _CELLS.fullmatch(words[0]) if len(words) == 1 else None
        if (words and not found) or not text.strip():
            raise ValueError(f"expected {EXPECTED}, found {text!r}")
        cells, low, high = found.groups() if found else (None, None, None)
        try:
            least, most = (None if bound in (None, "") else float(bound) for bound in (low, high))
        except ValueError:
            raise ValueError(f"expected numbers as bounds, found {text!r}") from None
        finite = [bound for bound in (least, most) if bound is not None]
        if not all(map(math.isfinite, finite)) or (len(finite) == 2 and finite[0] >= finite[1]):
            raise ValueError(f"expected finite bounds, the lower one first, found {text!r}")
        return cls(cast(Cells, cells or "auto"), least, most, cast(Transform, transform))
