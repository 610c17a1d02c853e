"""Properties with known values of the distances and shares, and of a whole evaluation."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from ndsm.config import Data
from ndsm.core.rng import numpy_stream
from ndsm.data import load
from ndsm.errors import InputError
from ndsm.metrics import (
    class_share,
    evaluate,
    label_classifier,
    mode_std,
    share_std,
    sliced_wasserstein,
    total_variation,
)
from ndsm.metrics.wasserstein import resampled_distances


def normal(*shape, seed=0):
    return numpy_stream(seed, "test-metrics").normal(size=shape)


class Scaling:
    """Stands in for ndsm.data's, so that metrics are tested alone."""

    def __init__(self, rows):
        self.mean, self.scale = rows.mean(axis=0), rows.std(axis=0) + 1e-8

    def apply(self, rows):
        return ((rows - self.mean) / self.scale).astype(np.float32)

    def standardised(self, rows):
        return rows

    def invert(self, rows):
        return rows * self.scale + self.mean


def test_resampled_distances_are_those_of_the_resampled_rows():
    x, y = normal(40, 3), normal(30, 3, seed=1)
    i, j = (numpy_stream(2, "picked").integers(len(rows), size=(2, len(rows))) for rows in (x, y))
    expected = [sliced_wasserstein(x[a], y[b], 16, 5) for a, b in zip(i, j, strict=True)]
    assert resampled_distances(x, y, i, j, 16, 5) == pytest.approx(expected)


def dataset(train, validation, train_labels=None, validation_labels=None, toy=None):
    scaling = Scaling(train)
    return SimpleNamespace(
        train=scaling.apply(train),
        validation=scaling.apply(validation),
        scaling=scaling,
        train_labels=train_labels,
        validation_labels=validation_labels,
        toy=toy,
        view=None,
    )


class TwoDiscs:
    """Uniform discs of radius 1 about (-5, 0), with weight 0.25, and (5, 0)."""

    weights = np.array([0.25, 0.75])

    def sample(self, n, generator):
        mode = (generator.random(n) < self.weights[1]).astype(np.int64)
        radius, angle = np.sqrt(generator.random(n)), 2 * np.pi * generator.random(n)
        x = np.stack([radius * np.cos(angle) + 10 * mode - 5, radius * np.sin(angle)], axis=1)
        return x, mode

    def mode_of(self, x):
        return (x[:, 0] > 0).astype(np.int64)

    def off_support(self, x):
        return np.hypot(np.abs(x[:, 0]) - 5, x[:, 1]) > 1.001


@pytest.fixture(scope="module")
def toy_dataset():
    toy = TwoDiscs()
    x, _ = toy.sample(2000, numpy_stream(0, "test-toy"))
    return dataset(x[:1800], x[1800:], toy=toy)


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    order = numpy_stream(0, "test-digits").permutation(len(x))
    x, y = x[order], y[order].astype(np.int64)
    return dataset(x[:1500], x[1500:], y[:1500], y[1500:])


def test_distance_of_rows_from_themselves_is_zero():
    x = normal(500, 3)
    assert sliced_wasserstein(x, x) == 0
    # The same numbers in another order are added up with other roundings.
    assert sliced_wasserstein(x, x[::-1].copy()) == pytest.approx(0, abs=1e-12)


def test_distance_of_a_shift_is_its_length_over_root_d():
    # W2² along θ is (θ·c)² exactly; over directions it has mean |c|²/d and variance |c|⁴ 2(d-1)/(d²(d+2)).
    d, n = 4, 4096
    x, c = normal(200, d), np.array([3.0, 0.0, -4.0, 0.0])
    squared = sliced_wasserstein(x, x + c, n_projections=n) ** 2
    standard_error = 25 * np.sqrt(2 * (d - 1) / (d**2 * (d + 2)) / n)
    assert abs(squared - 25 / d) < 4 * standard_error


