"""What goes wrong outside the program: a sentence, an exit code, and a run that goes on once it is put right."""

import resource
from contextlib import contextmanager

import pytest

from ndsm.cli import main

TINY = [
    "--data.n", "400", "--train.steps", "60", "--train.batch-rows", "32", "--train.block-mb", "0.02", "--evaluate.n",
    "200", "--train.report-seconds", "0.01", "--train.checkpoint-seconds", "0.01", "--network.width", "16",
]  # fmt: skip


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
def train(tmp_path, capsys):
    """`ndsm train toy-arcs --local`: exit code, and what it printed for errors."""

    def command(name="mine"):
        capsys.readouterr()
        code = main(["train", "toy-arcs", "--name", name, "--out", str(tmp_path), "--local", *TINY])
        return code, capsys.readouterr().err

    return command


def test_a_full_disk_ends_with_a_sentence_and_space_goes_on(train, tmp_path):
    assert train("whole")[0] == 0
    # Configuration and mixture fit, a checkpoint does not.
    with files_up_to(20_000):
        code, said = train()
    assert code == 1
    assert "ndsm: OSError: " in said
    assert "the run can be resumed by the same command" in said
    assert (tmp_path / "mine" / "config.yaml").is_file()
    assert not list(tmp_path.rglob("*.partial"))
    assert train()[0] == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "mine")]
    assert weights[0] == weights[1]


def test_a_disk_that_is_full_from_the_start_is_bad_input(train, tmp_path):
    with files_up_to(10):
        code, said = train()
    assert code == 2
    assert "expected a folder that can be written to, found" in said
    assert train()[0] == 0


def test_a_file_that_lost_its_end_is_named_and_its_return_goes_on(train, tmp_path):
    assert train()[0] == 0
    # A byte is enough where the format has a length.
    for name, lost in {
        "reference.safetensors": 1,
        "reference.json": 1,
        "data.json": 1,
        "config.yaml": 60,
    }.items():
        path = tmp_path / "mine" / name
        content = path.read_bytes()
        path.write_bytes(content[:-lost])
        code, said = train()
        assert code == 2, name
        assert name in said
        path.write_bytes(content)
        assert train()[0] == 0
