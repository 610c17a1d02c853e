"""Stages of the work: a line or a bar or nothing, and results for other programs."""

import io
import json
import sys

import pytest
from rich.console import Console

from ndsm.cli import main
from ndsm.cli.console import TrainingProgress
from ndsm.core import progress
from ndsm.core.progress import set_quiet, stage

LINE = {"step": 10, "loss": 1.0, "steps_per_s": 5.0, "rollout_rows_per_s": 7.0, "stall_fraction": 0.0}


@pytest.fixture(autouse=True)
def _heard():
    yield
    set_quiet(False)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_stage_is_one_plain_line_without_a_terminal(capsys):
    with stage("sampling 5 rows", 5) as advance:
        advance(5)
    set_quiet(True)
    with stage("unheard") as advance:
        advance(1)
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "sampling 5 rows\n")


def test_a_long_stage_says_how_far_it_is(monkeypatch, capsys):
    monkeypatch.setattr(progress, "PLAIN_SECONDS", 0.0)
    with stage("sampling 5 rows", 5) as advance:
        advance(2)
        advance(3)
    assert capsys.readouterr().err.splitlines()[1:] == ["sampling 5 rows: 2 of 5", "sampling 5 rows: 5 of 5"]


def test_a_stage_is_a_bar_that_fills_on_a_terminal(monkeypatch, capsys):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(
        "rich.console.Console", lambda **_: Console(file=terminal, force_terminal=True, width=80)
    )
    with stage("sampling", 10) as advance:
        advance(4)
        advance(6)
    assert "sampling" in terminal.getvalue()
    assert "100%" in terminal.getvalue()
    assert capsys.readouterr().out == ""


def test_quiet_training_shows_nothing(capsys):
    set_quiet(True)
    with TrainingProgress(10) as shown:
        shown.warm_up()
        shown.show(LINE)
    assert capsys.readouterr().err == ""
    set_quiet(False)
    with TrainingProgress(10) as shown:
        shown.warm_up()
        shown.show(LINE)
    waiting, step = capsys.readouterr().err.splitlines()
    assert waiting == "waiting for rollouts"
    assert "step 10/10" in step


def test_json_is_all_that_is_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    tiny = ["--data.n", "300", "--train.steps", "20", "--train.batch-rows", "20", "--evaluate.n", "50"]
    tiny += ["--train.block-mb", "0.02", "--reference.n-init", "1", "--reference.reg-covar", "0.1"]
    train = ["train", "toy-arcs", "--local", "--json", "--network.depth", "1", "--sample.steps", "60", *tiny]
    assert main(train) == 0
    trained = json.loads(capsys.readouterr().out)
    assert trained["n"] == 50
    # A complete run says the same again.
    assert main(train) == 0
    assert json.loads(capsys.readouterr().out) == trained
    assert main(["evaluate", "runs/toy-arcs", "--n", "40", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 40