def test_distance_of_scaled_rows_in_one_dimension_is_the_difference_of_deviations():
    x = normal(1000, 1)
    assert sliced_wasserstein(x, 3 * x) == pytest.approx(2 * np.sqrt((x**2).mean()), rel=1e-12)
    # Independent Gaussians N(0, 1) and N(0, 9): W2 = 2 up to sampling.
    assert sliced_wasserstein(normal(40_000, 1), 3 * normal(40_000, 1, seed=1)) == pytest.approx(2, abs=0.06)


def test_unequal_numbers_of_rows_equal_repeated_rows():
    x, y = normal(7, 3), normal(5, 3, seed=1)
    repeated = sliced_wasserstein(np.repeat(x, 5, axis=0), np.repeat(y, 7, axis=0))
    assert sliced_wasserstein(x, y) == pytest.approx(repeated, rel=1e-12)
    assert sliced_wasserstein(x, np.repeat(x, 3, axis=0)) == pytest.approx(0, abs=1e-12)


def test_distance_to_one_point_is_the_second_moment():
    x = normal(9, 1)
    assert sliced_wasserstein(x, np.zeros((1, 1))) == pytest.approx(np.sqrt((x**2).mean()))


def test_distance_is_symmetric_and_takes_tensors():
    x, y = normal(300, 5), normal(200, 5, seed=1) + 1
    assert sliced_wasserstein(x, y) == pytest.approx(sliced_wasserstein(y, x), rel=1e-12)
    assert sliced_wasserstein(torch.as_tensor(x), y) == sliced_wasserstein(x, y)


@pytest.mark.parametrize("shape", [(4, 3), (0, 2), (4,)])
def test_distance_refuses_rows_that_do_not_match(shape):
    with pytest.raises(InputError, match="shapes"):
        sliced_wasserstein(np.zeros(shape), np.zeros((4, 2)))


def test_shares_on_a_hand_computed_case():
    share = class_share(np.array([0, 0, 2, 2]), 4)
    assert share.tolist() == [0.5, 0, 0.5, 0]
    uniform = np.full(4, 0.25)
    assert share_std(share, uniform) == pytest.approx(0.25)
    assert total_variation(share, uniform) == pytest.approx(0.5)
    with pytest.raises(InputError, match=r"0\.\.1, found 0\.\.2"):
        class_share(np.array([0, 2]), 2)


def test_mode_std_on_a_hand_computed_case_and_any_number_of_rows():
    modes = np.repeat([0, 1], [6000, 4000])
    assert mode_std(modes, np.array([0.5, 0.5])) == pytest.approx(1000)
    assert mode_std(modes[::10], np.array([0.5, 0.5])) == pytest.approx(1000)
    assert mode_std(modes, np.array([0.6, 0.4])) == pytest.approx(0)


def test_digits_classifier_is_right_for_98_in_100(digits):
    train, held_out = (digits.scaling.invert(x) for x in (digits.train, digits.validation))
    predicted = label_classifier(train, digits.train_labels).predict(held_out)
    assert (predicted == digits.validation_labels).mean() >= 0.98


def test_true_rows_are_at_the_floor_and_a_blob_is_not(toy_dataset):
    x, _ = toy_dataset.toy.sample(3000, numpy_stream(5, "test-toy"))
    result = evaluate(toy_dataset, toy_dataset.scaling.apply(x), normal(3000, 2).astype(np.float32), seed=0)
    assert result["reference"] == "truth"
    assert result["n"] == result["n_reference"] == 3000
    assert result["swd2"] < 3 * result["swd2_floor"]
    assert result["prior"]["swd2"] > 5 * result["swd2"]
    assert result["prior"]["swd2_floor"] == result["swd2_floor"]
    assert result["off_support"] == result["off_support_floor"] == 0
    assert result["prior"]["off_support"] > 0.5
    # Binomial: standard deviation of a mode's count over 10,000 rows, from 3000 of them.
    assert result["mode_std"] < 4 * 1e4 * np.sqrt(0.25 * 0.75 / 3000)
    assert result["class_share_data"] == [0.25, 0.75]
    assert set(result["prior"]) == set(result) - {"prior"}
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_rows_with_nan_are_counted_and_off_the_support(toy_dataset):
    x, _ = toy_dataset.toy.sample(1000, numpy_stream(6, "test-toy"))
    rows = toy_dataset.scaling.apply(x)
    clean = evaluate(toy_dataset, rows[250:], rows, seed=0)
    rows[:200, 0] = np.nan
    rows[200:250, 1] = np.inf
    result = evaluate(toy_dataset, rows, rows, seed=0)
    assert result["nonfinite"] == 250
    assert result["off_support"] == pytest.approx(0.25)
    assert result["swd2"] == clean["swd2"]
    assert result["class_share"] == clean["class_share"]


