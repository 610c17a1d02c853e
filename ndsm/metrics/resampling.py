"""Bootstrap over rows: estimates with replicates, whose differences have standard errors too.

Numbers that are compared are resampled with the same weights of the held-out rows, so that what these rows have in common drops out
of the difference (Efron and Tibshirani, "An introduction to the bootstrap", 1993, chapters 6 and 8).
"""

from dataclasses import dataclass

import numpy as np

from ndsm.core.rng import numpy_stream

REPLICATES = 50
"""Bootstrap replicates: standard errors are known within about 10 %."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """A number and its bootstrap replicates."""

    value: float
    draws: np.ndarray
    """(REPLICATES,)."""

    @property
    def se(self) -> float:
        """Standard error: the standard deviation of the replicates."""
        return float(self.draws.std(ddof=1))

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The difference of two estimates with common replicates of the held-out rows."""
        return Estimate(self.value - other.value, self.draws - other.draws)


def bootstrap_weights(n: int, seed: int, sample: int) -> np.ndarray:
    """How often each of n rows is drawn in each replicate, (REPLICATES, n) float64.

    Args:
        sample: number of the sample that the rows are; 0 for held-out rows, whose weights are then common.
    """
    rng = numpy_stream(seed, "bootstrap", sample)
    return rng.multinomial(n, np.full(n, 1 / n), REPLICATES).astype(np.float64)


HELD_OUT, GENERATED, MIXTURE, TRAINING, LABELLED = range(5)
"""Numbers of the samples of an evaluation."""
