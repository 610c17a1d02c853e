"""Cost of learning ε: one update of the control variate over N_CV = 20 training steps, one thread.

    python benchmarks/control_variate.py

The paper's toy network (7 x 32 GELU, 250 rows of d = 2) and its U-Net (64 rows of 28 x 28, two evaluations each); steps and
updates are timed in turn, and each pair gives a share. For the U-Net also the highest resident memory of a
process that only takes steps, and of one that makes updates too.
"""

import argparse
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ndsm.config import load_config
from ndsm.data import load
from ndsm.simulation import rollout
from ndsm.training import Trainer, fit_mixture
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import build_problem

EVERY = 20


def paper_mlp() -> tuple[Trainer, Tensor, dict[str, Tensor]]:
    """A trainer of the paper's toy network, and a batch: as rows and by name."""
    config = load_config("toy-arcs", {"network.width": 32, "network.depth": 7})
    dataset = load(config.data, 0)
    problem = build_problem(config, fit_mixture(config, dataset.train), dataset.stamp)
    rows = torch.from_numpy(rollout(problem.spec, dataset.train, 0))[:250]
    return start(problem, None)[0], rows, problem.spec.layout.split(rows)


def paper_unet() -> tuple[Trainer, Tensor, dict[str, Tensor]]:
    """The same of its U-Net; the images are Gaussian noise, which costs what others do."""
    network = {"kind": "unet", "width": 32, "depth": 4}
    config = load_config("digits", {"network": network, "reference.n_components": 1})
    images = np.random.default_rng(0).normal(size=(2000, 784)).astype(np.float32)
    problem = build_problem(config, fit_mixture(config, images), "noise")
    rows = torch.from_numpy(rollout(problem.spec, images, 0))[:64]
    return start(problem, None)[0], rows, problem.spec.layout.split(rows)


NETWORKS = {"mlp": paper_mlp, "unet": paper_unet}


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Mean wall seconds of a call."""
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


def print_share(name: str, steps: int, updates: int) -> None:
    """The share of the training time of a network's updates, from 11 pairs of timings of so many calls."""
    trainer, rows, named = NETWORKS[name]()
    trainer.step(rows), trainer.gradient_moments(named)
    pairs = []
    for _ in range(11):
        step = seconds(lambda: trainer.step(rows), steps)
        pairs.append((step, seconds(lambda: trainer.gradient_moments(named), updates)))
    shares = [100 * update / (EVERY * step) for step, update in pairs]
    step, update = (1000 * statistics.median(times) for times in zip(*pairs, strict=True))
    print(
        f"{name}: update of ε every {EVERY} steps: {statistics.median(shares):.1f} % of the training time "
        f"(target <= 15 %), range {min(shares):.1f}-{max(shares):.1f} %; step {step:.1f} ms, update {update:.1f} ms",
        flush=True,
    )


def print_peak(updates: int) -> None:
    """Highest resident memory of this process, MB, during steps and updates of the U-Net (Linux)."""
    trainer, rows, named = paper_unet()
    # Forget the mixture's fit and the rollout, whose memory is higher.
    Path("/proc/self/clear_refs").write_text("5")
    for _ in range(5):
        trainer.step(rows)
    for _ in range(updates):
        trainer.gradient_moments(named)
    status = Path("/proc/self/status").read_text()
    print(int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024)


def main() -> None:
    """Print the shares, then the memory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--peak-after", type=int, metavar="UPDATES", help="print this process's memory only")
    peak_after = parser.parse_args().peak_after
    torch.set_num_threads(1)
    if peak_after is not None:
        print_peak(peak_after)
        return
    print_share("mlp", 20, 5)
    print_share("unet", 3, 1)
    command = [sys.executable, __file__, "--peak-after"]
    without, having = (float(subprocess.check_output([*command, str(n)])) for n in (0, 3))
    print(
        f"unet: highest resident memory {without:.0f} MB by steps, {having:.0f} MB with updates: "
        f"{having - without:.0f} MB more (target <= 1500 MB)"
    )


if __name__ == "__main__":
    main()
