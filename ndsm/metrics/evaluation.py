"""What `metrics.json` holds: generated rows, and rows of the mixture alone, against held-out data.

Every distance comes with its floor: the same number for true rows in place of generated ones, at the same n.
A model whose distance is at its floor cannot be told from the data by it; one that does not beat the mixture
alone (`prior`) has learned nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ndsm.core.rng import numpy_stream
from ndsm.metrics.balance import class_balance, mode_balance
from ndsm.metrics.image_quality import image_quality
from ndsm.metrics.measure import MAX_ROWS, MakeMeasure
from ndsm.metrics.wasserstein import sliced_wasserstein

if TYPE_CHECKING:
    from ndsm.data import Dataset

_MAX_CHUNKS = 10


@dataclass(frozen=True)
class Reference:
    """Rows to compare with, and other true rows that set the floor."""

    source: str
    """`truth` (a toy's own sampler), `validation` or `train` (one half against the other)."""
    rows: np.ndarray
    """(M, d) float32, standardised units."""
    floor_rows: np.ndarray
    """(F, d) float32, standardised units; independent of `rows`."""


MEASURES: tuple[MakeMeasure, ...] = (mode_balance, image_quality, class_balance)
"""What is measured beside the sliced Wasserstein distance, each where it applies. A new metric is one more."""


def evaluate(dataset: Dataset, samples: np.ndarray, prior: np.ndarray | None, seed: int) -> dict[str, Any]:
    """The metrics of generated rows, JSON-ready, and of rows of the mixture alone under `prior`.

    Keys:
        n, nonfinite: generated rows, and how many of them hold NaN or infinity (also in original units).
            Those are left out of every number below, except that they count as off the support.
        reference, n_reference: `truth`, `validation` or `train`, and the rows in each comparison.
        swd2, swd2_floor: sliced Wasserstein-2 distance in standardised units. Toys: one comparison of at most 50,000
            rows with as many true ones. Else: mean over at most 10 consecutive chunks of n_reference rows.
        class_share, class_share_data, class_share_std, class_share_tv: shares of classes (by a classifier
            fitted on the data's labels) or of a toy's modes, those of the data, and how far they are apart.
        classifier_accuracy: of that classifier, on rows it was not fitted on.
        mode_std, off_support, off_support_floor: toys only.
        fid, is, nearest, their floors, and for latent data fid_images: images only, see `ImageEvaluator`.
    A metric that needs a finite row is None if there is none.

    Args:
        dataset: the data.
        samples: (n, d) generated rows, model units.
        prior: (n', d) rows of the fitted mixture, model units; None leaves that part out.
        seed: of the true samples, the choice of rows and the directions.
    """
    # Distances in units that whitening does not change: runs with and without it can be compared.
    standardised = dataset.scaling.standardised
    parts = [part for make in MEASURES if (part := make(dataset, seed)) is not None]

    def metrics(rows: np.ndarray) -> dict[str, Any]:
        rows = np.asarray(rows, dtype=np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            original = dataset.scaling.invert(rows)
        finite = np.isfinite(rows).all(axis=1) & np.isfinite(original).all(axis=1)
        nonfinite = int((~finite).sum())
        reference = _reference(dataset, max(int(finite.sum()), 2), seed)
        result: dict[str, Any] = {
            "n": len(rows),
            "nonfinite": nonfinite,
            "reference": reference.source,
            "n_reference": len(reference.rows),
            "swd2": _chunked_distance(standardised(rows[finite]), reference.rows, seed),
            "swd2_floor": _chunked_distance(reference.floor_rows, reference.rows, seed),
        }
        for shared, measure in parts:
            result |= shared | measure(rows[finite], original[finite])
        if "off_support" in result and len(rows):
            result["off_support"] = (result["off_support"] * (len(rows) - nonfinite) + nonfinite) / len(rows)
        return result

    return metrics(samples) if prior is None else {**metrics(samples), "prior": metrics(prior)}


def _reference(dataset: Dataset, n: int, seed: int) -> Reference:
    """What n generated rows are compared with."""
    n = min(n, MAX_ROWS)
    toy, standardised = dataset.toy, dataset.scaling.standardised
    if toy is not None:

        def truth(index: int) -> np.ndarray:
            x, _ = toy.sample(n, numpy_stream(seed, "evaluate-truth", index))
            return ((x - dataset.scaling.mean) / dataset.scaling.scale).astype(np.float32)

        return Reference("truth", truth(0), truth(1))
    order = numpy_stream(seed, "evaluate-rows").permutation(len(dataset.train))
    if len(dataset.validation) >= 2:
        rows = dataset.validation[: min(n, len(order))]
        others = dataset.train[order[: _MAX_CHUNKS * len(rows)]]
        return Reference("validation", standardised(rows), standardised(others))
    half = len(order) // 2
    rows, others = dataset.train[order[:half][:n]], dataset.train[order[half:]]
    return Reference("train", standardised(rows), standardised(others))


def _chunked_distance(rows: np.ndarray, reference: np.ndarray, seed: int) -> float | None:
    """Mean distance to (M, d) reference rows of at most 10 consecutive chunks of M of the rows.

    The distance of finite samples is biased by how few they are: chunks of the reference's own size make
    generated rows and floor comparable.
    """
    m = len(reference)
    if not len(rows) or not m:
        return None
    starts = range(0, max(len(rows) - m, 0) + 1, m)[:_MAX_CHUNKS]
    return float(np.mean([sliced_wasserstein(rows[s : s + m], reference, seed=seed) for s in starts]))
