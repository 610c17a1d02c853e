"""Within-mode whitening makes long modes round, is undone exactly and is part of a run."""

import json

import numpy as np
import pytest
import torch

import ndsm
from ndsm.cli import main
from ndsm.config import Config, Data, load_config
from ndsm.data import Scaling, load
from ndsm.data.scaling import Whitening
from ndsm.errors import InputError
from ndsm.runs import Run
from ndsm.workflows.evaluate import evaluate_run
from ndsm.workflows.setup import begin, prepare
from ndsm.workflows.train import train_locally

SEPARATION = 0.8
TINY = {
    "data.name": "vectors",
    "data.whiten": "within-mode",
    "data.whiten_components": 3,
    "reference.n_components": 3,
    "network.width": 8,
    "network.depth": 1,
    "train.steps": 10,
    "train.batch_rows": 50,
    "train.block_mb": 0.02,
    "train.device": "cpu",
    "process.integrator": "exponential",
    "process.grid.steps": 30,
    "sample.sampler": "exponential",
    "sample.steps": 30,
}


def three_long_modes(n=3000):
    """Rows (n, 2) of three parallel normals, standard deviations 1 and 0.1, turned by 45°, and each row's mode."""
    rng = np.random.default_rng(0)
    mode = rng.integers(3, size=n)
    along, across = rng.standard_normal(n), 0.1 * rng.standard_normal(n) + SEPARATION * (mode - 1)
    turned = np.stack([along - across, along + across], 1) / np.sqrt(2)
    return (100 + turned * [1.0, 20.0]).astype(np.float32), mode


def pooled_covariance(x, mode):
    x = x.astype(np.float64)
    centres = np.stack([x[mode == k].mean(0) for k in range(mode.max() + 1)])
    residuals = x - centres[mode]
    return residuals.T @ residuals / len(x)


def make_table(folder, rows):
    path = folder / "rows.npy"
    np.save(path, rows)
    return path


@pytest.fixture
def table(tmp_path):
    return make_table(tmp_path, three_long_modes()[0])


def whitened(path, seed=0, **more):
    return load(Data(name="vectors", path=path, whiten="within-mode", whiten_components=3, **more), seed)


def test_long_parallel_modes_become_round_and_the_mean_variance_stays_1(table):
    data = whitened(table, validation_fraction=0.0)
    original = data.scaling.invert(data.train)
    # The modes are told apart across the long axis, whatever the units.
    across = ((original - 100) / [1.0, 20.0]) @ [-1.0, 1.0] / np.sqrt(2)
    mode = np.rint(across / SEPARATION).astype(int) + 1
    within = pooled_covariance(data.train, mode)
    variances = np.linalg.eigvalsh(within)
    assert variances[1] / variances[0] < 1.15
    assert data.train.var(axis=0, dtype=np.float64).mean() == pytest.approx(1.0, rel=1e-5)
    plain = load(Data(name="vectors", path=table, validation_fraction=0.0), seed=0)
    before = np.linalg.eigvalsh(pooled_covariance(plain.train, mode))
    assert before[1] / before[0] > 10


def test_whitening_is_undone_and_leaves_the_split_alone(table):
    plain = load(Data(name="vectors", path=table, standardize=False), seed=3)
    data = whitened(table, seed=3)
    assert data.train.dtype == np.float32
    assert data.train.base is data.validation.base
    for rows, before in ((data.train, plain.train), (data.validation, plain.validation)):
        np.testing.assert_allclose(data.scaling.invert(rows), before, rtol=1e-5)
    standard = load(Data(name="vectors", path=table), seed=3)
    np.testing.assert_allclose(data.scaling.standardised(data.train), standard.train, atol=1e-5)
    assert data.stamp == standard.stamp


def test_whitening_in_chunks_equals_whitening_at_once(monkeypatch):
    x = np.random.default_rng(1).normal(1e3, 2.0, size=(1001, 3))
    scaling = Scaling(x.mean(0), x.std(0), Whitening(np.diag([3.0, 1.0, 0.5]) + 0.2))
    expected = np.linalg.solve(scaling.whitening.colour, ((x - scaling.mean) / scaling.scale).T).T
    monkeypatch.setattr("ndsm.data.scaling.CHUNK_VALUES", 30)
    there = scaling.apply(x)
    np.testing.assert_allclose(there, expected, atol=1e-6)
    np.testing.assert_allclose(scaling.invert(there), x, rtol=1e-8)


