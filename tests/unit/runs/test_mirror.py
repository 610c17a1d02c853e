"""Copies of a run at a URI: whole, up to date, and enough to go on from."""

import io
import json
import pickle
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tiny_run import TINY

from ndsm.cli import main
from ndsm.config import load_config
from ndsm.core.places import child
from ndsm.errors import InputError, LeaseLost
from ndsm.runs import Run
from ndsm.runs.mirror import LEASE, RemoteCopy
from ndsm.runs.status import status
from ndsm.workflows.setup import begin, prepare
from ndsm.workflows.train import train_locally


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
    names = RemoteCopy.under(storage, "mine").names()
    kept = sorted(p.name for p in (second.path / "checkpoints").glob("step-*"))
    assert sorted(n.removeprefix("checkpoints/") for n in names if "/step-" in n) == kept
    assert {"config.yaml", "data.json", "metrics.jsonl", "model.safetensors", "reference.json"} <= names
    assert not any(n.endswith((".partial", "owner.json", "stop")) for n in names)


def test_what_never_reached_the_copy_is_gone_on_from_where_it_is(storage, tmp_path, train_arcs):
    """A checkpoint that was saved while the storage was away; the next upload makes up for it."""
    run = Run.at(tmp_path, storage, "mine")
    train_arcs(run, TINY, stop_at=20)
    uploaded, mirror = run.last_step(), run.mirror
    run.mirror = None
    train_arcs(run, TINY)
    run.mirror = mirror
    with pytest.warns(UserWarning, match="its checkpoint of step 40 is newer than those of"):
        again = Run.at(tmp_path, storage, "mine")
    assert again.last_step() == 40 > uploaded
    again.push()
    assert Run.at(tmp_path / "there", storage, "mine").last_step() == 40


def test_starting_over_deletes_the_copy(storage, tmp_path, train_arcs):
    run = Run.at(tmp_path, storage, "mine")
    train_arcs(run, TINY)
    begin(prepare(config(), run, fresh=True))
    assert not any("/step-" in name for name in RemoteCopy.under(storage, "mine").names())
    assert Run.at(tmp_path / "there", storage, "mine").last_step() == 0


@pytest.mark.parametrize("names", [("config.yaml", "thesis.txt"), ("thesis.txt",), ("data.json",)])
def test_a_folder_at_a_uri_that_is_no_run_is_left_alone(storage, tmp_path, names):
    mirror, aside = RemoteCopy.under(storage, "mine"), tmp_path / "aside"
    aside.mkdir()
    for name in names:
        (aside / name).write_text('{"mine": true}')
    mirror.push_files(aside, *names)
    before = files_of(storage)
    for fresh in (False, True):
        with pytest.raises(InputError, match="expected a new or a run's folder, found one with other files"):
            Run.at(tmp_path / "here", storage, "mine", fresh)
    assert files_of(storage) == before
    assert not (tmp_path / "here").exists()


def test_starting_over_refuses_a_copy_with_somebody_elses_file(storage, tmp_path, train_arcs):
    run = Run.at(tmp_path / "here", storage, "mine")
    train_arcs(run, {**TINY, "train.steps": 10})
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "thesis.txt").write_text("years of work")
    RemoteCopy.under(storage, "mine").push_files(tmp_path, "checkpoints/thesis.txt")
    before = files_of(storage)
    with pytest.raises(
        InputError, match=r"starts over, found one with other files in it: checkpoints/thesis"
    ):
        Run.at(tmp_path / "there", storage, "mine", fresh=True)
    with pytest.raises(InputError, match=r"checkpoints/thesis"):
        prepare(config(), run, fresh=True)
    with pytest.raises(InputError, match=r"checkpoints/thesis"):
        run.remove()
    assert files_of(storage) == before
    assert run.last_step() == 10


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


def test_a_run_that_is_given_a_copy_later_is_copied_whole(tmp_path, train_arcs):
    train_arcs(Run(tmp_path / "here" / "mine"), {**TINY, "train.steps": 10})
    storage = (tmp_path / "far away").as_uri()
    run = Run.at(tmp_path / "here", storage, "mine")
    run.update(load_config("toy-arcs", {**TINY, "train.steps": 10, "train.storage": storage}))
    assert Run.at(tmp_path / "there", storage, "mine").last_step() == 10


