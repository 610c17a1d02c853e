"""Trained and diverged runs that go on with other values, by `ndsm train --continue`."""

import pytest
import torch
from tiny_run import TINY

from ndsm.cli import main
from ndsm.config import load_config
from ndsm.errors import InputError
from ndsm.runs import Run
from ndsm.runs.identity import training_hash
from ndsm.runs.status import status
from ndsm.workflows.setup import begin, prepare
from ndsm.workflows.train import train_locally

SETTINGS = {**TINY, "evaluate.n": 100, "sample.steps": 80}
MORE = {**SETTINGS, "train.steps": 80, "train.lr": 3e-4, "train.lr_schedule": "constant"}


def go_on(run, fields, **options):
    experiment = prepare(load_config("toy-arcs", fields), run, continued=True, **options)
    begin(experiment)
    return list(train_locally(experiment))


def command(out, fields, *more):
    options = [text for key, value in fields.items() for text in (f"--{key}", str(value))]
    return main(["train", "toy-arcs", "--name", "mine", "--out", str(out), "--local", *options, *more])


def test_a_trained_run_goes_on_with_more_steps_and_another_rate(tmp_path, train_arcs, capsys):
    run = Run(tmp_path / "mine")
    train_arcs(run, SETTINGS)
    before, lines = (run.path / "model.safetensors").read_bytes(), run.metrics_since(0)[0]
    assert command(tmp_path, MORE) == 2
    said = capsys.readouterr().err
    assert "train.steps (40 before, 80 now)" in said
    assert "go on with these values by --continue" in said
    assert command(tmp_path, MORE, "--continue") == 0
    assert (
        "continuing mine at step 40 with train.steps (40 before, 80 now), train.lr ("
        in capsys.readouterr().out
    )
    assert run.last_step() == 80
    assert (run.path / "model.safetensors").read_bytes() != before
    after = run.metrics_since(0)[0]
    assert after[: len(lines)] == lines
    assert [line["lr"] for line in after[len(lines) :]] == [3e-4] * (len(after) - len(lines))
    assert after[-1]["seconds"] > lines[-1]["seconds"]
    assert run.config().train.steps == 80
    (line,) = run.continuations()
    assert line["step"] == 40
    assert line["config"] == training_hash(load_config("toy-arcs", SETTINGS))
    assert line["changed"]["train.steps"] == [40, 80]
    assert status(run)["state"] == "finished"
    # The same command, with the word and without it, finds nothing left to do.
    assert command(tmp_path, MORE, "--continue") == command(tmp_path, MORE) == 0
    assert len(run.continuations()) == 1
    # The former values are no longer the run's.
    assert command(tmp_path, SETTINGS) == 2


def test_a_continued_run_that_is_stopped_resumes_bitwise_by_the_plain_command(tmp_path, train_arcs):
    whole, stopped = Run(tmp_path / "whole"), Run(tmp_path / "stopped")
    for run in (whole, stopped):
        train_arcs(run, SETTINGS, stop_at=20)
    experiment = prepare(load_config("toy-arcs", MORE), stopped, continued=True)
    begin(experiment)
    # It ends before its first checkpoint: the newest is one of the configuration before.
    stopped_at = stopped.last_step()
    train_arcs(stopped, MORE, stop_at=60)
    assert stopped_at < 40 <= stopped.last_step() < 80
    train_arcs(stopped, MORE)
    go_on(whole, MORE)
    models = [
        torch.load(r.path / "checkpoints" / "step-000000080.pt")["trainer"]["model"] for r in (whole, stopped)
    ]
    for name, value in models[0].items():
        assert torch.equal(value, models[1][name]), name


def test_a_run_goes_on_as_if_it_had_been_begun_with_so_many_steps(tmp_path, train_arcs):
    """With a constant rate nothing depends on train.steps."""
    constant = {**SETTINGS, "train.lr_schedule": "constant"}
    whole, continued = Run(tmp_path / "whole"), Run(tmp_path / "continued")
    train_arcs(whole, {**constant, "train.steps": 60})
    train_arcs(continued, constant)
    go_on(continued, {**constant, "train.steps": 60})
    files = [(run.path / "model.safetensors").read_bytes() for run in (whole, continued)]
    assert files[0] == files[1]


def test_what_a_run_cannot_be_continued_with_is_one_sentence(tmp_path, train_arcs):
    run = Run(tmp_path / "mine")

    def refused(fields, text, **options):
        with pytest.raises(InputError, match=text):
            prepare(load_config("toy-arcs", fields), run, continued=True, **options)

    refused(MORE, r"--continue: expected a run in .*mine, found none")
    train_arcs(run, SETTINGS)
    refused(
        {**MORE, "network.width": 16},
        r"the run's own values of all fields but .*train.steps, .* found network.width \(8 before",
    )
    refused({**MORE, "train.seed": 1}, r"found train.seed \(0 before, 1 now\); train a run of another --name")
    refused({**MORE, "train.steps": 30}, "expected train.steps above the 40 that .* has taken, found 30")
    refused({**SETTINGS, "train.lr": 1e-4}, "expected train.steps above the 40")
    refused(MORE, "found both", fresh=True)
    assert run.config() == load_config("toy-arcs", SETTINGS)
    assert run.continuations() == []


def test_a_diverged_run_goes_on_as_its_message_says(tmp_path, train_arcs, capsys):
    """A rate so large that the loss overflows; the message's remedy is then typed."""
    run, wild = (
        Run(tmp_path / "mine"),
        {**SETTINGS, "train.steps": 400, "train.lr": 1e38, "train.grad_clip": "inf"},
    )
    train_arcs(run, {**SETTINGS, "train.steps": 400}, stop_at=20)
    assert command(tmp_path, wild, "--continue") == 1
    said = capsys.readouterr().err
    saved = run.last_step()
    assert "training diverged" in said
    assert (
        "lower train.lr or train.grad_clip: the same command with --continue and the lower value goes on from"
        in said
    )
    assert f"the checkpoint of step {saved}\n" in said
    mended = {**wild, "train.steps": saved + 20, "train.lr": 1e-4, "train.grad_clip": 1.0}
    assert command(tmp_path, mended, "--continue") == 0
    assert run.last_step() == saved + 20
    assert len(run.continuations()) == 2


def test_a_run_at_a_uri_is_continued_on_another_machine(tmp_path, train_arcs):
    storage = (tmp_path / "far away").as_uri()
    first = Run.at(tmp_path / "here", storage, "mine")
    train_arcs(first, SETTINGS)
    other = Run.at(tmp_path / "there", storage, "mine")
    go_on(other, MORE)
    assert other.last_step() == 80
    third = Run.at(tmp_path / "third", storage, "mine")
    assert third.config().train.steps == third.last_step() == 80
    assert third.continuations() == other.continuations()


def test_a_continuation_that_was_cut_short_can_be_typed_again(tmp_path, train_arcs, monkeypatch):
    """The line is written and the configuration is not, or is here and not in the copy."""
    storage = (tmp_path / "far away").as_uri()
    run = Run.at(tmp_path / "here", storage, "mine")
    train_arcs(run, SETTINGS)

    def killed(*args):
        raise KeyboardInterrupt

    for name in ("_write_config", "push"):
        with monkeypatch.context() as cut:
            cut.setattr(Run, name, killed)
            with pytest.raises(KeyboardInterrupt):
                begin(prepare(load_config("toy-arcs", MORE), run, continued=True))
    run = Run.at(tmp_path / "here", storage, "mine")
    go_on(run, MORE)
    assert run.last_step() == 80
