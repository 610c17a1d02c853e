"""Runs with linear noising: what their evaluation holds of the likelihood, and noise scales that follow the data."""

import numpy as np
import pytest
from scipy.spatial.distance import pdist

from ndsm.config import load_config
from ndsm.errors import InputError
from ndsm.runs import Run
from ndsm.workflows.evaluate import evaluate_run
from ndsm.workflows.setup import begin, build_problem, prepare
from ndsm.workflows.train import train_locally
from ndsm.workflows.trained_model import TrainedModel

VE = {
    "process": {"kind": "ve", "horizon": 1.0, "sigma_min": 0.02, "sigma_max": None, "grid": {"steps": 40}},
    "objective": {"kind": "dsm"},
    "network.width": 16,
    "network.depth": 2,
    "data.n": 300,
    "train.steps": 20,
    "train.block_mb": 0.1,
    "sample": {"sampler": "annealed", "steps": 40},
}


@pytest.fixture(scope="module", name="trained")
def _trained(tmp_path_factory):
    run = Run(tmp_path_factory.mktemp("runs") / "ve")
    experiment = prepare(load_config("toy-arcs", VE), run)
    begin(experiment)
    for _ in train_locally(experiment):
        pass
    return run, experiment


def test_the_largest_noise_scale_is_the_largest_distance_of_the_data(trained):
    """Technique 6.1: what `process.sigma_max null` stands for, when the run is begun and when it is read."""
    run, experiment = trained
    expected = pdist(experiment.dataset.train).max()
    process = experiment.problem.process
    assert process.sigma_max == pytest.approx(expected, rel=1e-5)
    assert process.noise_scale(1.0) == pytest.approx(expected, rel=1e-3)
    assert run.config().process.sigma_max is None
    again = build_problem(run.config(), run.mixture(), run.data()["fingerprint"])
    assert again.process.sigma_max == process.sigma_max
    # The same configuration resumes the run.
    assert prepare(load_config("toy-arcs", VE), run).problem.process.sigma_max == process.sigma_max
    assert np.isfinite(TrainedModel.of(run).all_rows(20, 0)).all()


def test_rows_closer_than_the_smallest_noise_scale_are_refused(tmp_path):
    fields = VE | {"process": VE["process"] | {"sigma_min": 50.0}}
    with pytest.raises(InputError, match="expected rows farther apart than process"):
        prepare(load_config("toy-arcs", fields), Run(tmp_path / "run"))


def test_an_evaluation_bounds_the_likelihood_of_validation_rows(trained):
    """As `ndsm score --bound` would, whose mean over the same rows it is."""
    run, experiment = trained
    metrics = evaluate_run(run, 100, experiment.dataset)
    rows = experiment.dataset.scaling.invert(experiment.dataset.validation)
    found = TrainedModel.of(run).log_density(rows, bound=200, seed=1).log_prob
    error = 4 * np.hypot(metrics["log_prob_bound_se"], found.std() / len(found) ** 0.5)
    assert metrics["log_prob_bound"] == pytest.approx(found.mean(), abs=error)
    bits = -metrics["log_prob_bound"] / 2 / np.log(2)
    assert metrics["bits_per_dim_bound"] == pytest.approx(bits)
    assert run.evaluation()["log_prob_bound"] == metrics["log_prob_bound"]