def test_a_copy_of_another_run_does_not_take_the_place_of_the_one_in_the_folder(tmp_path, train_arcs):
    storage = (tmp_path / "far away").as_uri()
    train_arcs(Run.at(tmp_path / "there", storage, "mine"), {**TINY, "train.steps": 10})
    here = Run(tmp_path / "here" / "mine")
    begin(prepare(load_config("toy-arcs", {**TINY, "train.steps": 10, "network.width": 16}), here))
    for found in (r"network\.width; give", r"network\.width, rows; give"):
        before = {p: p.read_bytes() for p in here.path.rglob("*") if p.is_file()}
        with pytest.raises(InputError, match=f"found another one, with other {found}"):
            Run.at(tmp_path / "here", storage, "mine")
        Run.at(tmp_path / "here", storage, "mine", fresh=True)
        assert {p: p.read_bytes() for p in here.path.rglob("*") if p.is_file()} == before
        data = here.data() | {"fingerprint": "another"}
        (here.path / "data.json").write_text(json.dumps(data))


def test_storage_that_vanishes_ends_training_and_its_return_resumes_it(tmp_path, train_arcs):
    storage = tmp_path / "disk"
    run = Run.at(tmp_path / "here", storage.as_uri(), "mine")
    experiment = prepare(load_config("toy-arcs", {**TINY, "train.storage_seconds": 0.0}), run)
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


def files_of(storage):
    """Name and content of every file of the copy."""
    mirror = RemoteCopy.under(storage, "mine")
    fs, root = mirror.arrow
    return {name: fs.open_input_stream(f"{root}/{name}").read() for name in mirror.names()}


def test_an_evaluation_of_an_earlier_stop_leaves_the_copy_too(storage, tmp_path, train_arcs):
    first = Run.at(tmp_path / "here", storage, "mine")
    train_arcs(first, TINY, stop_at=20)
    first.write_evaluation({"n": 10})
    first.push()
    there = Run.at(tmp_path / "there", storage, "mine")
    assert there.evaluation() == {"n": 10}
    train_arcs(there, TINY)
    assert "metrics.json" not in files_of(storage)
    assert there.evaluation() is None


def test_a_failure_noted_elsewhere_leaves_a_newer_copy_as_it_is(storage, tmp_path, train_arcs):
    first = Run.at(tmp_path / "here", storage, "mine")
    train_arcs(first, TINY, stop_at=20)
    behind = Run.at(tmp_path / "there", storage, "mine")
    train_arcs(first, TINY)
    # The event file's last lines come after the last checkpoint.
    first.push()
    before = files_of(storage)
    behind.write_failure(InputError("the drift ran away"))
    note = {"checkpoints/failure.json": b'["InputError", "the drift ran away"]'}
    assert files_of(storage) == before | note
    # Nor does whoever trains lose the note.
    first.push()
    assert files_of(storage) == before | note
    Run.at(tmp_path / "anywhere", storage, "mine").clear_requests()
    assert files_of(storage) == before


def test_an_evaluation_beside_the_training_reads_the_copy_and_touches_no_file(tmp_path, train_arcs):
    from pipelines.evaluate import evaluate_newest

    run = Run.at(tmp_path, (tmp_path / "far away").as_uri(), "mine")
    made = train_arcs(run, {**TINY, "evaluate.n": 50, "sample.steps": 100})
    # As between two checkpoints: a line and a checkpoint that are not in the copy yet.
    run.append_metrics({"step": 41})
    shutil.copy(
        run.path / "checkpoints" / "step-000000040.pt", run.path / "checkpoints" / "step-000000041.pt"
    )
    before = {p: p.stat().st_mtime_ns for p in run.path.rglob("*")}
    found = evaluate_newest(run, made.problem)
    assert found is not None
    assert found[0]["step"] == 40
    assert {p: p.stat().st_mtime_ns for p in run.path.rglob("*")} == before


def test_an_interrupted_upload_leaves_the_file_that_was_there(storage, tmp_path, monkeypatch):
    class Torn(io.BytesIO):
        def read(self, size=-1):
            if self.tell():
                raise OSError("torn")
            return super().read(size)

    mirror, file = RemoteCopy.under(storage, "mine"), tmp_path / "metrics.json"
    file.write_bytes(b"whole")
    mirror.push_files(tmp_path, file.name)
    file.write_bytes(b"this is the longer successor")
    with monkeypatch.context() as patch:
        patch.setattr("ndsm.core.places.CHUNK", 4)
        patch.setattr(Path, "open", lambda self, mode: Torn(b"this is the longer successor"))
        with pytest.raises(OSError, match="torn"):
            mirror.push_files(tmp_path, file.name)
    assert files_of(storage) == {file.name: b"whole"}
    mirror.push_files(tmp_path, file.name)
    assert files_of(storage) == {file.name: b"this is the longer successor"}


