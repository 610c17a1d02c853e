"""Trees that tell generated from held-out rows, and the share of copied rows."""

import numpy as np
import pytest

from ndsm.metrics.copies import copies
from ndsm.metrics.two_sample import macro_f1, told_apart, train_on_generated


@pytest.mark.statistical
@pytest.mark.parametrize("n", [60, 400])
def test_rows_of_one_law_cannot_be_told_apart(n: int) -> None:
    """Under equal laws the area under the curve is 1/2 up to its standard error."""
    rng = np.random.default_rng(1)
    found = told_apart(rng.standard_normal((n, 3)), rng.standard_normal((n, 3)), 0)
    assert abs(found.auc.value - 0.5) < 4 * found.auc.se
    assert 0.2 / np.sqrt(n) < found.auc.se < 1.0 / np.sqrt(n)


@pytest.mark.statistical
def test_trees_see_dependence_that_every_column_hides() -> None:
    """Columns with the right marginals and no dependence have an area above 1/2, by more than 4 standard errors."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal(600)
    true = np.column_stack([x, x + 0.3 * rng.standard_normal(600)])
    apart = np.column_stack([rng.permutation(x), true[:, 1]])
    found = told_apart(apart, true, 0)
    assert found.auc.value - 0.5 > 4 * found.auc.se
    assert found.accuracy > 0.7


def test_the_larger_sample_is_cut_to_the_smaller_one() -> None:
    rng = np.random.default_rng(0)
    generated, held_out = rng.standard_normal((200, 2)), rng.standard_normal((40, 2))
    found = told_apart(generated, held_out, 0)
    assert found.n == 40
    assert found.to_json() == told_apart(generated[:40], held_out, 0).to_json()


def test_missing_cells_are_a_value() -> None:
    """What only lacks the data's missing cells is told apart."""
    rng = np.random.default_rng(0)
    true, generated = rng.standard_normal((2, 300, 2))
    true[rng.random(300) < 0.5, 0] = np.nan
    assert told_apart(generated, true, 0).auc.value > 0.7


@pytest.mark.statistical
@pytest.mark.parametrize("d", [3, 40])
def test_rows_of_the_same_law_are_no_copies(d: int) -> None:
    """Generated rows that know nothing of single rows are nearest to a training row with probability 1/2."""
    rng = np.random.default_rng(0)
    generated, train, held_out = (rng.standard_normal((n, d)) for n in (1000, 3000, 400))
    found = copies(generated, train, held_out, 0)
    assert found.n == 400
    assert abs(found.share - 0.5) < 4 * found.se


@pytest.mark.statistical
def test_the_standard_error_of_copies_holds_where_many_rows_share_a_neighbour() -> None:
    """Over data sets, the share of a generator of one point has standard deviation 1/2, and so says its standard error."""
    rng = np.random.default_rng(0)
    point = np.zeros((200, 2))
    found = [copies(point, *rng.standard_normal((2, 50, 2)), 0) for _ in range(40)]
    assert {round(f.share, 6) for f in found} == {0.0, 1.0}
    assert all(0.45 < f.se < 0.55 for f in found)


def test_copied_rows_are_found() -> None:
    rng = np.random.default_rng(0)
    train, held_out = rng.standard_normal((2, 500, 4))
    generated = train[:400] + 1e-3 * rng.standard_normal((400, 4))
    assert copies(generated, train, held_out, 0).share == 1.0
    # The same row in both counts half.
    assert copies(train, train, train, 0).share == 0.5


def test_macro_f1_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    labels, told = rng.integers(0, 4, (2, 200))
    assert macro_f1(labels, told) == pytest.approx(f1_score(labels, told, average="macro"))


def test_what_generated_rows_teach_about_labels() -> None:
    rng = np.random.default_rng(0)

    def rows(n: int, shuffled: bool = False) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.integers(0, 3, n)
        x = rng.standard_normal((n, 2)) * 0.3 + labels[:, None]
        return x, rng.permutation(labels) if shuffled else labels

    good = train_on_generated(rows(300), rows(400), rows(200), 0)
    bad = train_on_generated(rows(300, shuffled=True), rows(400), rows(200), 0)
    assert good is not None
    assert bad is not None
    assert good["real_f1"] > 0.8
    assert abs(good["f1"] - good["real_f1"]) < 4 * good["se"]
    assert bad["real_f1"] - bad["f1"] > 4 * bad["se"]
    one = rows(300)[0], np.zeros(300, dtype=int)
    assert train_on_generated(one, rows(300), rows(300), 0) is None
