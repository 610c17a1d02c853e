"""Workers that are forked from a process with their imports done: as the raylet starts them, and without one."""

import json
import os
import subprocess
import sys
import time

import pytest

from pipelines import standby

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a standby is for Linux")

SERVE = """
import sys
from pipelines import standby
standby.QUIET_SECONDS, standby.MODULES = 0.0, ("colorsys",)
standby.serve(sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""
WORKER = """
import json, os, sys
found = {"pid": os.getpid(), "parent": os.getppid(), "arguments": sys.argv[1:], "word": os.environ.get("WORD"), "folder": os.getcwd()}
print(json.dumps(found | {"imported": "colorsys" in sys.modules, "first": sys.path[0], "name": __name__}), flush=True)
sys.stdin.read(1)
sys.stderr.write("the end")
"""


@pytest.fixture
def raylet():
    """A process that a standby belongs to."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process
        process.kill()


@pytest.fixture
def file(tmp_path):
    """In place of Ray's file for workers."""
    path = tmp_path / "worker.py"
    path.write_text(WORKER)
    return path


def started(folder, file, word):
    """A worker, by the command that Ray is given; and what it says at first.

    The shell is the raylet, with which a standby ends that the command leaves behind.
    """
    line = [
        "bash",
        "-c",
        '"$@"; exit',
        "raylet",
        sys.executable,
        standby.__file__,
        "key",
        str(file),
        f"--raylet-name={folder}/raylet",
        "--more",
    ]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    worker = subprocess.Popen(line, env={**os.environ, "WORD": word}, cwd=file.parent, text=True, **pipes)
    return worker, json.loads(worker.stdout.readline())


def test_workers_are_forks_with_their_own_environment_folder_and_output(tmp_path, file, raylet, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"raylet-standby-{standby.standby_key('key')}"
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(tmp_path), name, str(raylet.pid)])
    while not (tmp_path / name).exists():
        assert process.poll() is None
        time.sleep(0.05)
    assert (tmp_path / name).stat().st_mode & 0o077 == 0
    workers = [started(tmp_path, file, word) for word in ("one", "two")]
    assert [said["word"] for _, said in workers] == ["one", "two"]
    for _, said in workers:
        assert said["imported"]
        assert said["parent"] == process.pid
        assert os.getpgid(said["pid"]) == said["pid"]
        assert said["arguments"] == [f"--raylet-name={tmp_path}/raylet", "--more"]
        assert (said["folder"], said["first"], said["name"]) == (str(tmp_path), str(tmp_path), "__main__")
    # The command that the raylet knows of lives as long as its worker.
    for worker, _ in workers:
        assert worker.poll() is None
        assert worker.communicate("x") == ("", "the end")
        assert worker.returncode == 0
    raylet.kill()
    assert process.wait() == 0


def test_without_a_standby_the_command_is_the_worker(tmp_path, file):
    worker, said = started(tmp_path, file, "one")
    assert (said["parent"], said["imported"], said["word"]) == (worker.pid, False, "one")
    assert worker.communicate("x")[1] == "the end"


def test_another_softwares_or_jobs_standby_is_not_asked(monkeypatch):
    """Ray's native code in a fork has the job that it had when it was imported, and its raylet ends a worker of a job that is over."""
    jobs = []
    for job in ("01000000", "02000000"):
        monkeypatch.setenv("RAY_JOB_ID", job)
        jobs.append(standby.standby_key("key"))
    assert jobs[0] != jobs[1]
    first, second = (standby.worker_environment({"ndsm": version}) for version in "12")
    assert first != second
    assert first == standby.worker_environment({"ndsm": "1"})


def test_where_this_file_is_not_rays_ordinary_command_is_taken(tmp_path, monkeypatch):
    """The shell is a raylet's child, whose arguments have the command."""
    monkeypatch.setattr(standby, "__file__", str(tmp_path / "standby.py"))
    executable = standby.worker_environment({})["py_executable"]
    monkeypatch.setenv("NDSM_STANDBY", "0")
    assert standby.worker_environment({}) == {}
    shell = (
        f"import subprocess; subprocess.run(['bash', '-c', 'exec ' + {executable!r} + ' -c \"print(7)\"'])"
    )
    line = [sys.executable, "-c", shell, f"--python_worker_command={sys.executable} setup_worker.py --more"]
    assert subprocess.run(line, capture_output=True, text=True, check=True).stdout == "7\n"