def test_nothing_finite_gives_none(toy_dataset):
    rows = np.full((50, 2), np.nan, dtype=np.float32)
    result = evaluate(toy_dataset, rows, rows, seed=0)
    assert result["nonfinite"] == 50
    assert result["off_support"] == 1
    assert [result[k] for k in ("swd2", "class_share", "class_share_tv", "mode_std")] == [None] * 4
    json.dumps(result, allow_nan=False)


def test_digits_against_their_validation_rows(digits):
    result = evaluate(digits, digits.train[:1000], normal(900, 64).astype(np.float32), seed=0)
    assert result["reference"] == "validation"
    assert result["n_reference"] == len(digits.validation)
    assert result["swd2"] == pytest.approx(result["swd2_floor"], rel=0.3)
    # White noise has the digits' variances, so only their correlations tell at 297 rows.
    assert result["prior"]["swd2"] > 1.1 * result["swd2"]
    assert result["classifier_accuracy"] >= 0.98
    assert result["class_share_tv"] < 0.1 < result["prior"]["class_share_tv"]
    assert "mode_std" not in result
    few = evaluate(digits, digits.train[:40], digits.train[:40], seed=0)
    assert few["n_reference"] == 40


def test_table_without_validation_rows_is_compared_by_halves():
    x = normal(1001, 5)
    result = evaluate(dataset(x, x[:0]), normal(700, 5, seed=1), 2 * normal(700, 5, seed=2), seed=0)
    assert result["reference"] == "train"
    assert result["n_reference"] == 500
    assert result["swd2"] < 2 * result["swd2_floor"] < result["prior"]["swd2"]
    assert "class_share" not in result


def test_few_training_rows_make_the_floor_against_as_many_held_out_ones():
    x = normal(1020, 5)
    result = evaluate(dataset(x[:20], x[20:]), normal(700, 5, seed=1), None, seed=0)
    assert result["n_reference"] == 20
    assert result["swd2"] == pytest.approx(result["swd2_floor"], rel=0.5)


def test_labels_without_validation_rows_still_have_a_held_out_accuracy(digits):
    bare = SimpleNamespace(**{**vars(digits), "validation": digits.validation[:0], "validation_labels": None})
    result = evaluate(bare, digits.train[:300], digits.train[300:600], seed=0)
    assert result["reference"] == "train"
    assert result["classifier_accuracy"] > 0.95


def test_same_seed_same_result(toy_dataset):
    rows = normal(500, 2).astype(np.float32)
    assert evaluate(toy_dataset, rows, rows, seed=3) == evaluate(toy_dataset, rows, rows, seed=3)


@pytest.mark.parametrize(("name", "source"), [("arcs", "truth"), ("digits", "validation")])
def test_packaged_data_sets_are_at_their_floor(name, source):
    data = load(Data(name=name), seed=0)
    result = evaluate(data, data.train, normal(*data.train.shape).astype(np.float32), seed=0)
    assert result["reference"] == source
    assert result["swd2"] < 2 * result["swd2_floor"]
    assert result["class_share_tv"] < 0.05 < result["prior"]["class_share_tv"]
    if name == "arcs":
        assert result["off_support"] < 0.01 < result["prior"]["off_support"]
    else:
        assert result["classifier_accuracy"] >= 0.97
