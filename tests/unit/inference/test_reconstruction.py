"""Rows given linear measurements in the data's own units, by the estimator, and the sentences for bad input."""

import numpy as np
import pytest
import torch

import ndsm
from ndsm.config import load_config
from ndsm.errors import InputError
from ndsm.inference.guidance import Operator, mask

A = np.array([[1.0, 0.1, 0.0]])
EXPONENTIAL = {"process.integrator": "exponential", "process.grid.steps": 20, "sample.sampler": "exponential"}


def rows(n):
    """x1 = 30 x0 + noise, far from standard units; x2 on its own."""
    x = np.random.default_rng(0).normal(size=(n, 3)) * [1, 0.3, 1]
    x[:, 1] += 3 * x[:, 0]
    return x * [1, 10, 5] + [100, 0, 7]


def fitted(X, **fields):
    small = {"network.width": 16, **fields}
    return ndsm.NDSM(
        2, covariance_type="full", max_steps=20, sample_steps=40, random_state=0,
        config=load_config("table-langevin", small),
    ).fit(X)  # fmt: skip


@pytest.fixture(scope="module", name="model")
def _model():
    return fitted(rows(400), **EXPONENTIAL)


@pytest.mark.parametrize("method", ["moment-matched", "projection"])
def test_rows_agree_with_measurements_in_the_units_of_the_data(model, method):
    """A x = x0 + 0.1 x1 = 104: with x1 = 30 (x0 - 100) up to a standard deviation of 3, x0 = 101 and x1 = 30."""
    y = np.array([[104.0], [100.0]])
    drawn = model.reconstruct(A, y, 0.01, 60, method=method)
    assert drawn.shape == (60, 2, 3)
    assert drawn.dtype == np.float64
    np.testing.assert_allclose(drawn @ A[0], np.broadcast_to(y[:, 0], (60, 2)), atol=0.6)
    assert abs(drawn[:, 0, 0].mean() - 101) < 0.2
    assert abs(drawn[:, 1, 0].mean() - 100) < 0.2
    assert drawn[:, 0, 2].std() > 2
    assert (model.reconstruct(A, y, 0.01, 60, method=method) == drawn).all()


def test_whitened_rows_are_measured_as_they_are():
    """The operator takes the whitening in: exact measurements are met."""
    model = fitted(rows(400), **{"data.whiten": "within-mode", "data.whiten_components": 2, **EXPONENTIAL})
    y = np.array([[103.0, 5.0]])
    both = np.vstack([A, [0, 0, 1]])
    drawn = model.reconstruct(both, y, 0.0, 20, method="projection")
    np.testing.assert_allclose(drawn @ both.T, np.broadcast_to(y, (20, 1, 2)), rtol=1e-4, atol=1e-3)


def test_rows_noised_by_components_are_measured_in_the_units_of_the_data():
    """x is 0 or 100, and x1 = 3 x0 + noise: what is measured tells the component."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 2)) + 100 * (np.arange(400) % 2)[:, None] * [1, 0]
    x[:, 1] += 3 * (x[:, 0] - x[:, 0].round(-2))
    model = ndsm.NDSM(
        2,
        covariance_type="full",
        objective="dsm",
        max_steps=20,
        sample_steps=60,
        random_state=0,
        config="table",
    ).fit(x)
    y = np.array([[101.0], [-0.5]])
    for method in ("moment-matched", "projection"):
        drawn = model.reconstruct([[1.0, 0.0]], y, 0.01, 50, method=method)
        assert drawn.shape == (50, 2, 2)
        np.testing.assert_allclose(drawn[..., 0], np.broadcast_to(y[:, 0], (50, 2)), atol=0.3)
        if method == "moment-matched":
            np.testing.assert_allclose(drawn[..., 1].mean(0), [3.0, -1.5], atol=0.8)
    assert (model.reconstruct([[1.0, 0.0]], y, 0.01, 50, method=method) == drawn).all()


def test_linear_noising_and_a_drift_of_ones_own_are_reconstructed_too():
    X = rows(300)
    linear = fitted(X, **{"process.kind": "vp", "process.horizon": 1.0, "objective.kind": "dsm"})
    normal = ndsm.GaussianMixture(torch.ones(1), torch.zeros(1, 3), torch.ones(1))
    own = ndsm.NDSM(
        process=ndsm.Langevin(drift=lambda y, t: y, prior=normal, horizon=2.0), max_steps=20, sample_steps=40,
        random_state=0, config=load_config("table-langevin", {"network.width": 16}),
    ).fit(X)  # fmt: skip
    kept = mask(torch.tensor([True, False, False]))
    for model in (linear, own):
        drawn = model.reconstruct(kept, np.full((5, 1), 100.5), 0.0, 2)
        assert np.isfinite(drawn).all()
        np.testing.assert_allclose(drawn[..., 0], 100.5, atol=0.05)
    with pytest.raises(InputError, match="expected a process with a mixture, found a drift without one"):
        own.reconstruct(kept, np.ones((1, 1)), method="moment-matched")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"A": np.ones((1, 2))}, r"operator: expected a matrix \(1, 3\) .* found \(1, 2\)"),
        ({"A": np.ones(3)}, r"operator: expected a matrix \(m, d\), found shape \(3,\)"),
        ({"y": np.ones((4, 2))}, r"operator: expected a matrix \(2, 3\) for measurements \(4, 2\)"),
        ({"noise": -1.0}, "noise: expected a standard deviation of 0 or more, .* found -1.0"),
        ({"noise": np.ones(2)}, r"one for each of the 1 measurements, found shape \(2,\) from 1 to 1"),
        ({"n_draws": 0}, "n_draws: expected at least 1, found 0"),
        ({"method": "projected"}, "method: expected 'moment-matched' or 'projection', found 'projected'"),
        ({"strength": 2.0, "method": "projection"}, r"expected a strength from 0 to 1, found 2\.0"),
    ],
)
def test_what_cannot_be_reconstructed_is_one_sentence(model, given, message):
    with pytest.raises(InputError, match=message):
        model.reconstruct(**{"A": Operator(torch.from_numpy(A)), "y": np.ones((4, 1)), "noise": 0.1, **given})
