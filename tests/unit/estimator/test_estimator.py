"""The estimator keeps scikit-learn's conventions."""

import json

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import (
    check_estimator_repr,
    check_get_params_invariance,
    check_no_attributes_set_in_init,
    check_parameters_default_constructible,
    check_set_params,
)

import ndsm
from ndsm.cli import main
from ndsm.config import load_config
from ndsm.data import open_table
from ndsm.errors import InputError
from ndsm.runs import Run
from ndsm.workflows.setup import begin, prepare
from ndsm.workflows.train import train_locally

SETTINGS = {"max_steps": 10, "batch_rows": 50, "sample_steps": 220, "device": "cpu", "random_state": 4}
SMALL = {"data.path": "X", "train.block_mb": 0.05, "network.width": 8, "network.depth": 1}


def estimator(**settings):
    config = load_config("table-langevin", SMALL)
    return ndsm.NDSM(3, **{"config": config, **SETTINGS, **settings})


def data(d=2):
    rng = np.random.default_rng(0)
    return rng.normal(size=(300, d)) * np.arange(1, d + 1) + 5


@pytest.fixture(scope="module")
def fitted():
    return estimator().fit(data())


@pytest.mark.parametrize(
    "check",
    [check_estimator_repr, check_get_params_invariance, check_no_attributes_set_in_init, check_set_params],
)
def test_scikit_learns_cheap_checks_pass(check):
    check("NDSM", ndsm.NDSM())


def test_scikit_learn_can_construct_it_by_default():
    check_parameters_default_constructible("NDSM", ndsm.NDSM())


def test_parameters_are_read_set_and_cloned(fitted):
    model = estimator(lr=0.5)
    assert model.get_params()["lr"] == 0.5
    model.set_params(lr=0.25, n_components=7)
    copy = clone(model)
    assert copy.get_params() == model.get_params()
    assert (copy.lr, copy.n_components) == (0.25, 7)
    assert not hasattr(clone(fitted), "n_features_in_")
    with pytest.raises(ValueError, match="Invalid parameter 'learning_rate'"):
        model.set_params(learning_rate=1.0)


def test_the_same_random_state_gives_the_same_rows_and_another_gives_others(fitted):
    again = estimator().fit(data())
    np.testing.assert_array_equal(fitted.sample(20), again.sample(20))
    other = estimator(random_state=5).fit(data())
    assert not np.isclose(fitted.sample(20), other.sample(20)).all(1).any()


def test_without_a_random_state_every_fit_is_another():
    models = [estimator(random_state=None).fit(data()) for _ in range(2)]
    assert not np.array_equal(models[0].sample(5), models[1].sample(5))


def test_fitting_returns_the_estimator_and_its_attributes():
    model = estimator()
    assert model.fit(data(3)) is model
    assert model.n_features_in_ == 3
    assert model.mixture_.n_components == 3
    assert model.history_[-1]["step"] == 10
    assert model.sample(7).shape == (7, 3)
    assert np.isfinite(model.sample(7)).all()


def test_rows_come_back_in_the_units_of_the_data(fitted):
    """Columns in units 4 times smaller and 2 times larger give the same standardised rows, bit by bit."""
    units = np.array([4.0, 0.5])
    other = estimator().fit(data() * units)
    np.testing.assert_allclose(other.sample(50), fitted.sample(50) * units, rtol=1e-5)


@pytest.mark.parametrize(
    ("control_variate", "kind", "epsilon"),
    [
        (None, "ndsm", ("closed-form", 0.0)),
        (0.5, "ndsm-cv", ("constant", 0.5)),
        ("closed-form", "ndsm-cv", ("closed-form", 0.0)),
        ("learned", "ndsm-cv", ("network", 0.0)),
        (0.5, "path", ("constant", 0.5)),
        ("closed-form", "path", ("closed-form", 0.0)),
        ((1.0, 0.5), "path", ("piecewise-linear", 0.0)),
    ],
)
def test_the_objective_can_be_an_object(control_variate, kind, epsilon):
    loss = ndsm.objectives.Path if kind == "path" else ndsm.objectives.NDSM
    found = estimator(objective=loss(control_variate=control_variate))._resolve().objective
    assert (found.kind, (found.epsilon.kind, found.epsilon.value)) == (kind, epsilon)


