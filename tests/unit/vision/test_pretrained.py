"""Networks that are trained once and kept: they come back the same, and damage is told."""

import json

import numpy as np
import pytest

from ndsm.core.rng import numpy_stream
from ndsm.data.mnist import LabelledImages
from ndsm.errors import InputError
from ndsm.vision.pretrained import autoencoder, cache_folder, cached_array, classifier


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NDSM_CACHE", str(tmp_path))
    return tmp_path


def stripes(n, seed):
    """Images of two classes that are easy to tell apart: lying and standing stripes."""
    labels = np.arange(n) % 2
    field = np.zeros((n, 28, 28), np.float32)
    field[labels == 0, 4:24:4, 4:24] = 1.0
    field[labels == 1, 4:24, 4:24:4] = 1.0
    noise = numpy_stream(seed, "stripes").uniform(0.0, 0.3, field.shape)
    return LabelledImages((0.7 * field + noise).astype(np.float32).reshape(n, 784), labels)


def test_a_classifier_learns_its_classes_and_comes_back_the_same(cache, capsys):
    first = classifier("stripes", stripes(128, 0), stripes(64, 1), epochs=12)
    assert first.facts["accuracy"] > 0.95
    assert first.facts["classes"] == 2
    assert capsys.readouterr().err.startswith(f"training stripes (once, kept in {cache})\n")
    again = classifier("stripes", stripes(128, 0), stripes(64, 1), epochs=12)
    assert again.facts == first.facts
    # Nothing was trained.
    assert capsys.readouterr().err == ""
    images = stripes(20, 2).images
    np.testing.assert_array_equal(
        first.apply(first.network, images), again.apply(again.network.forward, images)
    )
    assert first.apply(first.network.features, images).shape == (20, 512)
    # Other images train another network.
    other = classifier("stripes", stripes(128, 3), stripes(64, 1), epochs=1)
    assert other.facts["sha256"] != first.facts["sha256"]


@pytest.mark.parametrize("damage", ["weights", "description", "missing"])
def test_a_damaged_network_is_not_used(cache, damage):
    data = stripes(8, 0)
    autoencoder("small", data, data, epochs=1)
    (weights,), (description,) = cache.glob("*.safetensors"), cache.glob("*.json")
    if damage == "weights":
        weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    elif damage == "description":
        description.write_text("{", encoding="utf-8")
    else:
        weights.unlink()
    with pytest.raises(
        InputError, match=r"small-\w+\.safetensors: expected .*; delete .*\.json to train it again"
    ):
        autoencoder("small", data, data, epochs=1)
    description.unlink()
    facts = autoencoder("small", data, data, epochs=1).facts
    assert facts == json.loads(description.read_text(encoding="utf-8"))


def test_an_autoencoder_learns_to_repeat_an_image(cache):
    data = stripes(64, 0)
    short, long = (autoencoder("stripes", data, data, epochs) for epochs in (1, 60))
    assert long.facts["mse"] < 0.5 * short.facts["mse"]
    code = long.apply(long.network.encode, data.images)
    assert code.shape == (64, 4)
    seen = long.apply(long.network.decode, code)
    assert seen.shape == (64, 784)
    assert seen.min() >= 0.0
    assert seen.max() <= 1.0


def test_an_array_is_made_once_and_again_when_it_is_damaged(cache):
    made = []

    def make():
        made.append(1)
        return np.arange(6, dtype=np.float32).reshape(2, 3)

    rows = [cached_array("rows", ["a", np.ones(2)], make) for _ in range(2)]
    np.testing.assert_array_equal(*rows)
    assert len(made) == 1
    (file,) = cache.glob("rows-*.safetensors")
    file.write_bytes(b"not one")
    cached_array("rows", ["a", np.ones(2)], make)
    assert len(made) == 2
    cached_array("rows", ["b", np.ones(2)], make)
    assert len(made) == 3


def test_the_folder_is_the_environments_or_the_users(monkeypatch, tmp_path):
    monkeypatch.delenv("NDSM_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "ndsm"
