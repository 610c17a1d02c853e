"""`ndsm status`, the lock behind it, and the scalars for TensorBoard: what the files of a run tell."""

import json
import shutil

import numpy as np
import pytest

import ndsm
from ndsm.cli import main
from ndsm.config import load_config
from ndsm.errors import InputError
from ndsm.report.page import build_report
from ndsm.runs import Run
from ndsm.runs.status import status
from ndsm.workflows.setup import prepare

TINY = {
    "data.n": 300,
    "network.width": 8,
    "network.depth": 1,
    "train.steps": 40,
    "train.batch_rows": 50,
    "train.block_mb": 0.02,
    "train.device": "cpu",
    "train.report_seconds": 1e-9,
}


@pytest.fixture(scope="module")
def half(tmp_path_factory, train_arcs):
    """A run that was stopped at its 20th step of 40."""
    run = Run(tmp_path_factory.mktemp("runs") / "half")
    train_arcs(run, TINY, stop_at=10)
    run.stop_file.unlink()
    return run


def test_a_stopped_run_tells_where_it_stands(half):
    found = status(half)
    last = half.metrics_since(0)[0][-1]
    assert (found["state"], found["step"], found["steps"], found["percent"]) == ("stopped", 20, 40, 50)
    assert (found["loss"], found["restarts"], found["failure"]) == (last["loss"], 0, None)
    assert found["checkpoint"]["step"] == 20
    assert found["checkpoint"]["age_seconds"] >= 0
    assert found["process"]["alive"] is False
    assert found["steps_per_s"] is None


def test_a_failure_and_the_end_are_told_apart(half, train_arcs):
    half.write_failure(InputError("the drift ran away"))
    assert (status(half)["state"], status(half)["failure"]) == ("failed", "the drift ran away")
    train_arcs(half, TINY)
    found = status(half)
    assert (found["state"], found["step"], found["restarts"]) == ("finished", 40, 1)


def test_a_run_is_finished_by_what_it_has_and_not_by_its_last_report(half, tmp_path, train_arcs):
    train_arcs(half, TINY)
    run = Run(tmp_path / "lost")
    shutil.copytree(half.path, run.path)
    assert (status(run)["state"], run.has_weights) == ("finished", True)
    for file in (run.path / "checkpoints").glob("step-*"):
        file.unlink()
    # As a folder that `ndsm.load` and `save` copied.
    assert status(run)["state"] == "finished"
    (run.path / "model.safetensors").unlink()
    assert (status(run)["state"], status(run)["step"]) == ("stopped", 40)


def test_what_was_fitted_in_python_is_finished(tmp_path, capsys):
    model = ndsm.NDSM(1, max_steps=5, batch_rows=8, random_state=0)
    model.fit(np.random.default_rng(0).normal(size=(20, 2))).save(tmp_path / "run")
    assert main(["status", str(tmp_path / "run")]) == 0
    assert "run: finished, fitted in Python, step 5 of 5 (100.0 %)" in capsys.readouterr().out
    assert "5 of 5 steps" in build_report(Run(tmp_path / "run"))


def test_a_run_that_another_process_holds_is_running_and_is_not_trained_twice(half, held_elsewhere):
    with held_elsewhere(half) as pid:
        found = status(half)
        assert (found["state"], found["process"]["pid"], found["process"]["alive"]) == (
            "running",
            pid,
            True,
        )
        assert found["eta_seconds"] == pytest.approx((40 - found["step"]) / found["steps_per_s"])
        for fresh in (False, True):
            with pytest.raises(InputError, match=f"is being trained by process {pid}"):
                prepare(load_config("toy-arcs", TINY), half, fresh)
    assert status(half)["state"] != "running"
    prepare(load_config("toy-arcs", TINY), half)


def test_the_command_prints_lines_or_one_object(half, capsys):
    assert main(["status", str(half.path)]) == 0
    assert f"of {TINY['train.steps']}" in capsys.readouterr().out
    assert main(["status", str(half.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["steps"] == TINY["train.steps"]
    assert main(["status", str(half.path.parent / "none")]) == 2


def test_tensorboard_shows_the_lines_of_the_metrics(half):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    shown = events.EventAccumulator(str(half.tensorboard)).Reload()
    lines = half.metrics_since(0)[0]
    for name in ("loss", "stall_fraction", "blocks_sent"):
        found = [(e.step, e.value) for e in shown.Scalars(f"train/{name}")]
        assert found == [(line["step"], pytest.approx(line[name], rel=1e-6)) for line in lines]


def test_with_local_training_pauses_for_evaluations_with_their_pictures(tmp_path, train_arcs):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    often = {"train.checkpoint_seconds": 1e-9, "evaluate.seconds": 1e-9, "evaluate.n": 50, "sample.steps": 70}
    run = Run(tmp_path / "watched")
    train_arcs(run, {**TINY, **often})
    found = [json.loads(line) for line in (run.path / "evaluations.jsonl").read_text().splitlines()]
    # Of checkpoints on the way; the end has the evaluation that the run is judged by.
    assert found[0]["step"] == 10
    assert found[-1]["step"] < TINY["train.steps"]
    assert all(line["n"] == 50 and line["swd2"] > 0 for line in found)
    shown = events.EventAccumulator(str(run.tensorboard_evaluations)).Reload()
    assert [e.step for e in shown.Images("samples")] == [line["step"] for line in found]
    assert [e.value for e in shown.Scalars("evaluation/swd2")] == [
        pytest.approx(line["swd2"], rel=1e-6) for line in found
    ]


def test_the_counters_of_every_line_add_up(half):
    lines = half.metrics_since(0)[0]
    assert len(lines) >= 2
    for line in lines:
        dropped = (
            line["blocks_retried"] + line["blocks_foreign"] + line["blocks_duplicate"] + line["blocks_lost"]
        )
        assert line["blocks_sent"] == line["blocks_received"] + dropped + line["blocks_in_flight"]
        assert line["blocks_received"] == line["blocks_taken"] + line["blocks_waiting"]
        assert line["next_block"] == line["blocks_inserted"] == line["blocks_taken"] - line["blocks_reused"]


def test_a_line_that_was_cut_short_is_forgotten(half):
    with (half.path / "metrics.jsonl").open("a") as f:
        f.write('{"step": 41, "lo')
    before = half.last_metrics()
    half.append_metrics({"step": 50})
    lines = half.metrics_since(0)[0]
    assert lines[-2:] == [before, {"step": 50}]