def test_settings_of_an_objective_that_no_field_has_are_kept():
    loss = ndsm.objectives.Path(thinning=0.0)
    assert estimator(objective=loss).fit(data())._model.problem.objective is loss


def test_a_learned_control_variate_trains():
    model = estimator(objective=ndsm.objectives.NDSM(control_variate="learned")).fit(data())
    assert isinstance(model._model.problem.epsilon(), ndsm.objectives.NetworkEpsilon)


@pytest.mark.parametrize("bad", ["network", True, (0.5,)])
def test_an_unknown_control_variate_is_refused(bad):
    with pytest.raises(
        ndsm.InputError, match="expected a number, two or more of them, 'closed-form' or 'learned', found"
    ):
        ndsm.objectives.NDSM(control_variate=bad)


def test_an_objective_that_is_none_is_refused():
    with pytest.raises(ndsm.InputError, match=r"expected a name or an object .* found int"):
        estimator(objective=3).fit(data())


def test_x_is_not_modified():
    x = data().astype(np.float32)
    before = x.copy()
    x.flags.writeable = False
    estimator().fit(x)
    np.testing.assert_array_equal(x, before)


def test_sampling_before_fitting_is_refused(tmp_path):
    with pytest.raises(NotFittedError):
        estimator().sample(1)
    with pytest.raises(NotFittedError):
        estimator().save(tmp_path / "run")


def test_a_saved_model_generates_the_same_rows(fitted, tmp_path):
    fitted.save(tmp_path / "run")
    loaded = ndsm.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.sample(50), fitted.sample(50))
    assert loaded.n_features_in_ == 2
    loaded.save(tmp_path / "again")
    np.testing.assert_array_equal(ndsm.load(tmp_path / "again").sample(50), fitted.sample(50))


def test_a_saved_model_without_a_last_step_generates_the_same_rows(tmp_path):
    model = estimator(config=load_config("table-langevin", {**SMALL, "process.last_dt": None})).fit(data())
    model.save(tmp_path / "run")
    np.testing.assert_allclose(ndsm.load(tmp_path / "run").sample(50), model.sample(50), rtol=1e-5)


def test_saving_over_files_is_refused(fitted, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ndsm.InputError, match="new or empty folder"):
        fitted.save(tmp_path)
    with pytest.raises(ndsm.InputError, match="new or empty folder"):
        fitted.save(tmp_path / "file")


def test_loading_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(ndsm.InputError, match="run directory"):
        ndsm.load(tmp_path)


def test_columns_of_a_data_frame_name_the_columns_of_the_run(tmp_path):
    pandas = pytest.importorskip("pandas")
    model = estimator().fit(pandas.DataFrame(data(), columns=["height", "weight"]))
    model.save(tmp_path / "run")
    from ndsm.runs import Run

    assert list(Run(tmp_path / "run").schema().dimension_names) == ["height", "weight"]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    x = data()
    x[3, 1] = bad
    with pytest.raises(ValueError, match=r"NaN|infinity"):
        estimator().fit(x)


@pytest.mark.parametrize("x", [np.zeros(10), np.zeros((1, 2)), [["a", "b"], ["c", "d"]]])
def test_what_is_no_table_of_numbers_is_refused(x):
    with pytest.raises(ValueError, match=r"."):
        estimator().fit(x)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"max_steps": 0}, r"train\.steps.*found 0"),
        ({"lr": -1.0}, r"train\.lr.*found -1\.0"),
        ({"objective": "gan"}, r"objective\.kind.*found 'gan'"),
        ({"objective": "dsm"}, r"objective\.kind 'dsm' needs a process whose transition law is known"),
        ({"covariance_type": "round"}, r"reference\.covariance_type.*found 'round'"),
        ({"device": "tpu"}, r"train\.device.*found 'tpu'"),
        ({"random_state": "zero"}, "random_state: expected None, a whole number from 0 on, .* found 'zero'"),
        ({"random_state": -1}, "random_state: expected a whole number from 0 on, found -1"),
        ({"n_components": 1000}, r"reference\.n_components: expected at most the 300 rows"),
        ({"config": "no-such-preset"}, "no preset 'no-such-preset'"),
    ],
)
def test_bad_settings_are_value_errors_that_name_the_field(settings, sentence):
    with pytest.raises(ndsm.InputError, match=sentence):
        estimator().set_params(**settings).fit(data())


