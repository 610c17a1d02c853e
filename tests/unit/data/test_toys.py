"""The toys' samples follow their stated weights and lie on their stated support."""

import numpy as np
import pytest

from ndsm.core.rng import numpy_stream
from ndsm.data import make_toy
from ndsm.data.toys import TOYS
from ndsm.errors import InputError

N = 50_000


def draw(name, n=N, index=0):
    return make_toy(name).sample(n, numpy_stream(7, f"test-{name}", index))


@pytest.mark.parametrize("name", TOYS)
def test_modes_come_with_their_weights(name):
    weights = make_toy(name).weights
    _, mode = draw(name)
    share = np.bincount(mode, minlength=len(weights)) / N
    error = np.sqrt(weights * (1 - weights) / N)
    assert abs(weights.sum() - 1) < 1e-12
    # False alarm below 1e-3 for eight modes.
    assert (np.abs(share - weights) < 4 * error).all()


@pytest.mark.parametrize("name", TOYS)
def test_the_nearest_mode_is_the_one_drawn_from(name):
    x, mode = draw(name)
    # On the checkerboard, cells touch at their corners.
    assert (make_toy(name).mode_of(x) != mode).mean() <= (1e-4 if name == "checkerboard" else 0)


@pytest.mark.parametrize("name", TOYS)
def test_a_true_sample_is_rarely_off_support(name):
    x, _ = draw(name)
    toy = make_toy(name)
    stated = {"arcs": 6.4e-5, "rings": 6.4e-5, "gaussians": np.exp(-8.0), "checkerboard": 0.0}[name]
    assert stated < 1e-3
    assert toy.off_support(x).mean() <= stated + 4 * np.sqrt(stated / N)


@pytest.mark.parametrize("name", TOYS)
def test_points_between_the_modes_are_off_support(name):
    between = {"arcs": (4.0, 0.0), "rings": (1.75, 0.0), "checkerboard": (-3.0, -1.0), "gaussians": (0, 0)}
    far = np.array([between[name], (9.0, 9.0)])
    assert make_toy(name).off_support(far).all()


def test_half_circles_end_where_they_should():
    toy = make_toy("arcs")
    # The first opens towards the origin: its centre is (4, 0), it passes (4.8, 0), its ends are (4, ±0.8).
    on = np.array([[4.8, 0.0], [4.0, 0.8], [4.0, -0.8]])
    assert toy.distance(on)[:, 0] == pytest.approx(0.0, abs=1e-12)
    assert toy.distance(np.array([[3.2, 0.0]]))[0, 0] == pytest.approx(0.8 * np.sqrt(2))


@pytest.mark.parametrize("name", TOYS)
def test_same_stream_same_sample(name):
    first, again, other = draw(name, 100), draw(name, 100), draw(name, 100, index=1)
    assert first[0].dtype == np.float32
    assert first[0].shape == (100, 2)
    assert first[1].dtype == np.int64
    assert (first[0] == again[0]).all()
    assert (first[1] == again[1]).all()
    assert (first[0] != other[0]).any()


def test_an_unknown_toy_is_an_input_error():
    with pytest.raises(InputError, match="expected one of arcs, rings"):
        make_toy("spiral")
