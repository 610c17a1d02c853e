"""Diagnosis of a trained run: loss and gradients by the noising's time, and distances to training rows.

It needs the run's data; `ndsm report` shows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ndsm.data import Dataset
from ndsm.networks import IMAGE_SIDE
from ndsm.objectives import ClosedFormEpsilon
from ndsm.training import Trainer, TrainingSetup
from ndsm.workflows.gradient_variance import FIFTHS, fresh_rows

PROFILE_ROWS = 4000
"""Fresh rows of the profile; `PROFILE_IMAGES` for a U-Net, which is a thousand times as expensive."""
PROFILE_IMAGES = 100
NEAREST_OF = 50_000
"""Training rows that are searched for the nearest one."""
RARE = 0.05
"""Share of true rows that count as suspiciously near to a training row."""


@dataclass(frozen=True)
class TimeProfile:
    """Loss and gradient variance at a run's weights within fifths of its recorded times, early to late."""

    times: Sequence[tuple[float, float]]
    """First and last time of each part."""
    loss: Sequence[float]
    """Mean weighted loss of each part."""
    loss_error: Sequence[float]
    """Its standard error."""
    gradient_variance: Sequence[float]
    """E |g - E g|² of the weighted per-sample gradients of each part."""
    rows: int


@dataclass(frozen=True)
class EpsilonCurve:
    """ε(t) that the run trained with, and the closed-form optimum at its last weights."""

    t: Sequence[float]
    trained: Sequence[float]
    closed_form: Sequence[float]


@dataclass(frozen=True)
class NearestRows:
    """How far generated rows are from the nearest training row, in standardised units, beside true rows."""

    samples: np.ndarray
    """(m,) distances of generated rows."""
    index: np.ndarray
    """(m,) which training row that is."""
    true: np.ndarray
    """(k,) distances of true rows that the model was not trained on."""
    held_out: bool
    """Whether those are held out; else training rows, each to the nearest other one."""

    @property
    def near_share(self) -> float:
        """Share of generated rows that are nearer than the nearest 5 % of true rows; 0.05 if they are alike."""
        return float(np.mean(self.samples < np.quantile(self.true, RARE)))


def diagnosis_rows(
    problem: TrainingSetup, data: np.ndarray, device: torch.device, index: int = 0
) -> dict[str, torch.Tensor]:
    """Return fresh recorded rows by name on `device`, with the run's distribution of times."""
    n = PROFILE_IMAGES if problem.config.network.kind in IMAGE_SIDE else PROFILE_ROWS
    return fresh_rows(problem, data, n, index, device)


def time_profile(trainer: Trainer, rows: dict[str, torch.Tensor]) -> TimeProfile:
    """Return the profile of rows by name at the trainer's weights and ε."""
    with torch.no_grad():
        weighted = trainer.row_losses(rows)
    times, loss, error, variance = [], [], [], []
    for part in rows["t"].argsort().chunk(FIFTHS):
        own = {key: value[part] for key, value in rows.items()}
        moments = trainer.gradient_moments(own)
        times.append((float(own["t"].min()), float(own["t"].max())))
        loss.append(float(weighted[part].mean()))
        error.append(float(weighted[part].std()) / len(part) ** 0.5)
        variance.append(moments.variance(trainer.epsilon(own["t"])))
    return TimeProfile(times, loss, error, variance, len(rows["t"]))


def epsilon_curve(trainer: Trainer, problem: TrainingSetup, rows: dict[str, torch.Tensor]) -> EpsilonCurve:
    """ε(t) of the trainer on a grid of log t, and the best on these rows, by bins."""
    low, high = problem.t_min, problem.process.horizon
    best = ClosedFormEpsilon(low, high, memory=1.0)
    # As in the profile: a U-Net's gradients of a hundred images at once take 1.3 GB.
    moments = trainer.gradient_moments(rows, FIFTHS)
    best.update(rows["t"], moments.linear, moments.cv_cv, lambda x: x)
    t = torch.logspace(np.log10(low), np.log10(high), 60)
    return EpsilonCurve(t.tolist(), trainer.epsilon(t).tolist(), best(t).tolist())


def nearest_rows(dataset: Dataset, samples: np.ndarray) -> NearestRows:
    """The nearest training row of each generated row (m, d), model units."""
    # Slow to import, and only reports need it.
    from sklearn.neighbors import NearestNeighbors

    standardised = dataset.scaling.standardised
    train = standardised(dataset.train[:NEAREST_OF])
    neighbours = NearestNeighbors(n_neighbors=1).fit(train)
    distance, index = neighbours.kneighbors(standardised(samples))
    held_out = len(dataset.validation) >= 2
    if held_out:
        true = neighbours.kneighbors(standardised(dataset.validation[: len(samples)]))[0]
    else:
        true = neighbours.kneighbors(train[: len(samples)], n_neighbors=2)[0][:, 1:]
    return NearestRows(distance[:, 0], index[:, 0], true[:, 0], held_out)
