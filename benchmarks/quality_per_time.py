"""Quality of objectives after the same training time: 10 %, 30 % and 100 % of a budget, several seeds.

    python benchmarks/quality_per_time.py [digits|mnist-latent|mnist] [--seconds 60] [--seeds 3] [--objectives ndsm-cv,path]
        [--root data] [--out FILE]

Same network, batch, integrator, learning rate and average for all; the learning rate is constant, so that every point in
time is a fair place to stop. Time is processor time of trainer and simulator together, which other work on the machine
does not change. Printed are the distance of generated from real images and the total variation of the class shares, each
with its spread over seeds. The distance on MNIST is FID against held-out images (of latent data: against decoded held-out
codes); on digits the Fréchet distance between normal fits of the pixels of generated and of all images,
|m₁ - m₂|² + tr(Σ₁ + Σ₂ - 2 (Σ₁ Σ₂)^½), in the data's standardised unit. The held-out loss is the V(t)-weighted score-matching
loss of the averaged weights on paths from held-out rows, the same paths for all objectives; it is estimated by the
path objective with ε = 1, whose mean is that of every other objective here. The lower, the better the score.
"""

import argparse
import copy
import json
import statistics
import time
from typing import Any

import numpy as np
import torch

from ndsm.config import Config, build_config, load_config, merge
from ndsm.data import Dataset, load
from ndsm.metrics import evaluate
from ndsm.metrics.image_quality import frechet_distance
from ndsm.mixture import GaussianMixture
from ndsm.simulation import rollout
from ndsm.training import fit_mixture
from ndsm.workflows.setup import build_problem
from ndsm.workflows.train import training_in_memory
from ndsm.workflows.trained_model import TrainedModel

COMMON: dict[str, Any] = {
    "process.integrator": "exponential",
    "process.grid.steps": 40,
    "train.steps": 10**6,
    "train.lr_schedule": "constant",
    "train.report_seconds": 0.2,
    # It hardly changes once it is found, and costs both objectives less this way.
    "objective.epsilon.every": 100,
    "sample.sampler": "exponential",
}
SAMPLE_STEPS = {"digits": 100, "mnist-latent": 250, "mnist": 50}
ROWS = {"digits": 2000, "mnist-latent": 5000, "mnist": 1000}
OBJECTIVES: dict[str, dict[str, Any]] = {
    "ndsm-cv": {"objective.kind": "ndsm-cv"},
    "path": {"objective.kind": "path"},
    "path-eps1": {
        "objective.kind": "path",
        "objective.epsilon.kind": "constant",
        "objective.epsilon.value": 1.0,
    },
}
FRACTIONS = (0.1, 0.3, 1.0)
HELD_OUT = 10_000
"""Rows of the held-out loss."""
Point = tuple[int, float, float, float]
"""Step, distance, total variation of the class shares, held-out loss."""


def measure(dataset: Dataset, rows: np.ndarray, seed: int) -> tuple[float, float]:
    """Distance to the data, and total variation of the class shares."""
    metrics = evaluate(dataset, rows, None, seed)
    if dataset.view is not None:
        return metrics["fid"], metrics["class_share_tv"]
    return frechet_distance(rows, np.concatenate([dataset.train, dataset.validation])), metrics[
        "class_share_tv"
    ]


def settings(preset: str, root: str) -> dict[str, Any]:
    """Fields that all objectives share."""
    return {**COMMON, "data.root": root, "sample.steps": SAMPLE_STEPS[preset]}


