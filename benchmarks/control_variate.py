"""Cost of learning ε: one update of the control variate over N_CV = 20 training steps, one thread.

    python benchmarks/control_variate.py

The paper's network (7 x 32 GELU) and batch (250 rows); steps and updates are timed in turn.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from ndsm.config import load_config
from ndsm.data import load
from ndsm.experiment import build_problem, fingerprint, start
from ndsm.processes import rollout
from ndsm.training import fit_mixture


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Mean wall seconds of a call."""
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


def main() -> None:
    """Print one line."""
    torch.set_num_threads(1)
    config = load_config("toy-arcs", {"network.width": 32, "network.depth": 7})
    dataset = load(config.data, 0)
    problem = build_problem(config, fit_mixture(config, dataset.train), fingerprint(dataset))
    trainer, _ = start(problem, None)
    rows = torch.from_numpy(rollout(problem.spec, dataset.train, 0))[:250]
    named = problem.spec.layout.split(rows)
    shares = []
    for _ in range(11):
        step = seconds(lambda: trainer.step(rows), 20)
        update = seconds(lambda: trainer.gradient_moments(named), 5)
        shares.append(update / (20 * step))
    print(
        f"update of ε every 20 steps: {100 * statistics.median(shares):.1f} % of the training time "
        f"(target <= 15 %), range {100 * min(shares):.1f}-{100 * max(shares):.1f} %"
    )


if __name__ == "__main__":
    main()
