"""The hosts themselves: what they share, what they do not, and that nothing of them stays."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from host_bed import HIDDEN, HOME, hosts, why_not
from settle import wait_for

ANSWER = "python -m http.server 8000"
ASK = "curl -s -m 2 http://head:8000"


def processes(mark):
    """Numbers of the processes of this machine whose command line has the mark."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes()
        except OSError:
            continue
        if mark.encode() in command:
            found.add(int(path.parent.name))
    return found - {os.getpid()}


def test_hosts_share_no_file_and_know_each_other_by_name():
    with hosts(2) as (head, a):
        assert head.do("hostname") == "head\n"
        for folder in (*HIDDEN, HOME):
            head.do(f"touch {folder}/left && ls {folder}/left")
            assert a.run(f"ls {folder}/left").rc != 0
            assert not Path(folder, "left").exists()
        refused = head.run(f"touch {Path(__file__).parent}/left")
        assert refused.rc == 1
        assert "Read-only file system" in refused.err
        (a.home / "given").write_text("from here")
        assert a.do("cat given") == "from here"
        head.start(ANSWER)
        wait_for(lambda: a.run(ASK).rc == 0)


def test_a_host_can_lose_its_network_and_be_killed():
    with hosts(2) as (head, a):
        server = head.start(ANSWER)
        wait_for(lambda: a.run(ASK).rc == 0)
        head.cut()
        assert a.run(ASK).rc == 28  # curl's code for no answer in time
        head.mend()
        wait_for(lambda: a.run(ASK).rc == 0)
        head.kill()
        assert server.rc is not None
        assert a.run(ASK).rc != 0


def test_a_command_has_its_own_signals_and_exit_code():
    with hosts(1) as (head,):
        assert head.run("exit 3").rc == 3
        script = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); print(1, flush=True); signal.pause()"
        command = head.start(f'python -c "{script}"')
        wait_for(lambda: command.out == "1\n")
        command.send(signal.SIGTERM)
        assert command.wait(20).rc == 143


def test_nothing_stays_of_hosts_whose_maker_is_killed():
    mark = f"123456.{os.getpid()}"
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parents[1] / "helpers")!r})
from host_bed import hosts
with hosts(1) as (head,):
    head.start("sleep {mark}")
    print("made", flush=True)
    time.sleep(100)
"""
    if reason := why_not():
        pytest.skip(reason)
    maker = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert maker.stdout is not None
    assert maker.stdout.readline() == "made\n"
    wait_for(lambda: processes(f"sleep\0{mark}"))
    maker.kill()
    maker.wait()
    wait_for(lambda: not processes(f"sleep\0{mark}"))
