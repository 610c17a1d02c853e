"""Values that are known: distances of shifted features, scores of sure and unsure answers, nearest images."""

import math

import numpy as np
import pytest

from ndsm.config import Data
from ndsm.core.rng import numpy_stream
from ndsm.data import load
from ndsm.metrics import evaluate
from ndsm.metrics.image_quality import frechet_distance, inception_score, nearest_distance
from ndsm.vision.image_classifier import FEATURES


def normal(*shape, seed=0):
    return numpy_stream(seed, "image-metrics").normal(size=shape).astype(np.float32)


def test_the_frechet_distance_of_a_shift_is_its_square():
    x = normal(600, FEATURES)
    shift = np.zeros(FEATURES, np.float32)
    shift[:3] = (1.0, 2.0, -2.0)
    assert frechet_distance(x, x) == pytest.approx(0.0, abs=1e-3)
    assert frechet_distance(x + shift, x) == pytest.approx(9.0, rel=1e-3)


def test_the_frechet_distance_of_a_stretch_is_the_squared_difference_of_deviations():
    # Of 2x from x: Σ (2σ - σ)², σ² the variances of the sample itself.
    x = normal(600, FEATURES)
    centred = x - x.mean(0)
    assert frechet_distance(2 * centred, centred) == pytest.approx(centred.var(0, ddof=1).sum(), rel=1e-3)


def test_the_inception_score_counts_the_classes_of_sure_answers():
    def known(logits):
        return np.concatenate([np.zeros((len(logits), FEATURES), np.float32), logits.astype(np.float32)], 1)

    assert inception_score(known(100 * np.eye(10))) == pytest.approx(10.0)
    assert inception_score(known(np.zeros((7, 10)))) == pytest.approx(1.0)
    assert inception_score(known(100 * np.eye(10)[[0, 0, 1, 1]])) == pytest.approx(2.0)


def test_the_nearest_image_is_found_in_every_chunk():
    train = normal(25_000, 3)
    near = train[[0, 12_000, 24_999]] + np.array([3e-3, 4e-3, 0.0], np.float32)
    assert nearest_distance(near, train) == pytest.approx(5e-3, rel=1e-2)


def test_few_training_images_are_compared_with_as_many_held_out_ones(mnist_root):
    """A Fréchet distance grows as images get fewer: a floor of 10 against 20 would be further away."""
    data = load(Data(name="mnist", root=mnist_root, n=10), 0)
    metrics = evaluate(data, np.concatenate([data.train, data.validation[:10]]), None, 0)
    assert metrics["fid"] == pytest.approx(metrics["fid_floor"], rel=1e-6)


@pytest.mark.parametrize("name", ["mnist", "mnist-latent", "c2-mnist"])
def test_an_evaluation_of_images_has_every_number_and_floor(mnist_root, name):
    data = load(Data(name=name, root=mnist_root), 0)
    metrics = evaluate(data, data.validation, data.train[:10], 0)
    # The held-out rows themselves: no distance to them at all.
    assert metrics["fid"] == pytest.approx(0.0, abs=1e-3 * (1 + metrics["fid_floor"]))
    assert metrics["nearest"] == metrics["nearest_floor"]
    assert 1.0 <= metrics["is"] == metrics["is_floor"] <= 10.0
    assert math.isclose(sum(metrics["class_share"]), 1.0)
    if name == "c2-mnist":
        assert metrics["class_share_data"][1:3] == [0.0, 0.0]
        assert metrics["fake_share"] == pytest.approx(sum(metrics["class_share"][1:3]))
    else:
        assert metrics["class_share_data"] == [0.1] * 10
    assert "mnist-classifier " in metrics["classifier"]
    assert metrics["prior"]["n"] == 10
    if name != "mnist-latent":
        assert metrics["prior"]["nearest"] < 1e-3
    if name == "mnist-latent":
        assert metrics["fid_images"] == pytest.approx(metrics["fid_images_floor"], rel=1e-3)
    broken = np.full_like(data.validation, np.nan)
    without = evaluate(data, broken, None, 0)
    assert without["nonfinite"] == len(broken)
    assert without.keys() == metrics.keys() - {"prior"}
    assert without["fid"] is None