def test_status_on_the_driver_shows_what_another_machine_trains(storage, tmp_path, train_arcs, capsys):
    fields = {**TINY, "train.storage": storage}
    driver = Run.at(tmp_path / "driver", storage, "mine")
    begin(prepare(load_config("toy-arcs", fields), driver))
    worker = Run.at(tmp_path / "worker", storage, "mine")
    train_arcs(worker, fields)
    before, copy = sorted(driver.path.rglob("*")), files_of(storage)
    found, last = status(Run.open(driver.path)), worker.last_metrics()
    assert (found["step"], found["state"], found["checkpoint"]["step"]) == (40, "finished", 40)
    assert (found["loss"], found["storage_failure"]) == (last["loss"], None)
    assert found["checkpoint"]["age_seconds"] >= 0
    worker.write_failure(InputError("the drift ran away"))
    assert status(Run.open(driver.path))["failure"] == "the drift ran away"
    assert sorted(driver.path.rglob("*")) == before
    assert files_of(storage).keys() - {"checkpoints/failure.json"} == copy.keys()


def test_status_tells_on_which_machine_a_run_is_trained(storage, tmp_path, train_arcs, capsys):
    """By the lease at the URI; one that has expired says nothing."""
    fields = {**TINY, "train.storage": storage}
    train_arcs(Run.at(tmp_path / "there", storage, "mine"), fields, stop_at=10)
    here = child(storage, "mine")
    assert status(Run.open(here))["state"] == "stopped"
    with Run.at(tmp_path / "elsewhere", storage, "mine").mirror.hold():
        _, change = leased(storage)
        change(machine="another", host="far", pid=7)
        found = status(Run.open(here))
        assert (found["state"], found["process"]["host"], found["process"]["pid"]) == ("running", "far", 7)
        assert main(["status", here]) == 0
        assert "mine: running on far, step 20 of 40" in capsys.readouterr().out
        change(machine="another", host="far", pid=7, expires=time.time() - 1)
        assert status(Run.open(here))["state"] == "stopped"


def test_status_without_an_answer_tells_what_the_folder_knows(tmp_path, train_arcs, capsys):
    run = Run(tmp_path / "mine")
    gone = "s3://runs/all?scheme=http&endpoint_override=127.0.0.1%3A9&region=us-east-1"
    train_arcs(run, {**TINY, "train.storage": gone})
    assert main(["status", str(run.path)]) == 0
    said = capsys.readouterr().out
    assert "mine: finished, step 40 of 40" in said
    assert "train.storage does not answer, this is what the folder here tells: " in said


def test_the_report_reaches_the_copy_and_is_written_again_where_it_is_missing(tmp_path):
    storage = (tmp_path / "far away").as_uri()
    given = {**TINY, "train.storage": storage, "evaluate.n": 50, "sample.steps": 100}
    options = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    command = ["train", "toy-arcs", "--name", "mine", "--out", str(tmp_path / "runs"), "--local", "--quiet"]
    command += options
    assert main(command) == 0
    run, copy = Run(tmp_path / "runs" / "mine"), tmp_path / "far away" / "mine"
    assert (copy / "report.html").read_bytes() == run.report_html.read_bytes()
    evaluated = (copy / "metrics.json").stat().st_mtime_ns
    for folder in (copy, run.path):
        (folder / "report.html").unlink()
    assert main(command) == 0
    assert (copy / "report.html").read_bytes() == run.report_html.read_bytes()
    assert (copy / "metrics.json").stat().st_mtime_ns == evaluated


HOLD = """
import sys, time
from pathlib import Path
from ndsm.runs import Run
with Run.at(Path(sys.argv[1]), sys.argv[2], "mine").hold():
    print("held", flush=True)
    time.sleep(100)
"""


def leased(storage):
    """The content of the lease of the copy, and what replaces parts of it."""
    mirror = RemoteCopy.under(storage, "mine")
    fs, root = mirror.arrow
    with fs.open_input_stream(f"{root}/{LEASE}") as stream:
        found = json.loads(stream.read())

    def change(**changed):
        with fs.open_output_stream(f"{root}/{LEASE}") as out:
            out.write(json.dumps({**found, **changed}).encode())

    return found, change


