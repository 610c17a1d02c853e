"""The report: its numbers mean what they say, and what a run does not have is said, not guessed."""

import html
import json
import re
import shlex
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

import ndsm
from ndsm.cli import main
from ndsm.report.evaluation import verdict
from ndsm.report.page import build_report
from ndsm.runs import Run
from ndsm.workflows.diagnosis import diagnosis_rows, epsilon_curve, nearest_rows, time_profile
from ndsm.workflows.evaluate import evaluate_run
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import build_problem

TINY = {
    "data.n": 600, "network.width": 8, "network.depth": 1, "train.steps": 20, "train.batch_rows": 50,
    "train.block_mb": 0.02, "train.report_seconds": 1e-9, "evaluate.n": 300, "sample.steps": 90, "reference.reg_covar": 0.1,
    "objective.kind": "ndsm-cv",
}  # fmt: skip


@pytest.fixture(scope="module")
def experiment(tmp_path_factory, train_arcs):
    """A short run on arcs, finished and evaluated."""
    run = Run(tmp_path_factory.mktemp("runs") / "arcs")
    experiment = train_arcs(run, TINY)
    evaluate_run(run, dataset=experiment.dataset)
    return experiment


@pytest.fixture
def run(experiment, tmp_path):
    return Run(shutil.copytree(experiment.run.path, tmp_path / "arcs"))


def test_near_share_is_five_percent_of_true_rows_and_all_of_copies(experiment):
    """Held-out rows against other rows of the same law: a binomial share of mean 0.05, within 4 standard errors."""
    dataset, k = experiment.dataset, len(experiment.dataset.validation)
    toy, scaling = dataset.toy, dataset.scaling
    points, _ = toy.sample(k, np.random.default_rng(5))
    fresh = ((points - scaling.mean) / scaling.scale).astype(np.float32)
    # The 5 % quantile of k rows has itself the variance of a share of k rows.
    error = (0.05 * 0.95 * 2 / k) ** 0.5
    assert abs(nearest_rows(dataset, fresh).near_share - 0.05) < 4 * error
    copies = nearest_rows(dataset, dataset.train[:50])
    assert copies.near_share == 1.0
    np.testing.assert_array_equal(copies.index, np.arange(50))


def test_without_held_out_rows_a_training_row_is_not_its_own_nearest(experiment):
    alone = replace(experiment.dataset, validation=experiment.dataset.validation[:0])
    found = nearest_rows(alone, alone.train[:50])
    assert not found.held_out
    assert (found.true > 0).all()


def test_profile_splits_the_loss_and_the_closed_form_beats_what_was_trained(experiment):
    problem = build_problem(experiment.config, experiment.mixture, experiment.fingerprint)
    trainer, _ = start(problem, experiment.run.find_checkpoint())
    rows = diagnosis_rows(problem, experiment.dataset.train, torch.device("cpu"))
    profile = time_profile(trainer, rows)
    assert np.mean(profile.loss) == pytest.approx(float(trainer.loss(rows)), rel=1e-4)
    assert profile.times[0][0] == pytest.approx(float(rows["t"].min()))
    assert all(early[1] <= late[0] for early, late in pairwise(profile.times))
    moments = trainer.gradient_moments(rows)
    curve = epsilon_curve(trainer, problem, rows)
    best = np.interp(rows["t"].numpy(), curve.t, curve.closed_form)
    assert moments.variance(torch.from_numpy(best)) < moments.variance(torch.full_like(rows["t"], 0.5))


def test_report_tells_what_is_missing(run):
    (run.path / "metrics.json").unlink()
    (run.path / "samples.png").unlink()
    (run.path / "examples.safetensors").unlink()
    shutil.rmtree(run.path / "checkpoints")
    (run.path / "metrics.jsonl").unlink()
    (run.path / "versions.json").unlink()
    markup = build_report(run)
    for words in (
        "Not evaluated yet",
        "Fewer than two lines",
        "no checkpoint",
        "No generated rows",
        "Not noted",
    ):
        assert words in markup


def test_changed_data_are_not_used(run):
    path = run.path / "data.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "fingerprint": "other"}))
    assert build_report(run).count("The data have changed since the run was begun") == 2


@pytest.mark.parametrize(
    ("model", "prior", "floor", "words"),
    [
        (0.5, 3.0, 1.0, "cannot be told from true data"),
        (4.0, 3.0, 1.0, "No better than the mixture alone"),
        (1.5, 3.0, 1.0, "75% of the way"),
        (1.5, 0.9, 1.0, "cannot judge"),
        (None, 3.0, 1.0, "No distance"),
    ],
)
def test_verdict_compares_with_mixture_and_floor(model, prior, floor, words):
    assert words in verdict({"swd2": model, "swd2_floor": floor, "prior": {"swd2": prior}})


def test_the_command_on_the_page_gives_the_same_weights(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = html.unescape(re.search(r"<code>(ndsm train .*)</code>", build_report(run))[1])
    assert main([*shlex.split(command)[1:], "--local", "--quiet"]) == 0
    for name in ("model.safetensors", "model-raw.safetensors"):
        again = tmp_path / "runs" / "arcs-again" / name
        assert again.read_bytes() == (run.path / name).read_bytes()


def test_a_model_of_an_array_says_where_it_was_fitted(tmp_path):
    rows = np.random.default_rng(0).normal(size=(60, 2))
    ndsm.NDSM(2, max_steps=2, random_state=0).fit(rows).save(tmp_path / "mine")
    page = build_report(Run(tmp_path / "mine"))
    assert "Fitted in Python" in page
    assert "ndsm train" not in page


def test_report_command_writes_the_page(run, capsys):
    assert main(["report", str(run.path)]) == 0
    assert capsys.readouterr().out.strip() == str(run.report_html)
    markup = run.report_html.read_text(encoding="utf-8")
    assert "ndsm train" in markup
    assert f"{run.evaluation()['swd2']:.4g}" in markup
    assert main(["report", str(run.path / "nothing")]) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_trained_on_a_gpu_is_reported_where_there_is_none(run):
    config = run.path / "config.yaml"
    text = config.read_text(encoding="utf-8")
    config.write_text(text.replace("device: auto", "device: cuda"), encoding="utf-8")
    assert run.config().train.device == "cuda"
    assert "Gradient variance by time" in build_report(run)
