"""Columns and pairs of columns of a table, generated beside held-out."""

import numpy as np
import pytest

from ndsm.data import TableSchema
from ndsm.metrics.columns import (
    Column,
    as_written,
    column_distance,
    describe_columns,
    exactness,
    pair_differences,
)
from ndsm.metrics.resampling import bootstrap_weights


def described(values: np.ndarray, kind: str = "double") -> Column:
    return Column.of("x", kind, values, float(values.min()), float(values.max()))


def distance(column: Column, rows: np.ndarray, held_out: np.ndarray) -> tuple[float, float]:
    weights = [bootstrap_weights(len(x), 0, i) for i, x in enumerate((held_out, rows))]
    found = column_distance(column, rows, held_out, weights[1], weights[0])
    return found.value, found.se


def test_the_distance_of_numbers_is_kolmogorov_smirnovs() -> None:
    from scipy.stats import ks_2samp

    rng = np.random.default_rng(0)
    held_out, rows = rng.poisson(30, 300).astype(float), rng.poisson(33, 200).astype(float)
    value, se = distance(described(held_out), rows, held_out)
    assert value == pytest.approx(ks_2samp(rows, held_out).statistic)
    assert 0.02 < se < 0.08


def test_the_distance_of_few_values_is_total_variation() -> None:
    held_out, rows = np.repeat([0.0, 1.0, 5.0], [50, 30, 20]), np.repeat([0.0, 1.0, 2.5], [50, 10, 40])
    column = described(held_out)
    assert column.kind == "tv"
    assert distance(column, rows, held_out)[0] == pytest.approx(0.4)
    assert exactness(column, rows)["exact"] == pytest.approx(0.6)


@pytest.mark.statistical
def test_the_bootstrap_gives_the_standard_error_of_a_share() -> None:
    """The distance of a true/false column from a constant one is a share, whose standard error is √(p (1 - p) / n)."""
    rows, held_out = np.repeat([0.0, 1.0], [600, 400]), np.zeros(1000)
    column = described(np.repeat([0.0, 1.0], 50), "bool")
    value, se = distance(column, rows, held_out)
    assert value == pytest.approx(0.4)
    assert se == pytest.approx(np.sqrt(0.24 / 1000), rel=4 / np.sqrt(2 * 50))


def test_decimals_zeros_range_and_missing_cells_are_counted() -> None:
    rng = np.random.default_rng(0)
    data = np.where(rng.random(1000) < 0.3, 0.0, np.round(rng.gamma(2.0, 10.0, 1000), 2))
    # Model units are float32.
    stored = ((data - data.mean()) / data.std()).astype(np.float32) * data.std() + data.mean()
    column = described(stored)
    assert column.decimals == 2
    assert exactness(column, stored) == pytest.approx(
        {"out_of_range": 0.0, "exact": 1.0, "zeros": float((data == 0).mean()), "missing": 0.0}
    )
    generated = np.concatenate([-rng.random(250), rng.random(250) * 20, np.full(500, np.nan)])
    found = exactness(column, generated)
    assert found["out_of_range"] == pytest.approx(0.5)
    assert found["exact"] < 0.02
    assert found["zeros"] == 0.0
    assert found["missing"] == 0.5


def test_rows_are_compared_as_a_table_holds_them() -> None:
    schema = TableSchema((("whole", "int64"), ("yes", "bool"), ("real", "double")))
    rows = np.array([[1.4, 0.8, 1.4], [np.nan, 0.1, np.nan]])
    np.testing.assert_equal(as_written(rows, schema), [[1.0, 1.0, 1.4], [np.nan, 0.0, np.nan]])


def test_the_pair_whose_dependence_is_lost_is_named() -> None:
    rng = np.random.default_rng(0)

    def rows(joined: bool) -> np.ndarray:
        a, b = rng.standard_normal((2, 800))
        kind = (a if joined else rng.standard_normal(800)) > 0
        return np.column_stack([a, b, kind, a + b])

    schema = TableSchema((("a", "double"), ("b", "double"), ("kind", "bool"), ("sum", "double")))
    held_out = rows(True)
    columns = describe_columns(schema, held_out, held_out.min(0), held_out.max(0))
    good = pair_differences(columns, rows(True), held_out, np.random.default_rng(0))
    bad = pair_differences(columns, rows(False), held_out, np.random.default_rng(0))
    assert good is not None
    assert bad is not None
    assert good["largest"] < 0.15
    assert bad["pair"] == ["a", "kind"]
    assert bad["largest"] > 0.7
    assert bad["mean"] > good["mean"] + 4 * good["se"]


def test_constant_columns_have_no_dependence() -> None:
    rows = np.column_stack([np.ones(50), np.arange(50.0)])
    schema = TableSchema((("one", "double"), ("x", "double")))
    columns = describe_columns(schema, rows, rows.min(0), rows.max(0))
    assert pair_differences(columns, rows, rows, np.random.default_rng(0)) is None