def test_no_rows_are_not_generated(fitted):
    with pytest.raises(ValueError, match="at least 1, found 0"):
        fitted.sample(0)


def test_one_column_is_enough():
    assert estimator().fit(data(1)).sample(5).shape == (5, 1)


class StandardNormal:
    """A prior: independent standard Gaussians."""

    def __init__(self, d):
        self.d = d

    def sample(self, n, generator):
        return torch.randn(n, self.d, generator=generator)


def test_a_run_with_a_drift_of_ones_own_is_resumed_and_read_with_it(tmp_path):
    """The folder holds no code: the same process reads it, and no other run is mistaken for one of its kind."""
    np.save(tmp_path / "rows.npy", data().astype(np.float32))
    fields = {**SMALL, "data.path": str(tmp_path / "rows.npy"), "train.steps": 10, "sample.steps": 50}
    config = load_config("table-langevin", fields)
    process = ndsm.Langevin(drift=lambda y, t: y, prior=StandardNormal(2), horizon=1.5)
    run = Run(tmp_path / "own")
    made = prepare(config, run, process=process)
    begin(made)
    list(train_locally(made))
    assert run.config().process.horizon == 1.5
    assert prepare(config, run, process=process).problem.spec.stamp == made.problem.spec.stamp
    model = ndsm.load(run.path, process=process)
    assert model.mixture_ is None
    assert np.isfinite(model.sample(20)).all()
    with pytest.raises(InputError, match=r"read it with ndsm\.load\(path, process=\.\.\.\)"):
        ndsm.load(run.path)
    linear = load_config("table-langevin", {**fields, "process.kind": "vp", "objective.kind": "dsm"})
    with pytest.raises(
        InputError, match=r"process\.kind: expected langevin for a process of your own, found vp"
    ):
        prepare(linear, Run(tmp_path / "linear"), process=process)
    symmetric = load_config("digits", {"data.symmetry": "c2"})
    with pytest.raises(
        InputError, match=r"data\.symmetry: expected 'none' for a process of your own, .*found 'c2'"
    ):
        prepare(symmetric, Run(tmp_path / "symmetric"), process=process)
    fitted_config = load_config("table-langevin", {**fields, "process.horizon": 1.5})
    begin(prepare(fitted_config, Run(tmp_path / "fitted")))
    with pytest.raises(InputError, match="expected a run with a process of your own, found one of a fitted"):
        prepare(fitted_config, Run(tmp_path / "fitted"), process=process)


def test_a_drift_of_ones_own_trains_with_every_simulated_objective():
    """f(y, t) = y with prior N(0, I) is the Langevin process of a standard Gaussian."""
    process = ndsm.Langevin(drift=lambda y, t: y, prior=StandardNormal(2), horizon=1.5)
    x = data(2)
    for objective in ("ndsm", "ndsm-cv", "antithetic"):
        model = estimator().set_params(process=process, objective=objective).fit(x)
        rows = model.sample(50)
        assert rows.shape == (50, 2)
        assert np.isfinite(rows).all()
        assert model.mixture_ is None
        with pytest.raises(ndsm.InputError, match="code is not saved"):
            model.save("nowhere")


@pytest.mark.parametrize(
    ("drift", "sentence"),
    [
        (lambda y, t: y[:, :1], r"drift: expected \(\d+, 2\) torch.float32 at t = 0, found \(\d+, 1\)"),
        (lambda y, t: y.double(), r"found \(\d+, 2\) torch.float64"),
        (
            lambda y, t: y.log(),
            r"expected finite trajectories, found NaN or infinity in row \d+ of block 0 at t =",
        ),
    ],
)
def test_a_wrong_drift_is_one_sentence_before_training(drift, sentence):
    process = ndsm.Langevin(drift=drift, prior=StandardNormal(2))
    with pytest.raises(ndsm.InputError, match=sentence):
        estimator().set_params(process=process).fit(data(2))


def test_a_process_of_another_dimension_is_one_sentence():
    process = ndsm.Langevin(drift=lambda y, t: y, prior=StandardNormal(3))
    with pytest.raises(
        ndsm.InputError, match=r"the data's 2 columns, found a draw of 2 rows of shape \(2, 3\)"
    ):
        estimator().set_params(process=process).fit(data(2))


