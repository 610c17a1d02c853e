"""A process that is killed while it writes a checkpoint leaves a whole one behind."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def test_twenty_kills_leave_a_whole_checkpoint_each_time():
    program = ROOT / "benchmarks" / "checkpoint_kills.py"
    done = subprocess.run(
        [sys.executable, program, "--kills", "20"],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    found = re.match(
        r"20 kills, (\d+) of them while a file was being written .* (\d+) checkpoints", done.stdout
    )
    assert found is not None
    assert int(found[1]) >= 1
    assert int(found[2]) >= 20
