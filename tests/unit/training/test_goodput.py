"""The share of a run's time that goes into steps which last, over stops and crashes."""

import json
import time

import pytest
from tiny_run import TINY

from ndsm.cli import main
from ndsm.config import load_config
from ndsm.runs import Run
from ndsm.runs.status import status
from ndsm.training.goodput import TimeSpent, goodput
from ndsm.workflows.setup import begin, prepare
from ndsm.workflows.train import train_locally

SETTINGS = {**TINY, "train.steps": 80}
PARTS = ("useful_seconds", "stall_seconds", "pause_seconds", "warm_up_seconds", "restart_seconds")


def check(line):
    assert sum(line[part] for part in PARTS) == pytest.approx(line["wall_seconds"], abs=0.01)
    # Seconds have three decimals.
    tolerance = 1e-3 / line["wall_seconds"] + 1e-6
    assert line["goodput"] == pytest.approx(line["useful_seconds"] / line["wall_seconds"], abs=tolerance)
    assert all(line[part] >= 0 for part in PARTS)


def shift(run, seconds):
    """As if everything that the run has noted had happened so much earlier."""
    path = run.path / "sittings.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({k: v - seconds for k, v in line.items()}) + "\n" for line in lines))


def test_parts_of_a_known_run():
    spent = TimeSpent(stall_seconds=5.0).plus(stall=5.0, pause=10.0, warm_up=4.0)
    found = goodput(spent, seconds=80.0, begun=1000.0, now=1100.0)
    assert found == {
        "goodput": 0.6, "wall_seconds": 100.0, "useful_seconds": 60.0, "stall_seconds": 10.0, "pause_seconds": 10.0,
        "warm_up_seconds": 4.0, "restart_seconds": 16.0,
    }  # fmt: skip
    # A clock that was set back, and a training that no run is written for.
    for begun in (2000.0, 0.0):
        assert goodput(spent, 80.0, begun, now=1100.0)["wall_seconds"] == 84.0


def test_a_crash_costs_the_time_until_the_run_goes_on_and_a_stop_does_not(tmp_path, capsys):
    run = Run(tmp_path / "mine")
    experiment = prepare(load_config("toy-arcs", SETTINGS), run)
    begin(experiment)
    training = train_locally(experiment)
    while next(training).step < 20:
        pass
    # The process is gone, as after a crash: the last record is not a final one.
    training.close()
    check(run.last_metrics())
    crashed, stopped = 1000.0, 5000.0
    shift(run, crashed)
    experiment = prepare(load_config("toy-arcs", SETTINGS), run)
    begin(experiment)
    training = train_locally(experiment)
    line = next(training).metrics
    check(line)
    assert line["restart_seconds"] > 0.99 * crashed
    assert line["goodput"] < 0.1
    run.stop_file.touch()
    list(training)
    before = run.last_metrics()
    shift(run, stopped)
    experiment = prepare(load_config("toy-arcs", SETTINGS), run)
    begin(experiment)
    for record in train_locally(experiment):
        check(record.metrics)
    after = run.last_metrics()
    assert crashed < after["restart_seconds"] < before["restart_seconds"] + 0.2 * stopped
    assert after["useful_seconds"] > before["useful_seconds"]
    assert status(run)["goodput"] == after["goodput"]
    assert main(["status", str(run.path)]) == 0
    assert "starts and lost work 1" in capsys.readouterr().out


def test_pauses_between_steps_are_no_steps(tmp_path):
    run = Run(tmp_path / "mine")
    experiment = prepare(load_config("toy-arcs", SETTINGS), run)
    begin(experiment)
    for _ in train_locally(experiment):
        time.sleep(0.05)
    last = run.last_metrics()
    check(last)
    # The last record's own pause comes after it.
    assert last["pause_seconds"] >= 3 * 0.05
