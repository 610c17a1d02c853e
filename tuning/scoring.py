"""How trials are compared: rows they do not train on, one metric, the same number of generated rows, the same seeds.

The loss is no such metric: it differs between objectives by constants and factors.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from ndsm.core.hashing import fingerprint
from ndsm.data import Dataset
from ndsm.errors import InputError
from ndsm.metrics import evaluate
from ndsm.workflows.trained_model import TrainedModel

METRICS: dict[str, Callable[[Dataset], bool]] = {
    "swd2": lambda dataset: True,
    "fid": lambda dataset: dataset.view is not None,
    "class_share_tv": lambda dataset: dataset.train_labels is not None,
    "class_share_std": lambda dataset: dataset.train_labels is not None,
}
"""Held-out metrics that may rank trials, the smaller the better, and which data have them."""


def choose_metric(name: str | None, dataset: Dataset) -> str:
    """The metric of that name; FID for images and sliced Wasserstein-2 for other rows if none is named.

    Raises:
        InputError: the data do not give it.
    """
    given = [metric for metric, has in METRICS.items() if has(dataset)]
    if name is None:
        return "fid" if "fid" in given else "swd2"
    if name not in given:
        raise InputError(f"--metric: expected one that these data give, {', '.join(given)}, found {name!r}")
    return name


def search_split(dataset: Dataset, fraction: float, metric: str) -> Dataset:
    """The training rows in two: those that trials learn from, and those that they are scored by.

    The data's own evaluation rows (or a toy's law) are kept for the finalists.

    Raises:
        InputError: either part would have fewer than two rows.
    """
    rows = len(dataset.train)
    held_out = int(rows * fraction)
    cut = rows - held_out
    if held_out < 2 or cut < 2:
        raise InputError(
            f"--validation: expected a share that leaves at least 2 of the {rows} training rows on either side, found "
            f"{fraction:g}"
        )
    # Only what the metric looks at: classifiers and images cost time at each score.
    labels = dataset.train_labels if metric != "swd2" else None
    return replace(
        dataset,
        train=dataset.train[:cut],
        validation=dataset.train[cut:],
        train_labels=None if labels is None else labels[:cut],
        validation_labels=None if labels is None else labels[cut:],
        toy=None,
        view=dataset.view if metric != "swd2" else None,
        stamp=fingerprint(dataset.stamp, "search", cut),
    )


@dataclass(frozen=True)
class Scorer:
    """Scores generators of one data set.

    Args:
        dataset: with the rows to compare with as `validation`.
        metric: one of METRICS.
        rows: generated rows.
        seed: of the generation and of the comparison.
    """

    dataset: Dataset
    metric: str
    rows: int
    seed: int

    def __call__(self, model: TrainedModel) -> tuple[float, dict[str, Any]]:
        """The model's score, and all its metrics.

        Raises:
            FloatingPointError: it generates NaN or infinity.
        """
        rows = model.all_rows(self.rows, self.seed)
        metrics = evaluate(self.dataset, rows, None, self.seed)
        score = metrics[self.metric]
        if score is None or metrics["nonfinite"]:
            raise FloatingPointError(
                f"{metrics['nonfinite']} of {self.rows} generated rows hold NaN or infinity"
            )
        return float(score), metrics

    def prior(self, model: TrainedModel) -> float | None:
        """The score of the mixture alone."""
        score = evaluate(self.dataset, model.prior_rows(self.rows, self.seed), None, self.seed)[self.metric]
        return None if score is None else float(score)