def test_a_jacobian_product_may_hold_constants_of_the_rows_type():
    a = torch.tensor([[1.0, 0.2], [-0.2, 1.0]])

    def process(product):
        return ndsm.Langevin(drift=lambda y, t: y @ a, prior=StandardNormal(2), jacobian_product=product)

    process(lambda y, v, t: v @ a).check_jacobian_product()
    with pytest.raises(ndsm.InputError, match="by a finite difference of the drift"):
        process(lambda y, v, t: v @ a.T).check_jacobian_product()


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (["a", None] * 150, "expected a label for each row, found a missing one in row 2"),
        ([1.0, np.nan] * 150, "expected a label for each row, found a missing one in row 2"),
        (np.array(["a", 1] * 150, dtype=object), "expected labels of one kind"),
    ],
)
def test_labels_that_are_missing_or_of_many_kinds_are_one_sentence(labels, sentence):
    with pytest.raises(ndsm.InputError, match=sentence):
        estimator().fit(data(), labels)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ndsm.VE(horizon=0.0), "VE: expected a horizon above 0, found 0"),
        (lambda: ndsm.VE(sigma_min=2.0, sigma_max=1.0), r"found 2\.0 and 1\.0"),
        (lambda: ndsm.VP(beta_min=-1.0, beta_max=-1.0), "VP: expected 0 < beta_min <= beta_max"),
    ],
)
def test_a_linear_process_that_cannot_be_is_one_sentence(make, sentence):
    with pytest.raises(ndsm.InputError, match=sentence):
        make()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda m: m.sample(2, given={"x0": None}),
            "expected a finite value of one of x0, x1, found x0=None",
        ),
        (lambda m: m.sample(2, given={"x0": 0.0}, final="drw"), "expected 'mean' or 'draw', found 'drw'"),
        (lambda m: m.sample(2, given={"x0": 0.0}, final="draw"), "expected given alone, found a final draw"),
        (lambda m: m.reconstruct([[np.nan, 0.0]], [[0.0]]), "expected a matrix of finite numbers"),
        (
            lambda m: m.set_params(sample_steps=0).impute([[0.0, np.nan]]),
            "at least 2 evaluations of the score, found 0",
        ),
    ],
)
def test_what_cannot_be_generated_is_one_sentence(fitted, call, sentence):
    steps = fitted.sample_steps
    try:
        with pytest.raises(ndsm.InputError, match=sentence):
            call(fitted)
    finally:
        fitted.sample_steps = steps


def test_a_prior_that_cannot_be_sampled_is_refused():
    with pytest.raises(ndsm.InputError, match=r"needs a prior with sample\(n, generator\), found object"):
        ndsm.Langevin(drift=lambda y, t: y, prior=object())


