"""The interface of a metric that `ndsm.metrics.evaluation` computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from ndsm.data import Dataset

MAX_ROWS = 50_000
"""True rows in one comparison at most."""

Measure = Callable[[np.ndarray, np.ndarray], dict[str, Any]]
"""Metrics of (n, d) finite rows in model units and the same rows in original units; None values if n is 0."""

MakeMeasure = Callable[["Dataset", int], tuple[dict[str, Any], Measure] | None]
"""Metrics of a data set itself, and the measure of rows against it, given a seed; None where it does not apply."""
