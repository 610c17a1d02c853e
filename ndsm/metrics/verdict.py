"""What tests say of generated rows: against held-out rows, against the mixture alone, and in one sentence.

No verdict rests on one number: each metric is compared with what it is for rows of the data (the floor) and for the mixture alone, in
standard errors of the difference, and what the held-out rows are too few for is said to be undecided.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ndsm.metrics.resampling import Estimate

CERTAIN = 2.576
"""Standard errors of a difference that is taken for real: two-sided level 0.01, so that five tests together err at most in 5 %."""
MARGIN = 0.05
"""Excess over the data's own value up to which rows are as good as the data's: AUC, share, distance of distribution functions, or
standard deviations."""

NAMES = {
    "swd2": "sliced Wasserstein-2",
    "c2st": "trees (C2ST)",
    "columns": "worst column",
    "shares": "component shares",
    "copies": "copies",
}
"""Tests as they are called in sentences."""


@dataclass(frozen=True)
class Comparison:
    """A metric of generated rows as a test."""

    value: float
    se: float
    floor: float
    """Of rows of the data."""
    floor_gap: float
    """value - floor."""
    floor_gap_se: float
    mixture: float | None
    """Of the mixture alone."""
    mixture_gap: float | None
    """mixture - value: how much better the model is."""
    mixture_gap_se: float | None

    @classmethod
    def of(cls, model: Estimate, floor: Estimate | float, mixture: Estimate | None) -> Comparison:
        """Compare estimates with common replicates of the held-out rows; a floor that is a number is known exactly."""
        exact = isinstance(floor, float)
        known = Estimate(floor, np.zeros(len(model.draws))) if isinstance(floor, float) else floor
        gap = model - known
        own = model.value, model.se, known.value, gap.value, model.se if exact else gap.se
        if mixture is None:
            return cls(*own, None, None, None)
        gain = mixture - model
        return cls(*own, mixture.value, gain.value, gain.se)

    @property
    def against_data(self) -> str:
        """`worse` than rows of the data, `as good` within `MARGIN`, or `cannot tell`."""
        if self.floor_gap > CERTAIN * self.floor_gap_se:
            return "worse"
        return "as good" if self.floor_gap + CERTAIN * self.floor_gap_se < MARGIN else "cannot tell"

    @property
    def against_mixture(self) -> str:
        """`better` or `worse` than rows of the mixture alone, or `cannot tell`."""
        if self.mixture_gap is None or self.mixture_gap_se is None:
            return "cannot tell"
        certain = abs(self.mixture_gap) > CERTAIN * self.mixture_gap_se
        return ("better" if self.mixture_gap > 0 else "worse") if certain else "cannot tell"

    @property
    def word(self) -> str:
        """`as good` as the data; else `better` than the mixture alone; else `worse` than that or the data; or `cannot tell`."""
        if self.against_data == "as good":
            return "as good"
        if self.against_mixture == "better":
            return "better"
        return "worse" if "worse" in (self.against_mixture, self.against_data) else "cannot tell"

    def to_json(self) -> dict[str, Any]:
        """All numbers and both comparisons."""
        return {**vars(self), "against_data": self.against_data, "against_mixture": self.against_mixture}


def sentence(
    tests: Mapping[str, Comparison], columns: Mapping[str, Mapping[str, Any]], held_out: int, source: str
) -> str:
    """Return the verdict in plain English: against the data, against the mixture alone, and on copies."""
    judged = {name: test for name, test in tests.items() if name != "copies"}
    by_data: dict[str, list[str]] = {"worse": [], "as good": [], "cannot tell": []}
    for name, test in judged.items():
        by_data[test.against_data].append(_told(name, test, columns))
    rows = f"{held_out:,} {'training' if source == 'train' else 'held-out'} rows"
    if by_data["worse"]:
        parts = [f"differs from {rows} by {_listed(by_data['worse'])}"]
        if by_data["as good"]:
            parts[0] += (
                f"; as good by {_listed([NAMES[n] for n, t in judged.items() if t.against_data == 'as good'])}"
            )
    elif by_data["cannot tell"]:
        unknown = [NAMES[n] for n, t in judged.items() if t.against_data == "cannot tell"]
        parts = [f"no difference found, but {rows} are too few to exclude one by {_listed(unknown)}"]
    else:
        parts = [f"as good as {rows} by {_listed([NAMES[n] for n in judged])}"]
    by_mixture = {
        word: [NAMES[name] for name, test in judged.items() if test.against_mixture == word]
        for word in ("better", "worse")
    }
    if any(test.mixture is not None for test in judged.values()):
        told = [
            f"{word} than the mixture alone by {_listed(names)}"
            for word, names in by_mixture.items()
            if names
        ]
        parts.append(" and ".join(told) or "not shown to be better or worse than the mixture alone")
    if "copies" in tests:
        test = tests["copies"]
        share = f"{test.value:.1%} nearer to training than to held-out rows, 50% is right"
        said = {
            "worse": f"copies training rows ({share})",
            "as good": "no sign of copied rows",
            "cannot tell": f"too few rows to tell whether some are copied ({share})",
        }
        parts.append(said[test.against_data])
    text = "; ".join(parts)
    return f"{text[0].upper()}{text[1:]}."


def _told(name: str, test: Comparison, columns: Mapping[str, Mapping[str, Any]]) -> str:
    """A test as the sentence names it."""
    if name == "c2st":
        return f"trees (C2ST, AUC {test.value:.2f})"
    if name == "columns":
        worst = max(columns, key=lambda c: column_value(columns[c]))
        return f"column {worst!r} ({'KS' if 'ks' in columns[worst] else 'TV'} {test.value:.2f})"
    return NAMES[name]


def column_value(column: Mapping[str, Any]) -> float:
    """Return the distance of a column, whichever was measured."""
    return float(column["ks"] if "ks" in column else column["tv"])


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
