"""Image metrics by a ResNet18 trained on the data's own labels, and the distance to the nearest training image.

Every distance between sets of images depends on how many there are: generated and held-out ones are compared at the
same n, and so are the training images that make the floor. The classifier is the project's own (`ndsm.vision.pretrained`):
values are comparable with those of the same `classifier` hash only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from ndsm.core.rng import numpy_stream
from ndsm.data.mnist import LabelledImages, halved, load_mnist, turned
from ndsm.metrics.balance import BALANCE, balance, class_share
from ndsm.metrics.measure import Measure
from ndsm.vision.image_classifier import FEATURES, ImageClassifier
from ndsm.vision.pretrained import SEED, Pretrained, all_cores, cached_array, classifier

if TYPE_CHECKING:
    from ndsm.data import Dataset, ImageView

LARGE_UPRIGHT, LARGE_TURNED, SMALL_UPRIGHT, SMALL_TURNED = range(4)
"""Classes of Approx.-C2-MNIST's classifier."""
TURNED, SMALL, FAKES = (
    [LARGE_TURNED, SMALL_TURNED],
    [SMALL_UPRIGHT, SMALL_TURNED],
    [LARGE_TURNED, SMALL_UPRIGHT],
)

NEAREST_ROWS = 1000
"""Number of images whose nearest training image is searched."""


class ImageEvaluator:
    """Measures images against a data set's held-out ones.

    Args:
        dataset: its rows in model units.
        view: how they are seen as images.
    """

    def __init__(self, dataset: Dataset, view: ImageView) -> None:
        self._view, self._scaling, self._rows = view, dataset.scaling, dataset.train
        self._classifier = (symmetry_classifier if view.symmetric else digit_classifier)(view.root)
        most = len(dataset.validation)
        self._train = self._images(dataset.train[:most])
        self._held_out = self._images(dataset.validation)
        labels = np.concatenate(
            [x for x in (dataset.train_labels, dataset.validation_labels) if x is not None]
        )
        if view.symmetric:
            labels = np.where(labels < 10, LARGE_UPRIGHT, SMALL_TURNED)
        self._classes = int(self._classifier.facts["classes"])
        self._share = class_share(labels, self._classes)
        self._known_floors: dict[int, dict[str, float]] = {}
        self._nearest_floor = self._nearest(self._held_out)

    def facts(self) -> dict[str, Any]:
        """Metrics that do not depend on the generated images."""
        classifier = self._classifier.facts
        return {
            "class_share_data": self._share.tolist(),
            "classifier": f"{classifier['name']} {classifier['sha256'][:16]}",
            "classifier_accuracy": classifier["accuracy"],
        }

    def __call__(self, rows: np.ndarray, original: np.ndarray) -> dict[str, Any]:
        """Metrics of rows in original units, (n, d); those in model units are not looked at."""
        if len(original) < 2:
            latent, symmetric = self._view.real is not None, self._view.symmetric
            return dict.fromkeys(_NAMES + _LATENT_NAMES * latent + _SYMMETRIC_NAMES * symmetric)
        images = self._view.images(original)
        # The floor compares as many training images: fewer would be further away.
        n = min(len(images), len(self._held_out), len(self._train))
        outputs = self._look(images)
        share = class_share(outputs[:, FEATURES:].argmax(1), self._classes)
        metrics = {
            "fid": self._fid(outputs[:n], self._known_held_out(n)),
            "is": inception_score(outputs),
            "nearest": self._nearest(images),
            **balance(share, self._share),
            **self._floors(n),
        }
        if self._view.symmetric:
            metrics["fake_share"] = float(share[FAKES].sum())
        if self._view.real is not None:
            metrics["fid_images"] = self._fid(outputs[:n], self._look_once(self._view.real[1][:n]))
        return metrics

    def _images(self, rows: np.ndarray) -> np.ndarray:
        """Rows in model units as images."""
        return self._view.images(self._scaling.invert(rows))

    def _nearest(self, images: np.ndarray) -> float:
        x = images[:NEAREST_ROWS]
        # Codes are compared with the images themselves: decoding all of them takes longer than an evaluation.
        if self._view.real is not None:
            return nearest_distance(x, self._view.real[0])
        return nearest_distance(x, self._rows, self._images)

    def _floors(self, n: int) -> dict[str, float]:
        """The same numbers for true images in place of generated ones."""
        if n not in self._known_floors:
            held_out = self._known_held_out(n)
            floors = {
                "fid_floor": self._fid(self._look_once(self._train[:n]), held_out),
                "is_floor": inception_score(held_out),
                "nearest_floor": self._nearest_floor,
            }
            if self._view.symmetric:
                share = class_share(held_out[:, FEATURES:].argmax(1), self._classes)
                floors["fake_share_floor"] = float(share[FAKES].sum())
            if self._view.real is not None:
                real = self._look_once(self._view.real[1][:n])
                floors["fid_images_floor"] = self._fid(held_out, real)
            self._known_floors[n] = floors
        return self._known_floors[n]

    def _known_held_out(self, n: int) -> np.ndarray:
        # The data are shuffled: the first rows stand for all.
        return self._look_once(self._held_out[:n])

    def _fid(self, a: np.ndarray, b: np.ndarray) -> float:
        return frechet_distance(a[:, :FEATURES], b[:, :FEATURES])

    def _look(self, images: np.ndarray) -> np.ndarray:
        """Features and logits of images (n, d), (n, FEATURES + classes)."""

        def both(x: Tensor) -> Tensor:
            features = self._classifier.network.features(x)
            return torch.cat([features, self._classifier.network.head(features)], 1)

        return self._classifier.apply(both, images)

    def _look_once(self, images: np.ndarray) -> np.ndarray:
        """As `_look`, for images that are looked at by every evaluation of a data set."""
        return cached_array(
            "features", [self._classifier.facts["sha256"], images], lambda: self._look(images)
        )