def test_a_second_driver_on_another_machine_is_refused_until_the_first_has_ended(
    storage, tmp_path, train_arcs
):
    args = [sys.executable, "-c", HOLD, tmp_path / "there", storage]
    holder = subprocess.Popen(args, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3])
    here = Run.at(tmp_path / "here", storage, "mine")
    refused = rf"is being trained to by process {holder.pid} on .*, which holds it until .* UTC"
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InputError, match=refused):
            prepare(config(), here)
        with pytest.raises(InputError, match=refused), here.hold():
            pytest.fail("trains beside it")
        found, change = leased(storage)
        assert found["pid"] == holder.pid
    finally:
        holder.kill()
        holder.wait()
    # Of a process of this machine it is known that it has ended; of another machine's nothing but the lease.
    here.mirror.check_free()
    change(machine="another", host="far")
    with pytest.raises(InputError, match="on far, which holds it until"):
        prepare(config(), here)
    change(machine="another", host="far", expires=time.time() - 1)
    with here.hold():
        assert leased(storage)[0]["host"] != "far"
    with pytest.raises(FileNotFoundError):
        leased(storage)


def test_a_driver_whose_lease_was_taken_over_writes_nothing_more(storage, tmp_path):
    run = Run.at(tmp_path / "here", storage, "mine")
    experiment = prepare(config(), run)
    begin(experiment)
    records = train_locally(experiment)
    assert next(records).step == 10
    leased(storage)[1](token="another's", host="far", pid=7, machine="another")
    # What is sent to a worker knows the lease too.
    sent, before = pickle.loads(pickle.dumps(run.mirror)), files_of(storage)
    for write in (lambda: sent.push(run.path), lambda: sent.delete("config.yaml"), lambda: sent.remove(())):
        with pytest.raises(LeaseLost):
            write()
    with pytest.raises(LeaseLost, match=r"by process 7 on far, .*; it took over from this process"):
        list(records)
    assert files_of(storage) == before
    assert leased(storage)[0]["token"] == "another's"


def test_of_two_that_take_a_lease_at_once_one_can_write(storage, tmp_path, monkeypatch):
    """However late the other one writes its own: only one of them is then in the file."""
    monkeypatch.setattr("ndsm.runs.lease.SETTLE_SECONDS", 0.0)
    mirrors, meet, answers = [RemoteCopy.under(storage, "mine") for _ in range(2)], threading.Barrier(2), []
    (tmp_path / "metrics.json").write_text("{}")

    def contend(mirror):
        meet.wait()
        try:
            with mirror.hold():
                meet.wait()
                mirror.push_files(tmp_path, "metrics.json")
                answers.append("writes")
        except InputError:
            answers.append("refused")
            meet.wait()
        except LeaseLost:
            answers.append("lost")

    threads = [threading.Thread(target=contend, args=(mirror,)) for mirror in mirrors]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 2
    assert answers.count("writes") == 1


def test_a_lease_that_another_took_over_and_released_is_lost(storage, tmp_path):
    """Its file is gone then, and what the other one wrote must stay."""
    (tmp_path / "metrics.json").write_text("{}")
    mirror = RemoteCopy.under(storage, "mine")
    with mirror.hold():
        fs, root = mirror.arrow
        fs.delete_file(f"{root}/{LEASE}")
        with pytest.raises(LeaseLost, match="took over from this process"):
            mirror.push_files(tmp_path, "metrics.json")
    assert "metrics.json" not in mirror.modified()


def test_all_leases_have_one_size(storage, monkeypatch):
    """Who reads one while it is replaced gets a whole one: the size is asked for first."""
    sizes = set()
    for now in (1.5, 1796021111.1234567):
        monkeypatch.setattr("ndsm.runs.lease.time.time", lambda now=now: now)
        with RemoteCopy.under(storage, "mine").hold():
            fs, root = RemoteCopy.under(storage, "mine").arrow
            sizes.add(fs.get_file_info(f"{root}/{LEASE}").size)
            assert leased(storage)[0]["started"] == now
    assert len(sizes) == 1


def test_a_lease_is_renewed_while_it_is_held(storage, monkeypatch):
    monkeypatch.setattr("ndsm.runs.lease.RENEWAL_SECONDS", 0.05)
    with RemoteCopy.under(storage, "mine").hold():
        first = leased(storage)[0]
        while (now := leased(storage)[0])["expires"] == first["expires"]:
            time.sleep(0.05)
    assert now["expires"] > first["expires"]
    assert now["token"] == first["token"]


def test_what_another_machine_trained_since_it_was_looked_at_is_gone_on_from(tmp_path, train_arcs):
    """And not replaced by what was there when the data were read."""
    storage = (tmp_path / "far away").as_uri()
    train_arcs(Run.at(tmp_path / "first", storage, "mine"), TINY, stop_at=10)
    slow = Run.at(tmp_path / "second", storage, "mine")
    experiment, stood = prepare(config(), slow), slow.last_step()
    train_arcs(Run.at(tmp_path / "first", storage, "mine"), TINY)
    begin(experiment)
    assert stood < slow.last_step() == 40
