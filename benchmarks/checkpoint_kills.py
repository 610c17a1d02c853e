"""Kills at random moments of checkpoint writing: what the next process finds.

    python benchmarks/checkpoint_kills.py [--kills 200] [--seed 0]

A process saves checkpoints of a small run one after the other, and says after each which step is safe. It is killed
(SIGKILL) at a random moment, and the run directory is looked at as resuming does: the newest checkpoint must be whole, and
not older than the last one that was said to be safe. The next process goes on from there.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import asdict
from pathlib import Path

import torch

from ndsm.config import load_config
from ndsm.runs import Run
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import RunContext, begin, prepare

SETTINGS = {
    "data.n": 200,
    "network.width": 192,
    "network.depth": 4,
    "train.device": "cpu",
    "train.batch_rows": 10,
    "train.steps": 10**9,
}


def save_for_ever(experiment: RunContext, safe: int) -> None:
    """Save a checkpoint per step, and write its number to the file descriptor `safe` afterwards."""
    trainer, resume = start(experiment.problem, experiment.run.find_checkpoint())
    while True:
        trainer.steps += 1
        for parameter in trainer.model.parameters():
            torch.nn.init.constant_(parameter, trainer.steps % 1000)
        experiment.run.save_checkpoint(trainer.state(), asdict(resume))
        os.write(safe, f"{trainer.steps}\n".encode())


def kill_once(experiment: RunContext, after: float) -> int:
    """Start a process that saves, kill it `after` seconds from its first checkpoint on; the last safe step."""
    read, write = os.pipe()
    # A fork: importing torch again would take longer than all the writing.
    if (child := os.fork()) == 0:
        save_for_ever(experiment, write)
    os.close(write)
    first = os.read(read, 100)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    said = first
    while more := os.read(read, 1 << 16):
        said += more
    os.close(read)
    return int(said.rpartition(b"\n")[0].split(b"\n")[-1])


def main() -> None:
    """Kill, look, repeat; exit code 1 if ever a checkpoint was lost or damaged."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    random.seed(options.seed)
    partial = 0
    with tempfile.TemporaryDirectory() as folder:
        experiment = prepare(load_config("toy-arcs", SETTINGS), Run(Path(folder) / "run"))
        begin(experiment)
        # What torch imports late, it imports here and not in every child.
        start(experiment.problem, None)
        for kill in range(options.kills):
            safe = kill_once(experiment, random.uniform(0, 0.05))
            partial += any((experiment.run.path / "checkpoints").glob(".*.partial"))
            try:
                saved = experiment.run.find_checkpoint()
            except Warning as damage:
                sys.exit(f"kill {kill}: {damage}")
            step = saved.state["steps"] if saved else 0
            weights = (
                {float(w.flatten()[0]) for n, w in saved[0]["model"].items() if "layers" in n}
                if saved
                else {}
            )
            if step < safe or weights != {float(step % 1000)}:
                sys.exit(f"kill {kill}: step {safe} was safe, found step {step} with weights {weights}")
        size = max((experiment.run.path / "checkpoints").glob("step-*")).stat().st_size
    print(
        f"{options.kills} kills, {partial} of them while a file was being written ({size / 2**20:.1f} MB each), "
        f"{step} checkpoints saved: every restart found a whole one, none older than the last that was safe"
    )


if __name__ == "__main__":
    main()