def test_json_keeps_every_bit_and_older_json_has_no_matrix(table):
    scaling = whitened(table).scaling
    again = Scaling.from_json(json.loads(json.dumps(scaling.to_json())))
    assert (again.whitening.colour == scaling.whitening.colour).all()
    assert (again.mean == scaling.mean).all()
    older = {"mean": [1.0, 2.0], "scale": [3.0, 4.0]}
    plain = Scaling.from_json(older)
    assert plain.whitening is None
    assert plain.to_json() == older
    assert (plain.invert(np.ones((1, 2))) == [[4.0, 6.0]]).all()


def test_a_known_scaling_is_used_and_not_fitted_again(table):
    config = Data(name="vectors", path=table, whiten="within-mode")
    known = Scaling(np.zeros(2), np.ones(2), Whitening(2 * np.eye(2)))
    plain = load(Data(name="vectors", path=table, standardize=False), seed=0)
    data = load(config, 0, known)
    assert data.scaling is known
    np.testing.assert_allclose(data.train, plain.train / 2, rtol=1e-6)
    with pytest.raises(InputError, match=r"rows\.npy: expected 5 columns as when the run was begun, found 2"):
        load(config, 0, Scaling.identity(5))


def test_constant_pixels_stay_constant():
    data = load(Data(name="digits", whiten="within-mode"), seed=0)
    assert (data.train[:, 0] == 0).all()
    pixels = data.scaling.invert(data.train)
    np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-4)


def test_what_cannot_be_whitened_is_one_sentence(tmp_path):
    rng = np.random.default_rng(0)
    few = make_table(tmp_path, rng.normal(size=(4, 2)))
    with pytest.raises(InputError, match=r"data\.whiten_components: expected fewer than the 3 .*, found 3"):
        whitened(few, validation_fraction=0.25)
    constant = make_table(tmp_path, np.stack([rng.normal(size=50), np.ones(50)], 1))
    with pytest.raises(InputError, match=r"rows\.npy: column 'x\[1\]' is constant"):
        whitened(constant)
    two_values = make_table(tmp_path, np.stack([rng.normal(size=50), np.arange(50) % 2], 1))
    with pytest.raises(
        InputError, match=r"'x\[1\]' is constant within each of data\.whiten_components 3 modes"
    ):
        whitened(two_values)
    repeated = make_table(tmp_path, np.repeat(rng.normal(size=(3, 2)), 20, axis=0))
    with pytest.raises(InputError, match=r"'x\[0\]' is constant within each"):
        whitened(repeated)
    wide = make_table(tmp_path, rng.normal(size=(9, 1025)))
    with pytest.raises(InputError, match=r"at most 1024 dimensions, found 1025 in .*rows\.npy"):
        whitened(wide)


def test_whitening_needs_standardised_rows():
    with pytest.raises(InputError, match=r"data\.whiten 'within-mode' .*data\.standardize true, found false"):
        Config(data=Data(whiten="within-mode", standardize=False))


def test_a_run_is_resumed_evaluated_and_sampled_in_original_units(table, tmp_path):
    torch.set_num_threads(1)
    config = load_config("table-langevin", {**TINY, "data.path": str(table)})
    run = Run(tmp_path / "run")
    experiment = prepare(config, run)
    begin(experiment)
    list(train_locally(experiment))
    assert (prepare(config, run).dataset.train == experiment.dataset.train).all()
    assert evaluate_run(run, 300)["swd2"] < 1.0
    assert main(["sample", str(run.path), "--n", "500", "--out", str(tmp_path / "new.npy")]) == 0
    new = np.load(tmp_path / "new.npy")
    rows, _ = three_long_modes()
    assert new.mean(0) == pytest.approx(rows.mean(0), abs=4.0)
    assert new.std(0) == pytest.approx(rows.std(0), rel=0.5)
    assert np.corrcoef(new.T)[0, 1] > 0.2


def test_the_estimator_whitens_as_its_configuration_says():
    rows, _ = three_long_modes(1000)
    fields = {k: v for k, v in TINY.items() if k != "data.name"}
    config = load_config("table-langevin", {**fields, "data.path": "X"})
    model = ndsm.NDSM(3, config=config, max_steps=10, random_state=0, device="cpu").fit(rows)
    assert model._model.scaling.whitening is not None
    new = model.sample(300)
    assert new.mean(0) == pytest.approx(rows.mean(0), abs=4.0)
