"""Tests of generated rows against held-out rows and the mixture alone."""

import json

import numpy as np
import pytest

from ndsm.data import Dataset, Scaling, TableSchema
from ndsm.metrics.judging import judge
from ndsm.metrics.resampling import Estimate
from ndsm.metrics.verdict import Comparison, sentence
from ndsm.mixture import GaussianMixture


def table(train: np.ndarray, held_out: np.ndarray, kinds: dict[str, str]) -> Dataset:
    scaling = Scaling.fit(train)
    schema = TableSchema(tuple(kinds.items()))
    return Dataset(scaling.apply(train), scaling.apply(held_out), scaling, schema, "", None, None, None)


def counts(rng: np.random.Generator, n: int) -> np.ndarray:
    """Counts of which 0.5 % are 100,000, and a rate that depends on them."""
    k = np.where(rng.random(n) < 0.005, 100_000, rng.poisson(5, n))
    return np.column_stack([k, rng.normal(5, 1, n) + 0.5 * np.minimum(k, 20)])


def test_counts_that_a_linear_scaling_has_blurred_are_found_out() -> None:
    """The other counts have a standard deviation of 94: half are negative. Distances in standardised units do not see it."""
    rng = np.random.default_rng(0)
    data = table(counts(rng, 2000), counts(rng, 500), {"count": "int64", "rate": "double"})
    blurred, mixture = counts(rng, 1000), counts(rng, 1000)
    small = blurred[:, 0] < 50_000
    blurred[small, 0] = rng.normal(5, 94, small.sum())
    found = judge(data, data.scaling.apply(blurred), data.scaling.apply(mixture), 0)
    column = found["columns"]["count"]
    assert column["out_of_range"] > 0.4
    assert column["out_of_range_data"] == 0.0
    assert column["ks"] > column["floor"] + 0.3
    assert found["columns"]["rate"]["ks"] < 0.1
    assert found["c2st"]["auc"] > 0.95
    assert found["verdict"]["c2st"] == found["verdict"]["columns"] == "worse"
    assert "column 'count'" in found["verdict"]["sentence"]
    assert "worse than the mixture alone" in found["verdict"]["sentence"]
    json.dumps(found, allow_nan=False)


@pytest.mark.statistical
def test_rows_of_the_data_are_never_worse() -> None:
    """Rows of the data's own law are worse by no test, which errs in 1 % each; and better than a shifted mixture."""
    rng = np.random.default_rng(0)
    data = table(*(rng.standard_normal((n, 3)) for n in (2000, 800)), dict.fromkeys("abc", "double"))
    shifted = rng.standard_normal((1000, 3)) + np.array([0.0, 1.0, 0.0])
    mixture = GaussianMixture.fit(data.train, 3, seed=0)
    found = judge(
        data,
        data.scaling.apply(rng.standard_normal((1000, 3))),
        data.scaling.apply(shifted),
        0,
        mixture=mixture,
    )
    assert {test["against_data"] for test in found["tests"].values()} <= {"as good", "cannot tell"}
    assert {found["tests"][name]["against_mixture"] for name in ("swd2", "c2st", "columns")} == {"better"}
    assert found["verdict"]["n"] == 800
    assert max(found["prior"]["columns"], key=lambda c: found["prior"]["columns"][c]["ks"]) == "b"
    assert found["copies"] == pytest.approx(0.5, abs=4 * found["copies_se"])


def test_few_held_out_rows_leave_it_undecided() -> None:
    rng = np.random.default_rng(0)
    data = table(*(rng.standard_normal((n, 2)) for n in (200, 20)), dict.fromkeys("ab", "double"))
    rows = data.scaling.apply(rng.standard_normal((200, 2)))
    found = judge(data, rows, rows, 0)["verdict"]
    assert found["c2st"] == "cannot tell"
    assert "20 held-out rows are too few" in found["sentence"]


def test_copied_rows_are_worse_whatever_else_they_are() -> None:
    rng = np.random.default_rng(0)
    data = table(*(rng.standard_normal((n, 4)) for n in (600, 500)), dict.fromkeys("abcd", "double"))
    found = judge(data, data.train, None, 0, tabular=False)
    assert found["verdict"]["copies"] == "worse"
    assert "copies training rows" in found["verdict"]["sentence"]
    assert "mixture alone" not in found["verdict"]["sentence"]


def test_without_held_out_rows_nothing_is_said_of_copies() -> None:
    rng = np.random.default_rng(0)
    train = rng.standard_normal((300, 2))
    data = table(train, train[:0], dict.fromkeys("ab", "double"))
    found = judge(data, data.scaling.apply(rng.standard_normal((300, 2))), None, 0, tabular=False)
    assert "copies" not in found
    assert "150 training rows" in found["verdict"]["sentence"]
    assert judge(data, data.train[:5], None, 0) == {}


def test_rows_of_images_are_not_looked_at_column_by_column() -> None:
    rng = np.random.default_rng(0)
    data = table(*(rng.standard_normal((n, 2)) for n in (100, 50)), dict.fromkeys("ab", "double"))
    found = judge(data, data.train, None, 0, tabular=False)
    assert found["tests"].keys() == {"swd2", "copies"}


def test_a_difference_counts_from_its_standard_error_on() -> None:
    draws = np.tile([-0.1, 0.1], 25)

    def tested(model: float, floor: float, mixture: float, scale: float) -> Comparison:
        zero = np.zeros(50)
        return Comparison.of(
            Estimate(model, model + scale * draws),
            Estimate(floor, floor + zero),
            Estimate(mixture, mixture + zero),
        )

    assert tested(0.9, 0.5, 0.8, 1.0).word == "worse"
    assert tested(0.7, 0.5, 0.8, 1.0).word == "cannot tell"
    assert tested(0.7, 0.5, 1.2, 1.0).word == "better"
    assert tested(0.52, 0.5, 0.8, 0.1).word == "as good"
    assert tested(0.8, 0.5, 0.7, 0.1).against_mixture == "worse"
    told = sentence({"swd2": tested(0.7, 0.5, 0.8, 1.0)}, {}, 1200, "validation")
    assert told.startswith(
        "No difference found, but 1,200 held-out rows are too few to exclude one by sliced"
    )
