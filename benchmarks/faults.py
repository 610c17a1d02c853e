"""Goodput of a training while random faults hit its trainers, simulators, nodes, storage and driver.

    python benchmarks/faults.py --seed 0 --rate 1 [--minutes 20] [--kinds trainer,simulator,node,storage,driver] [--folder FOLDER]

A Ray cluster of five nodes on this machine (a head without work, two nodes for a trainer each, two for a simulator each) trains
`ndsm train digits` with `train.workers 1,2`, two simulators and a URI as `train.storage`. Faults come at random times, `--rate` of them a
minute on average, of random kinds, both by the seed:

    trainer    SIGKILL of a worker's process
    simulator  SIGKILL of a simulator's process
    node       SIGKILL of all processes of a trainer's or a simulator's node; another node takes its place 5 s later
    storage    the storage does not answer for 8 s
    driver     SIGKILL of the command, which is typed again at once

Each fault is checked to have hit: the process or node is gone, the storage refuses. How long it took until training reported
again is its `recovery`. The last line is a JSON object with the faults, `goodput` and its parts; the exit code is 1 if a fault did not hit or
training did not come back. With `--folder` the run stays there, and the same command goes on with it.
"""

import argparse
import ctypes
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

KINDS = ("trainer", "simulator", "node", "storage", "driver")
AWAY_SECONDS = 8.0
"""For which the storage does not answer."""
NODE_SECONDS = 5.0
"""Until another node takes a lost one's place."""
START_SECONDS = 300.0
"""In which training has to begin."""
RECOVERY_SECONDS = 240.0
"""In which it has to report again after the last fault."""
PARTS = ("useful_seconds", "stall_seconds", "pause_seconds", "warm_up_seconds", "restart_seconds")
PR_SET_CHILD_SUBREAPER = 36
"""Of Linux's <sys/prctl.h>."""
HEALTH = {
    "health_check_initial_delay_ms": 0, "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000, "health_check_failure_threshold": 5,
}  # fmt: skip
"""Node losses are seen after some seconds, not after Ray's half minute."""


@dataclass
class Fault:
    """One fault, and what became of it."""

    kind: str
    at: float
    """Seconds from the first report of the training."""
    hit: bool = False
    recovery: float | None = None
    """Seconds until the next report that came after it."""


def schedule(seed: int, rate: float, minutes: float, kinds: tuple[str, ...] = KINDS) -> list[Fault]:
    """The faults of a Poisson process of `rate` a minute, each of a kind chosen uniformly."""
    random = np.random.default_rng(seed)
    at, faults = 0.0, []
    while (at := at + random.exponential(60.0 / rate)) < 60.0 * minutes:
        faults.append(Fault(kinds[random.integers(len(kinds))], at))
    return faults


def recoveries(faults: list[Fault], begun: float, lines: list[dict[str, Any]]) -> None:
    """Note for each fault how long training took to report again.

    Args:
        begun: Unix time from which the faults' times count.
        lines: of `metrics.jsonl`. Those of workers that a fault has not reached yet do not count: after a restart `restarts` is larger.
    """
    for fault in faults:
        when = begun + fault.at
        before = [line["restarts"] for line in lines if line["time"] <= when]
        restarts = max(before, default=0) + (fault.kind in ("trainer", "driver"))
        after = [line["time"] for line in lines if line["time"] > when and line["restarts"] >= restarts]
        fault.recovery = round(after[0] - when, 1) if after else None


