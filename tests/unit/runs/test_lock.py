"""Who works on a folder: nobody ever works on it unlocked, whoever reads meanwhile and whatever the file system can."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ndsm.errors import InputError, LeaseLost
from ndsm.runs.lock import RunLock

ROOT = Path(__file__).parents[3]
READER = """
import fcntl, sys
with open(sys.argv[1]) as f:
    fcntl.flock(f, fcntl.LOCK_SH)
    print("reads", flush=True)
    sys.stdin.readline()
"""
PROBE = """
import fcntl, sys
with open(sys.argv[1]) as f:
    try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        print("free")
    except BlockingIOError:
        print("locked")
"""
HOLD_WITHOUT_LOCKS = """
import fcntl, sys, time
from pathlib import Path
def flock(*args):
    raise OSError(37, "No locks available")
fcntl.flock = flock
from ndsm.runs.lock import RunLock
with RunLock(Path(sys.argv[1]), "mine is being trained", "go").hold():
    print("held", flush=True)
    time.sleep(100)
"""


@pytest.fixture
def owner(tmp_path):
    return RunLock(tmp_path / "mine" / "owner.json", "mine is being trained", "give another --name")


@pytest.fixture
def reader(owner, tmp_path):
    """Another process in the middle of reading who the owner is, and what lets it go on."""
    with owner.hold():
        pass
    args = [sys.executable, "-c", READER, tmp_path / "mine" / "owner.json"]
    process = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "reads\n"
    yield process
    process.kill()
    process.communicate()


def probe(path):
    return subprocess.run(
        [sys.executable, "-c", PROBE, path], capture_output=True, text=True, check=True
    ).stdout


def test_an_owner_waits_for_a_reader_and_then_has_the_lock(owner, reader, tmp_path, monkeypatch):
    monkeypatch.setattr("ndsm.runs.lock.READER_SECONDS", 60.0)
    threading.Timer(0.3, lambda: (reader.stdin.write("\n"), reader.stdin.flush())).start()
    with owner.hold():
        assert probe(tmp_path / "mine" / "owner.json") == "locked\n"
        assert owner.read().alive
    assert probe(tmp_path / "mine" / "owner.json") == "free\n"


def test_without_the_lock_nobody_works(owner, reader, monkeypatch):
    monkeypatch.setattr("ndsm.runs.lock.READER_SECONDS", 0.2)
    with pytest.raises(InputError, match=r"mine is being trained by process .*: wait for it"), owner.hold():
        pytest.fail("works unlocked")


def test_an_owner_that_has_not_said_who_it_is_counts(owner, tmp_path):
    with owner.hold():
        (tmp_path / "mine" / "owner.json").write_text("")
        assert owner.read().alive
    assert owner.read() is None


def test_a_process_number_that_is_taken_again_elsewhere_is_not_taken_for_oneself(
    owner, reader, tmp_path, monkeypatch
):
    """As in containers of one name, whose processes all are number 1."""
    file = tmp_path / "mine" / "owner.json"
    same = json.loads(file.read_text())
    reader.kill()
    reader.wait()
    with file.open("r+") as f:
        monkeypatch.setattr("ndsm.runs.lock.READER_SECONDS", 0.1)
        fcntl.flock(f, fcntl.LOCK_EX)
        assert (same["pid"], owner.read().alive) == (os.getpid(), True)
        with pytest.raises(InputError, match="is being trained"):
            owner.check_free()


def test_without_locks_a_lease_keeps_another_process_out(owner, tmp_path, monkeypatch):
    def no_locks(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    file = tmp_path / "mine" / "owner.json"
    args = [sys.executable, "-c", HOLD_WITHOUT_LOCKS, file]
    holder = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT)
    try:
        assert holder.stdout.readline() == "held\n"
        monkeypatch.setattr("ndsm.runs.lock.fcntl.flock", no_locks)
        assert (owner.read().pid, owner.read().alive) == (holder.pid, True)
        with pytest.raises(InputError, match=f"is being trained by process {holder.pid} on"):
            owner.check_free()
        refused = rf"by process {holder.pid} on .*, which holds it until .* UTC"
        with pytest.raises(InputError, match=refused), owner.hold():
            pytest.fail("works beside it")
    finally:
        holder.kill()
        holder.wait()
    # Of a process of this machine it is known that it has ended.
    owner.check_free()
    said = pytest.warns(UserWarning, match=r"has no locks .*; a lease in lease\.json takes their place")
    lost = pytest.raises(LeaseLost, match="took over from this process")
    lease = tmp_path / "mine" / "lease.json"
    with said, owner.hold():
        owner.check_held()
        lease.write_text(json.dumps({**json.loads(lease.read_text()), "token": "another's"}))
        with lost:
            owner.check_held()
    assert json.loads(lease.read_text())["token"] == "another's"
