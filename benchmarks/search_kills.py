"""Kills of a search's driver at random moments: what the same command makes of it.

    python benchmarks/search_kills.py [--kills 5] [--trials 12] [--seconds 20] [--seed 0] [--out FOLDER]

`ndsm tune` is started, and its driver killed (SIGKILL) after a random time of at most `--seconds` from the moment that
its trials run; again, until it was killed often enough; then it is left to end. As many trials must have ended as were
asked for, each trained to its last step once and none with the values of another, and no process of the killed clusters may be
left.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

TINY = {
    "data.n": 500, "train.steps": 900, "train.batch-rows": 32, "train.block-mb": 0.05, "network.width": 16,
    "network.depth": 2, "sample.steps": 40, "sample.sampler": "exponential", "reference.n-init": 1,
    "train.checkpoint-seconds": 0.5, "train.report-seconds": 0.2, "evaluate.n": 300, "rows": 200,
}  # fmt: skip
FROZEN = "reference.covariance_type,reference.bayesian,reference.fit_samples,process.grid.steps"


def command(folder: Path, trials: int) -> list[str]:
    """The search's command line."""
    options = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
    search = ["--trials", str(trials), "--freeze", FROZEN, "--finalists", "1", "--seeds", "1"]
    where = ["--out", str(folder), "--name", "search"]
    return [sys.executable, "-m", "ndsm", "tune", "toy-arcs", *where, *search, *options]


def records(folder: Path) -> list[dict[str, Any]]:
    """What the trials' files say."""
    found = sorted((folder / "search" / "trials").glob("*/trial.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in found]


def kill_once(folder: Path, trials: int, seconds: float) -> bool:
    """Start the search and kill its driver after so many seconds of trials; false if it ended before."""
    starts = sum(r["starts"] for r in records(folder))
    driver = subprocess.Popen(command(folder, trials), stdout=subprocess.DEVNULL, start_new_session=True)
    while sum(r["starts"] for r in records(folder)) == starts and driver.poll() is None:
        time.sleep(0.1)
    time.sleep(seconds)
    if driver.poll() is not None:
        return False
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    wait_for_the_session_to_end(driver.pid)
    return True


def wait_for_the_session_to_end(session: int, seconds: float = 180.0) -> None:
    """Nothing, once no process of the driver's session lives; Ray's agents look for their raylet now and then.

    Raises:
        TimeoutError: some still do.
    """
    deadline = time.monotonic() + seconds
    while left := _alive(session):
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes of a killed search that live on: {left}")
        time.sleep(0.5)


def _alive(session: int) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, rest = path.read_text().rpartition(")")
        except OSError:
            continue
        state, _, _, sid = rest.split()[:4]
        if int(sid) == session and state != "Z":
            found.append(head)
    return found


def finals(folder: Path) -> list[int]:
    """How often each finished trial's last step was taken."""
    counts = []
    for path in sorted((folder / "search" / "trials").glob("*/trial.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["status"] == "done":
            lines = (path.parent / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
            counts.append(sum(json.loads(line)["step"] == record["steps"] for line in lines))
    return counts


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    folder = args.out or Path(tempfile.mkdtemp())
    generator = random.Random(args.seed)
    kills = 0
    for _ in range(args.kills):
        if not kill_once(folder, args.trials, generator.uniform(0, args.seconds)):
            break
        kills += 1
        ended = sum(r["status"] in ("done", "stopped", "failed") for r in records(folder))
        print(f"kill {kills}: {ended} of {args.trials} trials had ended", flush=True)
    last = subprocess.run(command(folder, args.trials), check=False, capture_output=True, text=True)
    if last.returncode:
        sys.exit(f"the last start ended with exit code {last.returncode}: {last.stderr}")
    every = records(folder)
    ended = [r for r in every if r["status"] in ("done", "stopped", "failed")]
    failed = [r["reason"] for r in ended if r["status"] == "failed"]
    if len(ended) != args.trials or set(finals(folder)) != {1} or failed:
        sys.exit(f"{len(ended)} trials ended, last steps taken {finals(folder)} times, failed: {failed}")
    values = [json.dumps(r["params"], sort_keys=True) for r in every]
    if twice := {v for v in values if values.count(v) > 1}:
        sys.exit(f"several trials had the values {', '.join(sorted(twice))}")
    resumed = sum(r["starts"] > 1 for r in ended)
    print(
        f"{kills} kills: {len(ended)} trials ended, none trained twice, {resumed} resumed from a checkpoint"
    )


if __name__ == "__main__":
    main()
