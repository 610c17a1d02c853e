"""Early stopping: rows that are held out, the weights that are kept, and where a run goes on."""

import numpy as np
import pytest
import torch
from sklearn.datasets import make_blobs

from ndsm.cli import main
from ndsm.config import load_config
from ndsm.errors import InputError
from ndsm.runs import Run
from ndsm.runs.status import status
from ndsm.simulation import held_out_rows
from ndsm.simulation.held_out_rows import draw_rows
from ndsm.training import held_out_loss
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import begin, prepare
from ndsm.workflows.train import train_locally

STEPS, PATIENCE, EVERY = 1000, 6, 20
FEW = {
    "reference.n_components": 1,
    "reference.covariance_type": "spherical",
    "network.width": 64,
    "network.depth": 2,
    "train.lr": 3e-3,
    "train.lr_schedule": "constant",
    "train.ema": 0.9,
    "train.steps": STEPS,
    "train.patience": PATIENCE,
    "train.validation_steps": EVERY,
    "train.held_out_fraction": 0.25,
    "train.batch_rows": 50,
    "train.block_mb": 0.02,
    "train.device": "cpu",
    "train.report_seconds": 1e-9,
    "evaluate.n": 50,
    "sample.steps": 20,
}


@pytest.fixture(scope="module")
def blobs(tmp_path_factory):
    """40 rows of 6 columns, whose modes the network learns first, and then the rows by heart."""
    path = tmp_path_factory.mktemp("blobs") / "blobs.npy"
    np.save(path, make_blobs(40, 6, centers=4, random_state=0)[0])
    return {**FEW, "data.path": str(path)}


def begun(path, fields):
    experiment = prepare(load_config("table", fields), Run(path))
    begin(experiment)
    return experiment


def command(out, fields, *more):
    options = [text for key, value in fields.items() for text in (f"--{key}", str(value))]
    return main(["train", "table", "--local", "--out", str(out), *options, *more])


def weights(run):
    return (run.path / "model.safetensors").read_bytes()


def test_no_example_starts_from_a_held_out_row_and_all_others_are_equally_likely():
    """Counts of a uniform draw: each within 4 standard errors of n / k, Bonferroni being far away from 35 rows."""
    held_out = held_out_rows(50, 0.3, 0)
    assert len(held_out) == 15
    drawn = draw_rows(50, 100_000, 0.3, 0, torch.Generator().manual_seed(0))
    counts = np.bincount(drawn, minlength=50)
    assert not counts[held_out].any()
    expected = 100_000 / 35
    others = np.delete(counts, held_out)
    assert np.abs(others - expected).max() < 4 * np.sqrt(expected)


def test_two_rows_are_the_fewest():
    assert len(held_out_rows(2, 0.1, 0)) == 1
    with pytest.raises(InputError, match=r"train\.patience: expected at least 2 training rows"):
        held_out_rows(1, 0.1, 0)


def test_a_network_that_learns_few_rows_by_heart_ends_with_the_weights_of_the_smallest_loss(
    tmp_path, blobs, capsys
):
    assert command(tmp_path, blobs, "--name", "early") == 0
    assert "the held-out loss has not fallen since step" in capsys.readouterr().out
    run = Run(tmp_path / "early")
    records = run.metrics_since(0)[0]
    last = records[-1]
    assert last["step"] == last["best_step"] + PATIENCE * EVERY < STEPS
    losses = {line["step"]: line["held_out_loss"] for line in records}
    at_checks = {step: loss for step, loss in losses.items() if step % EVERY == 0}
    assert min(at_checks, key=at_checks.get) == last["best_step"]
    # What is kept is the model of that step.
    experiment = prepare(load_config("table", blobs), run)
    trainer, _ = start(experiment.problem, run.find_checkpoint())
    loss = held_out_loss(experiment.problem, experiment.dataset.train, trainer)
    assert loss() == pytest.approx(at_checks[last["best_step"]], rel=1e-6)
    # The run is finished, for every command.
    assert status(run)["state"] == "finished"
    assert run.last_step() == STEPS
    before = weights(run)
    assert command(tmp_path, blobs, "--name", "early") == 0
    assert "early is complete" in capsys.readouterr().out
    assert weights(run) == before
    # More steps go on, with all of the patience.
    more = {**blobs, "train.steps": STEPS + 10 * EVERY}
    assert command(tmp_path, more, "--name", "early", "--continue") == 0
    assert run.last_step() == STEPS + 10 * EVERY
    assert run.last_metrics()["step"] >= STEPS + PATIENCE * EVERY


def test_a_run_that_was_stopped_keeps_the_weights_of_one_that_was_not(tmp_path, blobs):
    whole = begun(tmp_path / "whole", blobs)
    list(train_locally(whole))
    for _ in range(15):
        experiment = begun(tmp_path / "parts", blobs)
        for record in train_locally(experiment):
            if record.step >= experiment.run.last_step() + 70:
                experiment.run.stop_file.touch()
        if experiment.run.last_step() == STEPS:
            break
    else:
        pytest.fail("not finished")
    assert weights(experiment.run) == weights(whole.run)
