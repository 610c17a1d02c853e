"""Class balance: how often each class or mode is generated, against how often it should be."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ndsm.core.rng import numpy_stream
from ndsm.errors import InputError
from ndsm.metrics.measure import MAX_ROWS, Measure

if TYPE_CHECKING:
    from ndsm.data import Dataset

MODE_STD_ROWS = 10_000
"""Number of rows that `mode_std` is stated for."""

_CLASSIFIER_ROWS = 10_000


class Classifier(Protocol):
    """Interface of a fitted classifier."""

    def predict(self, rows: np.ndarray, /) -> np.ndarray:
        """(n,) integer labels of (n, d) rows."""
        ...


def class_share(labels: np.ndarray, n_classes: int) -> np.ndarray:
    """(n_classes,) share of each class among (n,) integer labels; they sum to 1.

    Raises:
        InputError: there are no labels, or one lies outside 0..n_classes - 1.
    """
    labels = np.asarray(labels)
    if not labels.size or labels.min() < 0 or labels.max() >= n_classes:
        found = f"{labels.min()}..{labels.max()}" if labels.size else "none"
        raise InputError(f"class_share expects labels in 0..{n_classes - 1}, found {found}")
    return np.bincount(labels, minlength=n_classes) / labels.size


def share_std(share: np.ndarray, reference: np.ndarray) -> float:
    """Standard deviation over classes of share - reference, both (K,); 0 for equal shares."""
    return float(np.std(np.asarray(share) - np.asarray(reference)))


def total_variation(share: np.ndarray, reference: np.ndarray) -> float:
    """Total variation distance ½ Σ |share - reference| of two (K,) laws, in [0, 1]."""
    return float(0.5 * np.abs(np.asarray(share) - np.asarray(reference)).sum())


BALANCE = ("class_share", "class_share_std", "class_share_tv")
"""Keys of `balance`."""


def balance(share: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """Shares and how far they are from the reference's, both (K,), by the keys of metrics.json."""
    values = (share.tolist(), share_std(share, reference), total_variation(share, reference))
    return dict(zip(BALANCE, values, strict=True))


def mode_std(modes: np.ndarray, weights: np.ndarray, n: int | None = None) -> float:
    """Standard deviation over modes of (rows in the mode - n × its true share), stated for 10,000 rows.

    Counts of another n are multiplied by 10,000 / n, so the number is 10,000 times the standard deviation of
    the share's error whatever n is. A perfect sampler does not reach 0: over K equal modes it expects about
    10,000 · sqrt((1/K) (1 - 1/K) / n), so compare runs of the same n.

    Args:
        modes: (n,) mode of each row, 0..K - 1.
        weights: (K,) true share of each mode.
        n: rows drawn; the length of `modes` if not given. More than that counts rows that have no mode.
    """
    weights = np.asarray(weights, dtype=np.float64)
    drawn = len(modes) if n is None else n
    counts = class_share(modes, len(weights)) * len(modes)
    return float(np.std(counts - drawn * weights) * MODE_STD_ROWS / drawn)


def label_classifier(train: np.ndarray, labels: np.ndarray) -> Classifier:
    """A classifier fitted on the data's own labels: a support vector machine with a Gaussian kernel.

    Its accuracy on scikit-learn's digits is about 0.99. It is fitted on the first 10,000 rows (the data are
    shuffled), because its time grows with the square of their number.

    Args:
        train: (N, d) rows; pixels in their own unit, since standardising blows up the nearly constant ones.
        labels: (N,) integer labels. If they are all the same, every row is given that label.
    """
    # Only an evaluation with labels needs it, and it is slow to import.
    from sklearn.dummy import DummyClassifier
    from sklearn.svm import SVC

    train, labels = train[:_CLASSIFIER_ROWS], labels[:_CLASSIFIER_ROWS]
    # A support vector machine refuses to be fitted on one class.
    several = len(np.unique(labels)) > 1
    classifier: Classifier = (SVC(gamma="scale") if several else DummyClassifier()).fit(train, labels)
    return classifier


def mode_balance(dataset: Dataset, seed: int) -> tuple[dict[str, Any], Measure] | None:
    """Shares of a toy's modes and of points between them."""
    toy = dataset.toy
    if toy is None:
        return None
    weights = np.asarray(toy.weights, dtype=np.float64)
    truth, _ = toy.sample(MAX_ROWS, numpy_stream(seed, "evaluate-support"))

    def measure(rows: np.ndarray, original: np.ndarray) -> dict[str, Any]:
        if not len(rows):
            return {**dict.fromkeys(BALANCE), "mode_std": None, "off_support": 0.0}
        modes = toy.mode_of(original)
        return {
            **balance(class_share(modes, len(weights)), weights),
            "mode_std": mode_std(modes, weights),
            "off_support": float(np.mean(toy.off_support(original))),
        }

    floor = float(np.mean(toy.off_support(truth)))
    return {"class_share_data": weights.tolist(), "off_support_floor": floor}, measure


def class_balance(dataset: Dataset, seed: int) -> tuple[dict[str, Any], Measure] | None:
    """Shares of the classes by a classifier, of data whose labels nothing else tells from the rows."""
    labels = dataset.train_labels
    if labels is None or dataset.toy is not None or dataset.view is not None:
        return None
    train = dataset.scaling.invert(dataset.train)
    held_out, held_out_labels = (
        dataset.scaling.invert(dataset.validation),
        dataset.validation_labels,
    )
    every = labels if held_out_labels is None else np.concatenate([labels, held_out_labels])
    n_classes = int(every.max()) + 1
    share_data = class_share(every, n_classes)
    if held_out_labels is None or len(held_out) < 2:
        order = numpy_stream(seed, "evaluate-classifier").permutation(len(train))
        fit, hold = order[: len(order) // 2], order[len(order) // 2 :]
        train, labels, held_out, held_out_labels = train[fit], labels[fit], train[hold], labels[hold]
    classifier = label_classifier(train, labels)
    accuracy = float(np.mean(classifier.predict(held_out) == held_out_labels))

    def measure(rows: np.ndarray, original: np.ndarray) -> dict[str, Any]:
        if not len(rows):
            return dict.fromkeys(BALANCE)
        return balance(class_share(classifier.predict(original), n_classes), share_data)

    return {"class_share_data": share_data.tolist(), "classifier_accuracy": accuracy}, measure