class HeldOut:
    """The score-matching loss of a score on paths from held-out rows."""

    def __init__(self, config: Config, mixture: GaussianMixture, dataset: Dataset) -> None:
        own = {"objective.kind": "path", "objective.epsilon": {"kind": "constant", "value": 1.0}}
        self._problem = build_problem(
            build_config(merge(config.model_dump(mode="json"), own), "held-out"), mixture, ""
        )
        blocks: list[torch.Tensor] = []
        while sum(map(len, blocks)) < HELD_OUT:
            block = rollout(self._problem.spec, dataset.validation, 10**6 + len(blocks))
            blocks.append(torch.from_numpy(block))
        self._parts = [
            self._problem.spec.layout.split(part) for part in torch.cat(blocks)[:HELD_OUT].split(500)
        ]

    @torch.no_grad()
    def loss(self, score: torch.nn.Module) -> float:
        """Mean over the rows."""
        total = 0.0
        for rows in self._parts:
            loss = self._problem.objective.combined(score, rows, torch.ones_like(rows["t"]))
            total += float((loss * self._problem.process.variance(rows["t"])).sum())
        return total / HELD_OUT


def run(preset: str, fields: dict[str, Any], seed: int, seconds: float) -> list[Point]:
    """What is measured at each fraction of the budget."""
    config = load_config(preset, {**fields, "train.seed": seed, "train.device": "cpu"})
    dataset = load(config.data, seed)
    mixture = fit_mixture(config, dataset.train)
    problem, held_out = (
        build_problem(config, mixture, dataset.stamp),
        HeldOut(config, mixture, dataset),
    )
    found: list[Point] = []
    spent, started = 0.0, time.process_time()
    with training_in_memory(problem, dataset.train) as (trainer, records):
        for record in records:
            while (
                len(found) < len(FRACTIONS)
                and spent + time.process_time() - started >= FRACTIONS[len(found)] * seconds
            ):
                spent += time.process_time() - started
                model = TrainedModel.trained_on(dataset, problem, copy.deepcopy(trainer.ema).eval())
                rows = model.all_rows(ROWS[preset], seed)
                found.append((record.step, *measure(dataset, rows, seed), held_out.loss(model.network)))
                started = time.process_time()
            if len(found) == len(FRACTIONS):
                break
    return found


def main() -> None:
    """Print one line per objective and fraction."""
    parser = argparse.ArgumentParser()
    parser.add_argument("preset", nargs="?", default="digits", choices=SAMPLE_STEPS)
    parser.add_argument("--root", default="data", help="folder with MNIST/raw")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--objectives", default=",".join(OBJECTIVES), help="some of the default, by commas")
    parser.add_argument("--out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    preset, common = options.preset, settings(options.preset, options.root)
    config = load_config(preset, {**common, **OBJECTIVES["path"]})
    dataset = load(config.data, 0)
    alone = fit_mixture(config, dataset.train).sample(ROWS[preset], torch.Generator().manual_seed(0)).numpy()
    floor = dataset.train[: ROWS[preset]]
    for name, rows in (("mixture alone", alone), ("training images in place of generated ones", floor)):
        print(
            "{}: distance {:.3f}, class shares TV {:.4f}".format(name, *measure(dataset, rows, 0)), flush=True
        )
    objectives = {name: OBJECTIVES[name] for name in options.objectives.split(",")}
    table: dict[str, list[list[Point]]] = {name: [] for name in objectives}
    # Objectives take turns within a seed, so that what changes with time hits all of them.
    for seed in range(options.seeds):
        for name, fields in objectives.items():
            table[name].append(run(preset, {**common, **fields}, seed, options.seconds))
    for k, fraction in enumerate(FRACTIONS):
        for name, runs in table.items():
            steps, distances, variations, losses = zip(*(r[k] for r in runs), strict=True)
            print(
                f"{100 * fraction:3.0f} % {name:12} distance {statistics.mean(distances):6.3f} "
                f"({min(distances):.3f}-{max(distances):.3f}), class shares TV {statistics.mean(variations):.4f} "
                f"({min(variations):.4f}-{max(variations):.4f}), held-out loss {statistics.mean(losses):.2f} "
                f"({min(losses):.2f}-{max(losses):.2f}), {statistics.mean(steps):.0f} steps",
                flush=True,
            )
    if options.out:
        with open(options.out, "w", encoding="utf-8") as f:
            json.dump(table, f)


if __name__ == "__main__":
    main()
