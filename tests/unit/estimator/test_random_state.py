"""Random states as scikit-learn's mixtures have them: repeated by a whole number, moved on by a generator, else fresh."""

import numpy as np
import pytest
from quick_estimator import quick_estimator

import ndsm
from ndsm.cli import main
from ndsm.core.rng import draw_seed
from ndsm.errors import InputError

X = np.random.default_rng(0).normal(size=(200, 2))
HOLES = np.where([[True, False]] * 4, np.nan, X[:4])
DRAWS = {
    "sample": lambda model, **state: model.sample(5, **state),
    "given": lambda model, **state: model.sample(5, given={"x0": 0.5}, **state),
    "impute": lambda model, **state: model.impute(HOLES, 2, **state),
    "reconstruct": lambda model, **state: model.reconstruct([[1.0, 0.0]], [[0.3]], 0.1, 2, **state),
}


def fit(random_state):
    return quick_estimator(max_steps=3, random_state=random_state).fit(X)


@pytest.fixture(scope="module")
def model():
    return fit(3)


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_a_whole_number_repeats_the_rows_a_generator_moves_on_and_none_is_fresh(model, draw):
    fixed = draw(model)
    np.testing.assert_array_equal(draw(model), fixed)
    np.testing.assert_array_equal(draw(model, random_state=np.int32(3)), fixed)
    for make in (np.random.RandomState, np.random.default_rng):
        state = make(0)
        first, second = draw(model, random_state=state), draw(model, random_state=state)
        assert not np.array_equal(first, second)
        np.testing.assert_array_equal(draw(model, random_state=make(0)), first)
    model.set_params(random_state=None)
    try:
        assert not np.array_equal(draw(model), draw(model))
        np.testing.assert_array_equal(draw(model, random_state=3), fixed)
    finally:
        model.set_params(random_state=3)


def test_fitting_takes_every_random_state_and_leaves_numpys_global_one_alone():
    before = np.random.get_state()[1].copy()
    first = fit(None)
    assert not np.array_equal(first.sample(5), first.sample(5))
    np.testing.assert_array_equal(np.random.get_state()[1], before)
    state = np.random.default_rng(1)
    model = fit(state)
    assert model.get_params()["random_state"] is state
    assert not np.array_equal(model.sample(5), model.sample(5))
    assert model.config_.train.seed == fit(np.random.default_rng(1)).config_.train.seed


@pytest.mark.parametrize(
    ("random_state", "repeats"), [(None, False), (7, True), (np.random.RandomState(0), False)]
)
def test_a_loaded_model_repeats_its_rows_only_if_it_was_fitted_with_a_whole_number(
    random_state, repeats, tmp_path
):
    fit(random_state).save(tmp_path / "run")
    loaded = ndsm.load(tmp_path / "run")
    assert np.array_equal(loaded.sample(5), loaded.sample(5)) == repeats


def test_a_whole_number_gives_the_rows_of_the_command_line(model, tmp_path):
    model.save(tmp_path / "run")
    out = tmp_path / "rows.npy"
    assert (
        main(["sample", str(tmp_path / "run"), "--n", "6", "--seed", "11", "--out", str(out), "--quiet"]) == 0
    )
    np.testing.assert_array_equal(np.load(out), model.sample(6, random_state=11))


def test_seeds_are_drawn_from_63_bits():
    state = np.random.default_rng(0)
    seeds = [draw_seed(state) for _ in range(20)]
    assert len(set(seeds)) == 20
    assert 2**60 < max(seeds) < 2**63
    assert draw_seed(2**40) == 2**40
    np.random.seed(0)
    first = draw_seed(np.random)
    assert first == draw_seed(np.random.RandomState(0))


@pytest.mark.parametrize("wrong", [-1, 1.5, "zero", [1]])
def test_what_is_no_random_state_is_one_sentence(model, wrong):
    with pytest.raises(InputError, match="random_state: expected"):
        model.sample(2, random_state=wrong)


@pytest.mark.parametrize("wrong", [0, -1, 2.5, "3"])
def test_a_number_of_rows_that_is_none_is_one_sentence(model, wrong):
    with pytest.raises(InputError, match="n_samples: expected a whole number of at least 1, found"):
        model.sample(wrong)
