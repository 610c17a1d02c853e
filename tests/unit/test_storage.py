"""Copies of a run at a URI: whole, up to date, and enough to go on from."""

import shutil

import boto3
import pytest

from ndsm.config import load_config
from ndsm.errors import InputError
from ndsm.experiment import begin, prepare, train_locally
from ndsm.run import Run
from ndsm.storage import Mirror

TINY = {
    "data.n": 300,
    "network.width": 8,
    "network.depth": 1,
    "train.steps": 40,
    "train.batch_rows": 50,
    "train.block_mb": 0.02,
    "train.device": "cpu",
    "train.checkpoint_seconds": 1e-9,
}


@pytest.fixture(scope="module")
def s3():
    """A server that speaks S3 on loopback, with a bucket; the URI of a folder in it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
        client.create_bucket(Bucket="runs")
        yield f"s3://runs/all?scheme=http&endpoint_override={host}%3A{port}&region=us-east-1"
    server.stop()


@pytest.fixture(params=["file", "s3"])
def storage(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3").replace("/all?", f"/{tmp_path.name}?")
    return (tmp_path / "far away").as_uri()


def config():
    return load_config("toy-arcs", TINY)


def test_another_machine_goes_on_bitwise_from_the_copy(storage, tmp_path, train_arcs):
    whole = Run(tmp_path / "whole")
    train_arcs(whole, TINY)
    first = Run.at(tmp_path / "here", storage, "mine")
    train_arcs(first, TINY, stop_at=20)
    stopped = first.last_step()
    assert 20 <= stopped < 40
    second = Run.at(tmp_path / "there", storage, "mine")
    assert second.last_step() == stopped
    # The request to stop was one to a process of the first machine.
    assert not second.stop_file.exists()
    train_arcs(second, TINY)
    assert (second.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    names = Mirror.under(storage, "mine").names()
    kept = sorted(p.name for p in (second.path / "checkpoints").glob("step-*"))
    assert sorted(n.removeprefix("checkpoints/") for n in names if "/step-" in n) == kept
    assert {"config.yaml", "data.json", "metrics.jsonl", "model.safetensors", "reference.json"} <= names
    assert not any(n.endswith((".partial", "owner.json", "stop")) for n in names)


def test_what_never_reached_the_copy_is_not_gone_on_from(storage, tmp_path, train_arcs):
    """Else workers on several machines would stand at different steps."""
    run = Run.at(tmp_path, storage, "mine")
    train_arcs(run, TINY)
    shutil.copy(
        run.path / "checkpoints" / "step-000000040.pt", run.path / "checkpoints" / "step-000000050.pt"
    )
    run.pull()
    assert run.newest_checkpoint()[0] == 40


def test_starting_over_deletes_the_copy(storage, tmp_path, train_arcs):
    run = Run.at(tmp_path, storage, "mine")
    train_arcs(run, TINY)
    begin(prepare(config(), run, fresh=True))
    assert not any("/step-" in name for name in Mirror.under(storage, "mine").names())
    assert Run.at(tmp_path / "there", storage, "mine").last_step() == 0


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("ftp://host/folder", "train.storage: expected a path or a URI"),
        ("s3://key:secret@runs/all", "expected a URI without a key"),
        ("s3://runs/all?scheme=http&endpoint_override=127.0.0.1%3A9&region=us-east-1", "to answer"),
    ],
)
def test_storage_that_is_not_there_is_one_sentence(uri, sentence, tmp_path):
    with pytest.raises(InputError, match=sentence):
        Run.at(tmp_path, uri, "mine")
    assert list(tmp_path.iterdir()) == []


def test_storage_that_vanishes_ends_training_and_its_return_resumes_it(tmp_path, train_arcs):
    storage = tmp_path / "disk"
    run = Run.at(tmp_path / "here", storage.as_uri(), "mine")
    experiment = prepare(config(), run)
    begin(experiment)
    with pytest.raises(OSError, match="disk"):  # noqa: PT012
        for _ in train_locally(experiment):
            shutil.move(storage, tmp_path / "unplugged")
            storage.write_text("no folder any more")
    storage.unlink()
    shutil.move(tmp_path / "unplugged", storage)
    again = Run.at(tmp_path / "here", storage.as_uri(), "mine")
    assert again.last_step() >= 10
    train_arcs(again, TINY)
    assert again.last_step() == 40


def test_a_run_folder_that_vanishes_is_not_begun_again_in_silence(tmp_path, train_arcs):
    run = Run(tmp_path / "run")
    experiment = prepare(config(), run)
    begin(experiment)
    with pytest.raises(FileNotFoundError, match="has vanished while it was trained"):  # noqa: PT012
        for _ in train_locally(experiment):
            shutil.move(run.path, tmp_path / "unplugged")
    shutil.rmtree(run.path, ignore_errors=True)
    shutil.move(tmp_path / "unplugged", run.path)
    train_arcs(run, TINY)
    assert run.last_step() == 40


def test_a_place_that_cannot_be_written_to_is_bad_input(tmp_path):
    (tmp_path / "file").write_text("")
    for run in (
        Run(tmp_path / "file" / "run"),
        Run.at(tmp_path / "out", (tmp_path / "file").as_uri(), "mine"),
    ):
        with pytest.raises(InputError, match="expected a folder that can be written to"):
            begin(prepare(config(), run))
