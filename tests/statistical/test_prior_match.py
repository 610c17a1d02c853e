"""Whether the noised data end in the prior: no alarm where they do, one where the horizon or the prior is wrong."""

import json

import numpy as np
import pytest
import torch

import ndsm
from ndsm.config import load_config
from ndsm.core.rng import numpy_stream, torch_stream
from ndsm.mixture import GaussianMixture
from ndsm.processes import Langevin
from ndsm.training import fit_mixture, make_problem
from ndsm.workflows.prior_match import prior_match, prior_warning
from ndsm.workflows.setup import build_problem

pytestmark = pytest.mark.statistical


def config(**fields):
    return load_config(
        "table-langevin", {"data.path": "x", **{k.replace("__", "."): v for k, v in fields.items()}}
    )


def two_modes(n=4000):
    """Rows of variance 1 at two places."""
    rng = numpy_stream(0, "modes")
    x = rng.choice([-1.0, 1.0], (n, 1)) + 0.3 * rng.normal(size=(n, 1))
    return ((x - x.mean()) / x.std()).astype(np.float32)


@pytest.mark.parametrize("horizon", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("covariance_type", ["spherical", "full"])
def test_data_of_the_mixture_match_it_at_every_horizon(covariance_type, horizon, random_mixture):
    """The mixture is stationary: the distance is that between draws of the mixture, and nothing is said."""
    mixture = random_mixture(covariance_type, 3, 2, dtype=torch.float32)
    rows = mixture.sample(20_000, torch_stream(1, "rows")).numpy()
    found = prior_match(build_problem(config(process__horizon=horizon), mixture, "rows"), rows)
    assert prior_warning(found) is None
    assert found["prior_match"] < 2.5 * found["prior_match_floor"]


@pytest.mark.parametrize(("horizon", "warned"), [(0.1, True), (3.0, False)])
def test_one_gaussian_on_two_modes_needs_time(horizon, warned):
    """Noising by N(0, 1) keeps exp(-T) of each mode's distance: a lot at T = 0.1, a twentieth at T = 3."""
    rows, setting = two_modes(), config(process__horizon=horizon, reference__n_components=1)
    found = prior_match(build_problem(setting, fit_mixture(setting, rows), "rows"), rows)
    assert (prior_warning(found) is not None) == warned


@pytest.mark.parametrize(("horizon", "warned"), [(0.1, True), (1.0, False)])
def test_a_linear_process_needs_its_time(horizon, warned):
    """β of eq. 23 to a tenth of its time leaves most of the data."""
    fields = {"process__kind": "vp", "process__horizon": horizon, "process__beta_max": 20 * horizon}
    rows, setting = two_modes(), config(**fields)
    found = prior_match(build_problem(setting, fit_mixture(setting, rows), "rows"), rows)
    assert (prior_warning(found) is not None) == warned


@pytest.mark.parametrize(("variance", "warned"), [(0.5, False), (2.0, True)])
def test_a_drift_of_ones_own_with_a_wrong_prior_is_told(variance, warned):
    """dY = -2 Y dt + sqrt(2) dW ends in N(0, 1/2)."""
    prior = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.tensor([variance]), dtype=torch.float32)
    process = Langevin(drift=lambda y, t: 2.0 * y, prior=prior, horizon=2.0)
    found = prior_match(make_problem(config(process__horizon=2.0), process, 1, "rows"), two_modes())
    assert (prior_warning(found) is not None) == warned


def test_it_is_said_before_training_and_kept_with_the_metrics(tmp_path, capsys):
    from ndsm.cli import main

    rows = tmp_path / "rows.npy"
    np.save(rows, two_modes(400))
    setting = {
        "process.horizon": 0.1, "process.grid.steps": 20, "reference.n_components": 1, "train.steps": 2, "sample.steps": 30,
        "evaluate.n": 50, "network.width": 8, "train.block_mb": 0.02,
    }  # fmt: skip
    args = [a for name, value in setting.items() for a in (f"--{name}", str(value))]
    main(
        [
            "train",
            "table-langevin",
            "--local",
            "--name",
            "short",
            "--out",
            str(tmp_path),
            "--data.path",
            str(rows),
            *args,
        ]
    )
    said = capsys.readouterr().err
    assert said.index("warning: the noised data are not close to the prior") < said.index(
        "waiting for rollouts"
    )
    metrics = json.loads((tmp_path / "short" / "metrics.json").read_text())
    assert metrics["prior_match"] > metrics["prior_match_bound"] > metrics["prior_match_floor"]
    assert (
        "Warning: the noised data are not close to the prior"
        in (tmp_path / "short" / "report.html").read_text()
    )
    small = load_config("table-langevin", {"data.path": "x", **setting})
    with pytest.warns(UserWarning, match="the noised data are not close to the prior"):
        ndsm.NDSM(1, config=small, random_state=0).fit(two_modes(400))
