"""Quality of objectives after the same training time on digits: 10 %, 30 % and 100 % of a budget, several seeds.

    python benchmarks/quality_per_time.py [--seconds 60] [--seeds 3] [--out quality.json]

Same network, batch (in evaluations of the network), integrator, learning rate and average for all; the learning rate is
constant, so that every point in time is a fair place to stop. Time is processor time of trainer and simulator together, which
other work on the machine does not change. Printed is the Fréchet distance between normal fits of generated and of
held-out images, |m₁ - m₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½), in the data's standardised unit, and the total variation of the
class shares, each with its spread over seeds.
"""

import argparse
import copy
import json
import statistics
import time
from typing import Any

import numpy as np
import torch

from ndsm.config import load_config
from ndsm.data import Dataset, load
from ndsm.experiment import Generator, build_problem, fingerprint, start
from ndsm.metrics import evaluate
from ndsm.training import Resume, fit_mixture, local_source, open_replay, train

COMMON: dict[str, Any] = {
    "process.integrator": "exponential",
    "process.grid.steps": 40,
    "train.steps": 10**6,
    "train.lr_schedule": "constant",
    "train.report_seconds": 0.2,
    "sample.sampler": "exponential",
    "sample.steps": 100,
}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "ndsm-cv": {"objective.kind": "ndsm-cv"},
    "path": {"objective.kind": "path"},
    "path, ε = 1": {"objective.kind": "path", "objective.epsilon": {"kind": "constant", "value": 1.0}},
}
FRACTIONS = (0.1, 0.3, 1.0)
N = 2000


def frechet(x: np.ndarray, y: np.ndarray) -> float:
    """Fréchet distance between normal fits of (n, d) and (m, d) rows."""
    a, b = (torch.from_numpy(np.cov(r.astype(np.float64), rowvar=False)) for r in (x, y))
    values, vectors = torch.linalg.eigh(a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    cross = torch.linalg.eigvalsh(root @ b @ root).clamp(min=0).sqrt().sum()
    return float(((x.mean(0) - y.mean(0)) ** 2).sum() + a.trace() + b.trace() - 2 * cross)


def measure(dataset: Dataset, rows: np.ndarray, prior: np.ndarray, seed: int) -> tuple[float, float]:
    """Fréchet distance to the whole data, and total variation of the class shares."""
    everything = np.concatenate([dataset.train, dataset.validation])
    return frechet(rows, everything), evaluate(dataset, rows, prior, seed)["class_share_tv"]


def run(fields: dict[str, Any], seed: int, seconds: float) -> list[tuple[int, float, float]]:
    """Steps, Fréchet distance and total variation at each fraction of the budget."""
    config = load_config("digits", {**COMMON, **fields, "train.seed": seed})
    dataset = load(config.data, seed)
    problem = build_problem(config, fit_mixture(config, dataset.train), fingerprint(dataset))
    trainer, resume = start(problem, None)
    replay = open_replay(problem, Resume(), 0, local_source(problem, dataset.train, resume))
    found: list[tuple[int, float, float]] = []
    spent, started = 0.0, time.process_time()
    for record in train(trainer, replay, problem, resume):
        while (
            len(found) < len(FRACTIONS)
            and spent + time.process_time() - started >= FRACTIONS[len(found)] * seconds
        ):
            spent += time.process_time() - started
            generator = Generator(problem, copy.deepcopy(trainer.ema).eval(), torch.device("cpu"))
            rows = np.concatenate(list(generator.rows(N, seed)))
            found.append((record.step, *measure(dataset, rows, generator.prior_rows(N, seed), seed)))
            started = time.process_time()
        if len(found) == len(FRACTIONS):
            break
    replay.source.close()
    return found


def main() -> None:
    """Print one line per objective and fraction."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load(load_config("digits").data, 0)
    mixture = fit_mixture(load_config("digits"), dataset.train)
    alone = measure(dataset, *[mixture.sample(N, torch.Generator().manual_seed(0)).numpy()] * 2, 0)
    print(
        f"mixture alone {alone[0]:.3f}, {alone[1]:.4f}; held-out against training images "
        f"{frechet(dataset.validation, dataset.train):.3f}"
    )
    table: dict[str, list[list[tuple[int, float, float]]]] = {name: [] for name in OBJECTIVES}
    # Objectives take turns within a seed, so that what changes with time hits all of them.
    for seed in range(options.seeds):
        for name, fields in OBJECTIVES.items():
            table[name].append(run(fields, seed, options.seconds))
    for k, fraction in enumerate(FRACTIONS):
        for name, runs in table.items():
            steps, distances, variations = zip(*(r[k] for r in runs), strict=True)
            print(
                f"{100 * fraction:3.0f} % {name:12} Fréchet {statistics.mean(distances):6.3f} "
                f"({min(distances):.3f}-{max(distances):.3f}), class shares TV {statistics.mean(variations):.4f} "
                f"({min(variations):.4f}-{max(variations):.4f}), {statistics.mean(steps):.0f} steps",
                flush=True,
            )
    if options.out:
        with open(options.out, "w", encoding="utf-8") as f:
            json.dump(table, f)


if __name__ == "__main__":
    main()