def test_denoising_knows_the_posterior_of_gaussian_rows_in_their_own_units():
    """Rows N(5, (j + 1)²) in each column and a mixture of one: Y_0 given Y_t is N(5 + a (Y_t - 5), (1 - a²)(j + 1)²), a = exp(-t)
    in standardised units, to 15 % of a standard deviation for the fit."""
    rows, t, a = data(), 0.3, np.exp(-0.3)
    model = estimator(max_steps=1).set_params(n_components=1).fit(rows)
    noisy = np.array([[5.0, 5.0], [6.0, 3.0]])
    spread = np.array([1.0, 2.0])
    before = noisy.copy()
    found = model.denoise(noisy, t, rank=1)
    std = np.sqrt(1 - a**2) * spread
    np.testing.assert_array_equal(noisy, before)
    np.testing.assert_allclose((found.mean - 5 - a * (noisy - 5)) / spread, 0, atol=0.15)
    np.testing.assert_allclose(found.std / std, 1, atol=0.15)
    assert found.factors.shape == (2, 2, 1)
    assert ((found.factors**2).sum(2) <= found.std**2 + 1e-6).all()
    trained = model.fit_second_order(rows, rank=1, steps=100).denoise(noisy, t)
    np.testing.assert_allclose(trained.std / std, 1, atol=0.3)
    drawn = model.sample(50, final="draw")
    assert np.isfinite(drawn).all()
    assert not np.array_equal(drawn, model.sample(50))


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda m: m.denoise(data(3), 0.1), "X has 3 features, but NDSM is expecting 2 features"),
        (lambda m: m.denoise(data(), 9.0), "t: expected above 0 and at most 1, found 9"),
        (lambda m: m.denoise(data(), 0.1, rank=-1), "rank: expected 0 or more, found -1"),
        (lambda m: m.sample(2, final="median"), "final: expected 'mean' or 'draw', found 'median'"),
    ],
)
def test_what_cannot_be_denoised_is_one_sentence(fitted, call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call(fitted)


def test_whitened_rows_are_denoised_with_the_variance_of_their_own_columns(monkeypatch):
    """std² is the diagonal of M (diag(own) + F Fᵀ) Mᵀ for the map M from model units to the rows'."""
    from ndsm.inference.posterior import Covariance, Posterior

    rows = data() @ np.array([[1.0, 0.8], [0.0, 1.0]])
    config = load_config("table-langevin", {**SMALL, "data.whiten": "within-mode"})
    model = estimator(config=config, max_steps=1).fit(rows)
    own, factors = torch.tensor([[0.1, 0.2]]), torch.tensor([[[0.3], [-0.4]]])
    monkeypatch.setattr(Posterior, "covariance", lambda self, x, t, rank: Covariance(own, factors))
    found = model.denoise(rows[:1], 0.1)
    scaling = model._model.scaling
    m = scaling.whitening.colour * scaling.scale
    whole = m.T @ (np.diag(own[0]) + factors[0].numpy() @ factors[0].numpy().T) @ m
    np.testing.assert_allclose(found.std[0] ** 2, whole.diagonal(), rtol=1e-5)


def test_unix_seconds_keep_their_precision_from_fit_to_files(tmp_path):
    """float32 has steps of 128 there, and these lie within a few minutes: every door has to centre them in float64."""
    rng = np.random.default_rng(0)
    x = np.column_stack([1.7e9 + 60 * rng.normal(size=400), rng.normal(size=400)])
    before = x.copy()
    model = estimator(sample_steps=60).set_params(n_components=1).fit(x)
    np.testing.assert_array_equal(x, before)
    drawn = model.sample(100)
    assert drawn.dtype == np.float64
    assert 30 < drawn[:, 0].std() < 120
    assert len(np.unique(drawn[:, 0].round(2))) > 90
    near, far = model.score_samples([[1.7e9, 0.0], [1.7e9 + 150, 0.0]])
    assert near - far > 1
    assert model.impute([[1.7e9 + 1.25, np.nan]])[0, 0, 0] == 1.7e9 + 1.25
    given = model.sample(5, given={"x0": 1.7e9 + 1.25})
    assert (given[:, 0] == 1.7e9 + 1.25).all()
    noisy = np.array([[1.7e9 + 30, 0.0]])
    assert abs(model.denoise(noisy, 0.01).mean[0, 0] - 1.7e9) < 60
    kept = model.reconstruct([[1.0, 0.0]], [[1.7e9 + 30]], 0.01, 4)
    np.testing.assert_allclose(kept[:, 0, 0], 1.7e9 + 30, atol=1)
    model.save(tmp_path / "run")
    loaded = ndsm.load(tmp_path / "run")
    np.testing.assert_array_equal(loaded.sample(20), model.sample(20))
    # Whole seconds, as a column of integers gets them.
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    data["schema"]["columns"][0][1] = "int64"
    (tmp_path / "run" / "data.json").write_text(json.dumps(data))
    for out in ("s.parquet", "s.npy", "s.csv"):
        assert main(["sample", str(tmp_path / "run"), "--n", "50", "--out", str(tmp_path / out)]) == 0
        when = np.concatenate(list(open_table(tmp_path / out).batches(np.float64)))[:, 0]
        assert len(np.unique(when)) > 25
        assert (when == np.rint(when)).all()


def test_float32_rows_give_float32_rows_and_the_same_model_in_float64():
    x = data().astype(np.float32)
    narrow, wide = (estimator(max_steps=3).fit(x.astype(kind)) for kind in (np.float32, np.float64))
    assert narrow.sample(3).dtype == np.float32
    np.testing.assert_array_equal(wide.sample(3).astype(np.float32), narrow.sample(3))
