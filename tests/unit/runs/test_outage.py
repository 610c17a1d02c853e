"""Storage that is away for a while: training goes on, and what it lacks is made up for; the newer of two checkpoints wins."""

import shutil

import pytest
from tiny_run import TINY

from ndsm.config import load_config
from ndsm.core.atomic_file import needs_room
from ndsm.runs import Run
from ndsm.runs.mirror import RemoteCopy
from ndsm.runs.outage import FIRST_PAUSE, Outage, StorageAway, passes
from ndsm.workflows.setup import begin, prepare
from ndsm.workflows.train import train_locally

SETTINGS = {**TINY, "train.steps": 60}


class Disk:
    """A folder as storage that can be taken away and brought back."""

    def __init__(self, folder):
        self.path, self._aside = folder / "disk", folder / "aside"
        self.uri = self.path.as_uri()

    def take_away(self):
        shutil.move(self.path, self._aside)
        self.path.write_text("no folder any more")

    def bring_back(self):
        self.path.unlink()
        shutil.move(self._aside, self.path)


@pytest.fixture
def disk(tmp_path):
    return Disk(tmp_path)


def said_by(run):
    said = []
    run.outage.warn = said.append
    return said


def train(run, fields, at=lambda step: None):
    experiment = prepare(load_config("toy-arcs", fields), run)
    begin(experiment)
    for record in train_locally(experiment):
        at(record.step)


def there(disk):
    return sorted(n for n in RemoteCopy.under(disk.uri, "mine").names() if n.startswith("checkpoints/step-"))


def test_training_goes_on_while_the_storage_is_away(tmp_path, disk, train_arcs):
    run = Run.at(tmp_path / "here", disk.uri, "mine")
    said = said_by(run)
    saved_meanwhile = []

    def at(step):
        if step == 20:
            disk.take_away()
        elif step == 50:
            saved_meanwhile.append(run.last_step())
            disk.bring_back()

    train(run, SETTINGS, at)
    assert saved_meanwhile == [50]
    assert len(said) == 2, said
    assert "does not answer" in said[0]
    assert "for up to train.storage_seconds (600 s)" in said[0]
    assert "answers again" in said[1]
    assert there(disk)[-1] == "checkpoints/step-000000060.pt"
    whole = Run(tmp_path / "whole")
    train_arcs(whole, SETTINGS)
    copy = Run.at(tmp_path / "there", disk.uri, "mine")
    assert (copy.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()
    assert [line["step"] for line in copy.metrics_since(0)[0]] == [10, 20, 30, 40, 50, 60]


def test_the_end_waits_for_the_storage_and_a_stop_does_not(tmp_path, disk):
    run = Run.at(tmp_path / "here", disk.uri, "mine")
    said = said_by(run)

    def at(step):
        if step == 20:
            disk.take_away()
        elif step == 30:
            run.stop_file.touch()

    train(run, SETTINGS, at)
    assert run.last_step() == 40
    disk.bring_back()
    # The folder is ahead of the copy, and what it has is not lost.
    run = Run.at(tmp_path / "here", disk.uri, "mine")
    assert run.last_step() == 40
    said = said_by(run)

    def away_at_the_end(step):
        if step == 50:
            disk.take_away()

    run.outage.say = lambda text: (said.append(text), disk.bring_back() if "does not" in text else None)
    train(run, SETTINGS, away_at_the_end)
    assert ["answers again" in text for text in said] == [False, True]
    assert there(disk)[-1] == "checkpoints/step-000000060.pt"


def test_storage_that_stays_away_ends_the_run_with_a_sentence(tmp_path, disk):
    run = Run.at(tmp_path / "here", disk.uri, "mine")
    said_by(run)
    with pytest.raises(
        StorageAway,
        match=r"has not answered for .*: what it lacks is in .*mine, and the same command goes on",
    ):
        train(run, {**SETTINGS, "train.storage_seconds": 0.1}, lambda step: step == 30 and disk.take_away())
    assert run.last_step() >= 40
    disk.bring_back()
    last = run.last_step()
    again = Run.at(tmp_path / "here", disk.uri, "mine")
    assert again.last_step() == last
    train(again, SETTINGS)
    assert there(disk)[-1] == "checkpoints/step-000000060.pt"


def test_a_copy_that_was_trained_further_elsewhere_wins(tmp_path, disk):
    """Also over a later step here that it does not come from: two machines trained on from one checkpoint."""
    here = Run.at(tmp_path / "here", disk.uri, "mine")
    train(here, SETTINGS, lambda step: step == 10 and here.stop_file.touch())
    elsewhere = Run.at(tmp_path / "there", disk.uri, "mine")
    train(elsewhere, SETTINGS, lambda step: step == 30 and elsewhere.stop_file.touch())
    # This machine saw nothing of that, and went on by itself.
    with_copy = Run(here.path)
    train(with_copy, SETTINGS, lambda step: step == 40 and with_copy.stop_file.touch())
    assert with_copy.last_step() == 50 > elsewhere.last_step()
    again = Run.at(tmp_path / "here", disk.uri, "mine")
    assert again.last_step() == elsewhere.last_step() == 40


def test_a_newer_checkpoint_that_is_damaged_does_not_win(tmp_path, disk):
    run = Run.at(tmp_path / "here", disk.uri, "mine")
    train(run, SETTINGS, lambda step: step == 30 and run.stop_file.touch())
    newest = run.path / "checkpoints" / "step-000000050.pt"
    newest.write_bytes(b"not whole")
    assert Run.at(tmp_path / "here", disk.uri, "mine").last_step() == 40


def test_what_waiting_does_not_mend_is_raised_at_once(tmp_path):
    def full():
        with needs_room("a file"):
            raise OSError(28, "No space left on device")

    errors = [
        PermissionError(13, "no"),
        OSError("AWS Error ACCESS_DENIED during PutObject"),
        StorageAway("gone"),
    ]
    for error in errors:
        assert not passes(error)
    assert passes(OSError("When reading: AWS Error NETWORK_CONNECTION: no route"))
    with pytest.raises(OSError, match=r"^a file: expected room"):
        Outage("uri", tmp_path, 100.0, pytest.fail).wait(full)


def test_tries_grow_rarer_and_are_no_wait_for_training(tmp_path):
    now, tries, said = [0.0], [], []

    def fails():
        tries.append(now[0])
        raise ConnectionError("no route")

    outage = Outage("uri", tmp_path, 100.0, said.append, clock=lambda: now[0])
    with pytest.raises(StorageAway, match="has not answered for 1"):  # noqa: PT012
        for second in range(200):
            now[0] = float(second)
            assert outage.attempt(fails) is False
    assert len(said) == 1
    assert tries[:4] == [0.0, FIRST_PAUSE, 3.0, 7.0]
    assert 100.0 <= tries[-1] <= 115.0
    assert len(tries) < 13
