"""Rows that an evaluation compares: generated, of the mixture alone, held-out and training rows, in model units and as written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ndsm.core.rng import numpy_stream
from ndsm.metrics.columns import as_written
from ndsm.metrics.resampling import GENERATED, HELD_OUT, MIXTURE, TRAINING

if TYPE_CHECKING:
    from ndsm.data import Dataset

MAX_ROWS = 2000
"""Rows of each sample that are resampled."""
LEAST_ROWS = 10


@dataclass(frozen=True, eq=False)
class Sample:
    """Rows of one origin."""

    number: int
    """Of its bootstrap weights."""
    model: np.ndarray
    """(n, d) float32, model units."""
    data: np.ndarray
    """(n, d) float64, in units of the data, as a table holds them; NaN is missing."""

    def first(self, n: int) -> Sample:
        """The first n rows."""
        return Sample(self.number, self.model[:n], self.data[:n])


@dataclass(frozen=True, eq=False)
class Samples:
    """Rows of an evaluation, each kind in random order."""

    generated: Sample
    mixture: Sample | None
    """Of the mixture alone."""
    held_out: Sample
    training: Sample
    """Independent of `held_out`, for the floor."""
    copied_from: np.ndarray | None
    """(N, d) rows that the model was trained on, standardised units; None if nothing was held out from training."""
    source: str
    """What `held_out` is: `truth`, `validation` or `train`."""

    @property
    def others(self) -> dict[str, Sample]:
        """What is compared with held-out rows."""
        found = {"model": self.generated, "floor": self.training}
        return found if self.mixture is None else {**found, "mixture": self.mixture}


ToData = Callable[[np.ndarray], np.ndarray]
"""Converts rows (n, d) from model to original units."""


def sample_of(number: int, rows: np.ndarray, dataset: Dataset, to_data: ToData) -> Sample:
    """Return those of the rows (n, d) in model units that are finite; a missing cell is NaN in units of the data only."""
    with np.errstate(over="ignore", invalid="ignore"):
        data = to_data(rows)
    finite = np.isfinite(rows).all(1) & ~np.isinf(data).any(1)
    return Sample(number, rows[finite], as_written(data[finite], dataset.schema))


def samples_of(
    dataset: Dataset,
    generated: np.ndarray,
    prior: np.ndarray | None,
    seed: int,
    to_data: ToData,
) -> Samples | None:
    """Return the rows of an evaluation; None if there are fewer than ten of a kind.

    Held-out rows are a toy's true law, validation rows, or one half of the training rows where nothing was held out.

    Args:
        generated, prior: (n, d) in model units.
    """
    order = numpy_stream(seed, "verdict-rows").permutation(len(dataset.train))
    copied_from = None
    if dataset.toy is not None:
        truth, _ = dataset.toy.sample(MAX_ROWS, numpy_stream(seed, "verdict-truth"))
        held_out, source = dataset.scaling.apply(truth), "truth"
    elif len(dataset.validation) >= LEAST_ROWS:
        held_out, source = dataset.validation, "validation"
    else:
        half = len(order) // 2
        held_out, source, order = dataset.train[np.sort(order[:half][:MAX_ROWS])], "train", order[half:]
    training = dataset.train[order[: max(len(held_out), 1)][: 5 * MAX_ROWS]]
    if source != "train":
        copied_from = dataset.scaling.standardised(dataset.train)

    parts = [
        None if rows is None else sample_of(number, rows[: 5 * MAX_ROWS], dataset, to_data)
        for number, rows in (
            (GENERATED, generated),
            (MIXTURE, prior),
            (HELD_OUT, held_out),
            (TRAINING, training),
        )
    ]
    if any(part is not None and len(part.model) < LEAST_ROWS for part in parts):
        return None
    model, alone, true, others = parts
    assert model is not None
    assert true is not None
    assert others is not None
    return Samples(model, alone, true, others, copied_from, source)
