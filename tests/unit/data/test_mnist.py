"""MNIST from its files, and the variant that is nearly symmetric."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from ndsm.config import Data
from ndsm.data import load
from ndsm.data.mnist import halve_and_turn
from ndsm.errors import InputError


def test_images_come_with_their_digits_in_units_of_0_to_1(mnist_root):
    found = load(Data(name="mnist", root=mnist_root, standardize=False), 0)
    assert (found.train.shape, found.validation.shape) == ((60, 784), (20, 784))
    assert found.train.dtype == np.float32
    for rows, labels in ((found.train, found.train_labels), (found.validation, found.validation_labels)):
        pixels = np.rint(255 * rows.reshape(-1, 28, 28))
        np.testing.assert_array_equal(pixels[:, 20, 5], 10 * labels + 1)
        assert (pixels[:, 2, 2] == 255).all()
    # Shuffled, and each picture once.
    numbers = np.rint(255 * found.train.reshape(-1, 28, 28))[:, 3, 2]
    assert sorted(numbers) == list(range(60))
    assert list(numbers) != sorted(numbers)


def test_n_takes_training_images_and_leaves_the_test_split(mnist_root):
    found = load(Data(name="mnist", root=mnist_root, n=7), 0)
    assert (len(found.train), len(found.train_labels), len(found.validation)) == (7, 7, 20)
    with pytest.raises(InputError, match="mnist has 60 rows: expected at most as many"):
        load(Data(name="mnist", root=mnist_root, n=61), 0)


def test_the_scale_is_that_of_the_training_images_and_is_undone(mnist_root):
    raw = load(Data(name="mnist", root=mnist_root, standardize=False), 0)
    found = load(Data(name="mnist", root=mnist_root), 0)
    assert found.train.mean(0) == pytest.approx(0.0, abs=1e-6)
    assert found.train.var(0).mean() == pytest.approx(1.0, rel=1e-5)
    np.testing.assert_allclose(found.scaling.invert(found.validation), raw.validation, atol=1e-6)


def test_about_half_of_the_images_are_turned_and_halved(mnist_image):
    """Each with probability 1/2: the share within 4 SE; the others are left alone."""
    images = (
        np.stack([mnist_image(3, i % 200) for i in range(2000)]).reshape(2000, 784).astype(np.float32) / 255
    )
    found, changed = halve_and_turn(images, np.random.default_rng(0))
    assert abs(changed.mean() - 0.5) < 4 * 0.5 / 2000**0.5
    np.testing.assert_array_equal(found[changed == 0], images[changed == 0])
    small = found[changed == 1].reshape(-1, 28, 28)
    # The bright corner is at the lower right of the middle now, and each pixel the mean of four.
    assert small[:, 7:21, 7:21].sum() == pytest.approx(small.sum())
    assert (small[:, 19, 19] > 0.4).all()
    np.testing.assert_allclose(small.sum((1, 2)), images[changed == 1].sum(1) / 4, rtol=1e-5)


def test_labels_of_the_variant_tell_the_digit_and_the_change(mnist_root):
    found = load(Data(name="c2-mnist", root=mnist_root, standardize=False), 1)
    small = found.train.reshape(-1, 28, 28)[:, 2, 2] == 0
    np.testing.assert_array_equal(found.train_labels >= 10, small)
    plain = load(Data(name="mnist", root=mnist_root, standardize=False), 1)
    np.testing.assert_array_equal(found.train_labels % 10, plain.train_labels)


def test_missing_files_are_one_sentence(tmp_path, monkeypatch):
    from torchvision.datasets import MNIST

    def offline(self):
        raise RuntimeError("no network")

    monkeypatch.setattr(MNIST, "download", offline)
    with pytest.raises(
        InputError,
        match=r"data.root: expected MNIST's files in .*raw, found none: point data.root at .*no network",
    ):
        load(Data(name="mnist", root=tmp_path), 0)


@pytest.mark.parametrize(
    "damage", [lambda b: b[:1000], lambda b: b"another kind of file, not IDX", lambda b: b""]
)
def test_damaged_files_are_one_sentence(mnist_root, tmp_path, damage):
    shutil.copytree(mnist_root, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(InputError, match=r"expected MNIST's files in .*raw, found damaged ones; delete them"):
        load(Data(name="mnist", root=tmp_path), 0)


def test_the_real_files():
    """Set NDSM_DATA to a folder with MNIST/raw, e.g. NDSM_DATA=data."""
    root = os.environ.get("NDSM_DATA")
    if not root:
        pytest.skip("NDSM_DATA names no folder with MNIST/raw")
    found = load(Data(name="mnist", root=Path(root), standardize=False), 0)
    assert (found.train.shape, found.validation.shape) == ((60_000, 784), (10_000, 784))
    assert found.train.mean() == pytest.approx(0.1307, abs=1e-4)
    assert found.train.std() == pytest.approx(0.3081, abs=1e-4)