class Bed:
    """The cluster, the command, and the faults that can be done to them."""

    def __init__(self, folder: Path, seed: int) -> None:
        from ray.cluster_utils import Cluster

        # What a node's processes leave behind stays this process's: workers are forked by one that is nobody's child.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        # Nodes of one machine, and a command that would otherwise take a token for them from this user's home folder.
        os.environ["RAY_AUTH_MODE"] = "disabled"
        self.folder, self._random = folder, np.random.default_rng([seed, 1])
        self.run, self._disk = folder / "runs" / "faults", folder / "disk"
        self._disk.mkdir(parents=True, exist_ok=True)
        head = {
            "num_cpus": 0, "object_store_memory": 200 << 20, "include_dashboard": False, "_system_config": HEALTH
        }  # fmt: skip
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self._nodes = [(what, self._add(what)) for what in ("trainer", "sim") * 2]
        self._log = (folder / "command.txt").open("a")
        self.command = self._type()
        self._returns: list[tuple[float, str]] = []

    def _add(self, what: str) -> Any:
        return self.cluster.add_node(num_cpus=1, resources={what: 1}, object_store_memory=200 << 20)

    def _type(self) -> subprocess.Popen[bytes]:
        fields = {
            "steps": 10**8, "device": "cpu", "workers": "1,2", "simulators": 2, "storage": self._disk.as_uri(),
            "lr-schedule": "constant", "checkpoint-seconds": 5, "report-seconds": 1, "max-failures": -1, "batch-rows": 500,
        }  # fmt: skip
        options = [word for name, value in fields.items() for word in (f"--train.{name}", str(value))]
        line = [
            sys.executable,
            "-m",
            "ndsm",
            "train",
            "digits",
            "--name",
            "faults",
            "--out",
            str(self.folder / "runs"),
        ]
        environment = {**os.environ, "RAY_ADDRESS": self.cluster.address}
        return subprocess.Popen(
            line + options,
            env=environment,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def lines(self) -> list[dict[str, Any]]:
        """Lines of `metrics.jsonl` so far."""
        path = self.run / "metrics.jsonl"
        whole = path.read_bytes().rpartition(b"\n")[0] if path.is_file() else b""
        return [json.loads(line) for line in whole.splitlines()]

    def processes(self, title: str) -> list[psutil.Process]:
        """Processes of this cluster whose title begins so."""
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                if (process.cmdline() or [""])[0].startswith(title):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def do(self, kind: str) -> bool:
        """Let a fault happen; whether it hit."""
        return bool(getattr(self, f"_{kind}")())

    def _kill(self, title: str) -> bool:
        if not (found := self.processes(title)):
            return False
        process = found[self._random.integers(len(found))]
        process.kill()
        try:
            process.wait(10)
        except psutil.TimeoutExpired:
            return False
        return True

    def _trainer(self) -> bool:
        return self._kill("ray::RayTrainWorker")

    def _simulator(self) -> bool:
        return self._kill("ray::Simulator")

    def _node(self) -> bool:
        if not self._nodes:
            return False
        what, node = self._nodes.pop(int(self._random.integers(len(self._nodes))))
        self.cluster.remove_node(node, allow_graceful=False)
        self._returns.append((time.monotonic() + NODE_SECONDS, what))
        return not node.any_processes_alive()

    def _storage(self) -> bool:
        if not self._disk.is_dir():
            # It is away already.
            return True
        self._disk.rename(self.folder / "aside")
        self._disk.write_text("no folder")
        self._returns.append((time.monotonic() + AWAY_SECONDS, "storage"))
        return not self._disk.is_dir()

    def _driver(self) -> bool:
        os.killpg(self.command.pid, signal.SIGKILL)
        ended = self.command.wait(10) == -signal.SIGKILL
        self.command = self._type()
        return ended

    def look(self) -> None:
        """Bring back what is due, and type the command again if it has ended."""
        due = [entry for entry in self._returns if entry[0] <= time.monotonic()]
        self._returns = [entry for entry in self._returns if entry not in due]
        for _, what in due:
            if what == "storage":
                self._disk.unlink()
                (self.folder / "aside").rename(self._disk)
            else:
                self._nodes.append((what, self._add(what)))
        if self.command.poll() is not None:
            self._log.write(
                f"the command ended with exit code {self.command.returncode} and is typed again\n"
            )
            self._log.flush()
            time.sleep(1)
            self.command = self._type()

    def stop(self) -> None:
        """Ctrl-C, and the end of the cluster."""
        self.command.send_signal(signal.SIGINT)
        try:
            self.command.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(self.command.pid, signal.SIGKILL)
        self._log.close()
        self.cluster.shutdown()


def train_through(bed: Bed, faults: list[Fault], seconds: float) -> float:
    """Train for so long, with the faults at their times; Unix time of the first report."""
    before, deadline = len(bed.lines()), time.monotonic() + START_SECONDS
    while len(bed.lines()) == before:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no training after {START_SECONDS:g} s: see {bed.folder / 'command.txt'}")
        bed.look()
        time.sleep(0.2)
    begun = time.time()
    waiting = list(faults)
    while time.time() - begun < seconds:
        bed.look()
        if waiting and time.time() - begun >= waiting[0].at:
            fault = waiting.pop(0)
            # What is killed has to be there first: after another fault it may still be starting.
            fault.hit = bed.do(fault.kind)
            late = time.time() + RECOVERY_SECONDS
            while not fault.hit and time.time() < late:
                bed.look()
                time.sleep(0.5)
                fault.hit = bed.do(fault.kind)
            fault.at = round(time.time() - begun, 1)
            print(f"{fault.at:7.1f} s  {fault.kind}{'' if fault.hit else '  DID NOT HIT'}", flush=True)
        time.sleep(0.2)
    last, deadline = (
        begun + max((fault.at for fault in faults), default=0.0),
        time.monotonic() + RECOVERY_SECONDS,
    )
    while bed.lines()[-1]["time"] <= last and time.monotonic() < deadline:
        bed.look()
        time.sleep(0.5)
    return begun


def main() -> None:
    """Train through the faults and print what it cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rate", type=float, default=1.0)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    faults = schedule(options.seed, options.rate, options.minutes, tuple(options.kinds.split(",")))
    folder = options.folder or Path(tempfile.mkdtemp(prefix="faults-"))
    bed = Bed(folder.resolve(), options.seed)
    try:
        begun = train_through(bed, faults, 60.0 * options.minutes)
        lines = bed.lines()
    finally:
        bed.stop()
    recoveries(faults, begun, lines)
    last = lines[-1]
    print(f"\n{'kind':10} {'faults':>6} {'hit':>4} {'recovery: median':>17} {'longest':>8}")
    for kind in KINDS:
        own = [fault for fault in faults if fault.kind == kind]
        took = [fault.recovery for fault in own if fault.recovery is not None]
        middle, longest = (np.median(took), max(took)) if took else (float("nan"), float("nan"))
        print(f"{kind:10} {len(own):6} {sum(f.hit for f in own):4} {middle:15.1f} s {longest:6.1f} s")
    print(
        f"goodput {last['goodput']:.3f} of {last['wall_seconds']:.0f} s: "
        + ", ".join(f"{p} {last[p]:.0f}" for p in PARTS)
    )
    came_back = all(fault.hit and fault.recovery is not None for fault in faults)
    found = {
        "seed": options.seed,
        "rate": options.rate,
        "minutes": options.minutes,
        "steps": last["step"],
        "goodput": round(last["goodput"], 4),
        "wall_seconds": last["wall_seconds"],
        **{part: last[part] for part in PARTS},
        "faults": [asdict(fault) for fault in faults],
    }
    print(json.dumps(found))
    if options.folder is None and came_back:
        shutil.rmtree(folder)
    sys.exit(int(not came_back))


if __name__ == "__main__":
    main()
