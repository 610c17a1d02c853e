"""Folders of results at a path or a URI, and paths that would not last."""

import json
import pickle

import pytest

from ndsm.cli import main
from ndsm.core.atomic_file import write_whole
from ndsm.core.places import Flag, Place, Transfers, check_lasting, child
from ndsm.errors import InputError
from ndsm.reproduce.remote import StudyCopy
from ndsm.runs import Run


@pytest.mark.parametrize("as_uri", [False, True])
def test_a_folder_is_the_same_at_a_path_and_at_a_uri(as_uri, tmp_path):
    folder = tmp_path / "new" / "folder"
    place = pickle.loads(pickle.dumps(Place(folder.as_uri() if as_uri else folder)))
    assert (place.path is None) == as_uri
    assert not place.exists()
    assert place.names() == []
    place.write("below/a", b"content")
    with pytest.raises(ZeroDivisionError), place.new_file("b.txt"):
        raise ZeroDivisionError
    assert place.names() == ["below/a"]
    assert place.read("below/a") == (folder / "below" / "a").read_bytes() == b"content"
    flag = Flag(place, "stop")
    assert not flag.exists()
    flag.touch()
    assert flag.exists()
    flag.unlink()
    flag.unlink()
    place.delete("below/a")
    assert place.names() == []


def test_a_file_is_transferred_again_only_once_it_has_changed(tmp_path):
    place, mine = Place((tmp_path / "far").as_uri()), tmp_path / "mine"
    place.write("runs/a", b"first")
    transfers = Transfers(place)
    transfers.fetch("runs/a", mine)
    assert (mine / "runs" / "a").read_bytes() == b"first"
    place.write("runs/a", b"of another process")
    transfers.send("runs/a", mine)
    assert place.read("runs/a") == b"of another process"
    (mine / "runs" / "a").write_bytes(b"longer than before")
    transfers.send("runs/a", mine)
    assert place.read("runs/a") == b"longer than before"
    place.write("runs/a", b"lost")
    transfers.forget()
    transfers.send("runs/a", mine)
    assert place.read("runs/a") == b"longer than before"
    with pytest.raises(FileNotFoundError):
        transfers.fetch("runs/b", mine)
    assert [p.name for p in (mine / "runs").iterdir()] == ["a"]


def test_the_results_of_a_study_at_a_uri_are_taken_up_and_one_process_writes_them(tmp_path):
    uri, mine, yours = (tmp_path / "far" / "study").as_uri(), tmp_path / "mine", tmp_path / "yours"
    study = StudyCopy(uri, ["one"])
    # The lease makes the local folder that it lies in.
    with study.hold():
        with pytest.raises(InputError, match="is being written by process"), StudyCopy(uri, []).hold():
            pass
        write_whole(mine / "results.json", b"{}")
        write_whole(mine / "samples" / "one.npy", b"rows")
        write_whole(mine / "notes.txt", b"not sent")
        study.push(mine)
    assert study.place.names() == ["results.json", "samples/one.npy"]
    StudyCopy(uri, ["one"]).pull(yours, fresh=False)
    assert (yours / "samples" / "one.npy").read_bytes() == b"rows"
    StudyCopy(uri, ["one"]).pull(yours, fresh=True)
    assert study.place.names() == []


def test_a_folder_below_keeps_the_options_of_the_file_system():
    assert child("s3://bucket/all/?region=here", "one") == "s3://bucket/all/one?region=here"
    assert child("all", "one") == "all/one"


def test_a_relative_path_in_a_ray_jobs_copy_of_the_working_directory_is_refused(
    tmp_path, monkeypatch, capsys
):
    """Ray names such a folder `working_dir_files`; whoever submits again gets another one."""
    folder = tmp_path / "working_dir_files" / "_ray_pkg_0"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    for place in (str(tmp_path / "runs"), "s3://bucket/runs"):
        check_lasting(place, "--out")
    for args in (["train", "toy-arcs"], ["tune", "toy-arcs"], ["sample", "run"], ["reproduce", "fig2"]):
        assert main([*args, "--out", "mine"]) == 2
        assert (
            "--out: expected an absolute path or a URI in a Ray job, found 'mine'" in capsys.readouterr().err
        )
    assert main(["train", "toy-arcs", "--train.storage", "mine"]) == 2
    assert "train.storage: expected an absolute path or a URI" in capsys.readouterr().err
    assert list(folder.iterdir()) == []


@pytest.fixture
def trained(tmp_path, train_arcs):
    settings = {"data.n": 300, "network.width": 8, "network.depth": 1, "train.steps": 10}
    return train_arcs(Run(tmp_path / "runs" / "mine"), settings).run


def test_commands_take_the_uri_of_a_run(trained, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = trained.path.as_uri()
    assert main(["evaluate", uri, "--n", "60", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert json.loads((trained.path / "metrics.json").read_text()) == told
    assert told["n"] == 60
    (trained.path / "report.html").unlink()
    assert main(["report", uri]) == 0
    assert capsys.readouterr().out == f"{uri}/report.html\n"
    assert (trained.path / "report.html").is_file()
    assert main(["status", uri, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 10
    rows = tmp_path / "rows"
    assert main(["sample", uri, "--n", "50", "--local", "--out", rows.as_uri()]) == 0
    assert {p.name for p in rows.iterdir()} == {"part-00000.parquet", "_generation.json"}
    with pytest.raises(InputError, match=r"expected a run with a config\.yaml, found none"):
        Run.open(tmp_path.as_uri())