_NAMES = ("fid", "fid_floor", "is", "is_floor", "nearest", "nearest_floor", *BALANCE)
_LATENT_NAMES = ("fid_images", "fid_images_floor")
_SYMMETRIC_NAMES = ("fake_share", "fake_share_floor")


def image_quality(dataset: Dataset, seed: int) -> tuple[dict[str, Any], Measure] | None:
    """Metrics of data that can be seen as images."""
    if dataset.view is None:
        return None
    evaluator = image_evaluator(dataset, dataset.view)
    return evaluator.facts(), evaluator


@functools.lru_cache(maxsize=1)
def image_evaluator(dataset: Dataset, view: ImageView) -> ImageEvaluator:
    """Image evaluator of a data set, cached for the last one: a training is evaluated repeatedly."""
    return ImageEvaluator(dataset, view)


@functools.lru_cache(maxsize=1)
def digit_classifier(root: Path) -> Pretrained[ImageClassifier]:
    """The ResNet18 of MNIST's ten digits; trained at the first call on a machine.

    Raises:
        InputError: MNIST is not there, or what is kept of the classifier is damaged.
    """
    train, test = load_mnist(root, True), load_mnist(root, False)
    return classifier("mnist-classifier", train, test)


@functools.lru_cache(maxsize=1)
def symmetry_classifier(root: Path) -> Pretrained[ImageClassifier]:
    """The ResNet18 that tells Approx.-C2-MNIST's images (large upright, small turned) from fakes (large turned, small
    upright); trained at the first call on a machine.

    Some digits are their own or another's half turn, so that it cannot be right about every image: its accuracy and
    the share of fakes it finds among held-out images (`fake_share_floor`) say how far to trust it.

    Raises:
        InputError: MNIST is not there, or what is kept of the classifier is damaged.
    """

    def variants(is_train: bool) -> LabelledImages:
        images, _ = load_mnist(root, is_train)
        labels = numpy_stream(SEED, "c2 classifier", int(is_train)).integers(0, 4, len(images))
        for choose, change in ((TURNED, turned), (SMALL, halved)):
            chosen = np.isin(labels, choose)
            images[chosen] = change(images[chosen])
        return LabelledImages(images, labels)

    return classifier("c2-mnist-classifier", variants(True), variants(False))


class _Given(nn.Module):
    """Identity feature network, for features that were computed before."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.num_features = features

    def forward(self, x: Tensor) -> Tensor:
        """(n, c, 1, 1) → (n, c)."""
        return x.flatten(1)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance between normal fits of two sets of features, (n, c) and (m, c)."""
    # Slow to import, and only evaluations of images need it.
    from torchmetrics.image.fid import FrechetInceptionDistance

    c = a.shape[1]
    fid = FrechetInceptionDistance(_Given(c), normalize=True, input_img_size=(c, 1, 1))
    fid.set_dtype(torch.float64)
    with all_cores():
        for rows, real in ((a, False), (b, True)):
            fid.update(torch.from_numpy(rows[:, :, None, None]), real=real)
        # Of two equal sets it is 0 up to rounding, which may be negative.
        return max(0.0, float(fid.compute()))


def inception_score(outputs: np.ndarray) -> float:
    """exp(mean KL(p(class|image) ‖ p(class))) of all images at once, (n, FEATURES + classes); from 1 to classes."""
    log_p = torch.from_numpy(outputs[:, FEATURES:]).double().log_softmax(1)
    p = log_p.exp()
    return float((p * (log_p - p.mean(0).log())).sum(1).mean().exp())


def nearest_distance(
    images: np.ndarray, train: np.ndarray, as_images: Callable[[np.ndarray], np.ndarray] = lambda rows: rows
) -> float:
    """Mean distance of images (n, d) to the nearest of training images (m, d), in units of full ink.

    A model that knows its training images by heart is closer to them than held-out images are.

    Args:
        as_images: what makes images of rows of `train`, 10,000 at a time: all of them would be as large as the data.
    """
    x, nearest = torch.from_numpy(images), torch.full((len(images),), torch.inf)
    with all_cores():
        for start in range(0, len(train), 10_000):
            part = torch.from_numpy(as_images(train[start : start + 10_000]))
            nearest = torch.minimum(nearest, torch.cdist(x, part).amin(1))
    return float(nearest.mean())
