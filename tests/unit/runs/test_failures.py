"""What goes wrong outside the program: a sentence, an exit code, and a run that goes on once it is put right."""

import os
import re
import resource
import signal
from contextlib import contextmanager

import pytest

from ndsm.cli import main
from ndsm.config import load_config
from ndsm.runs import Run
from ndsm.workflows.setup import begin, prepare

TINY = {
    "data.n": 400,
    "train.steps": 40,
    "train.batch_rows": 32,
    "train.block_mb": 0.02,
    "train.checkpoint_seconds": 0.01,
    "network.width": 16,
    "reference.n_init": 1,
}


@contextmanager
def files_up_to(size):
    """No file may grow beyond a size, in bytes: writes fail half-way, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def command(tmp_path, capsys):
    """`ndsm train toy-arcs --local`: exit code, and what it printed for errors."""

    def run():
        options = [text for key, value in TINY.items() for text in (f"--{key}", str(value))]
        capsys.readouterr()
        code = main(["train", "toy-arcs", "--name", "mine", "--out", str(tmp_path), "--local", *options])
        return code, capsys.readouterr().err

    return run


def test_a_full_disk_ends_with_a_sentence_and_space_goes_on(command, tmp_path, train_arcs):
    # Configuration and mixture fit, a checkpoint does not.
    with files_up_to(20_000):
        code, said = command()
    assert code == 1
    checkpoint = tmp_path / "mine" / "checkpoints" / "step-"
    assert re.search(
        f"^ndsm: OSError: {checkpoint}[0-9]+.pt: expected room on the disk to write it, found none .*; free some, and the "
        "same command goes on\n",
        said,
        re.MULTILINE,
    )
    assert "the run can be resumed by the same command" in said
    assert (tmp_path / "mine" / "config.yaml").is_file()
    assert not list(tmp_path.rglob("*.partial"))
    weights = [
        (train_arcs(Run(tmp_path / name), TINY).run.path / "model.safetensors").read_bytes()
        for name in ("whole", "mine")
    ]
    assert weights[0] == weights[1]


def test_a_disk_that_is_full_from_the_start_is_bad_input(command, tmp_path, train_arcs):
    with files_up_to(10):
        code, said = command()
    assert code == 2
    assert "expected a folder that can be written to, found" in said
    assert train_arcs(Run(tmp_path / "mine"), TINY).run.last_step() == TINY["train.steps"]


def test_a_file_that_lost_its_end_is_named_and_its_return_goes_on(command, tmp_path, train_arcs):
    run = Run(tmp_path / "mine")
    begin(prepare(load_config("toy-arcs", TINY), run))
    for name in ("reference.safetensors", "reference.json", "data.json"):
        path = run.path / name
        content = path.read_bytes()
        path.write_bytes(content[:-1])
        code, said = command()
        assert code == 2, name
        assert name in said
        path.write_bytes(content)
    assert train_arcs(run, TINY).run.last_step() == TINY["train.steps"]


def test_ctrl_c_before_a_resumed_run_trains_ends_at_once(tmp_path, train_arcs, monkeypatch):
    """While Ray starts there is nothing to save, and beginning would forget a request to stop."""
    run = Run(tmp_path / "mine")
    train_arcs(run, {**TINY, "train.checkpoint_seconds": 1e-9}, stop_at=20)
    stopped = run.last_step()
    assert stopped < TINY["train.steps"]

    def starting(*args):
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("went on")

    monkeypatch.setattr("pipelines.train.run_on_ray", starting)
    options = [text for key, value in TINY.items() for text in (f"--{key}", str(value))]
    assert main(["train", "toy-arcs", "--name", "mine", "--out", str(tmp_path), *options]) == 130
    assert run.last_step() == stopped
    assert not run.stop_file.exists()
