"""What the network's parametrisation and the loss's weighting do to quality: each variant differs from the first in one field.

    python benchmarks/parametrisation.py [toy-arcs|digits|mnist-latent] [--steps 6000] [--seeds 3] [--root data] [--only NAME ...] [--out FILE]

All variants take the same steps on the same blocks of trajectories, as long as the grid of times is the same. Printed are
sliced Wasserstein-2 distance to held-out rows and the total variation of the class shares, with their spread over seeds;
on MNIST's codes also FID of the decoded ones.
"""

import argparse
import json
import statistics
from typing import Any

import torch

from ndsm.config import load_config
from ndsm.data import load
from ndsm.metrics import evaluate
from ndsm.training import fit_mixture
from ndsm.workflows.setup import build_problem
from ndsm.workflows.train import training_in_memory
from ndsm.workflows.trained_model import TrainedModel

VARIANTS: dict[str, dict[str, Any]] = {
    "the preset's": {},
    "-∇V left out": {"network.residual": False},
    "-∇V fading as t → 0": {"network.residual": "fading"},
    "output not divided by √V": {"network.output_scale": "none"},
    "loss not weighted": {"objective.weighting": "none"},
    "times uniform in t": {"process.grid.kind": "uniform"},
    "last weights, no average": {"train.ema": 0.0},
    "NDSM, ε = 0": {"objective": {"kind": "ndsm"}},
    "Euler-Maruyama, four times the steps": {
        "process.integrator": "euler-maruyama",
        "process.grid.steps": 160,
    },
    "generation by exponential steps": {"sample.sampler": "exponential"},
}
METRICS = ("swd2", "class_share_tv", "fid")
N = 5000


def run(preset: str, fields: dict[str, Any], seed: int) -> dict[str, float]:
    """The metrics after one training."""
    config = load_config(preset, {**fields, "train.seed": seed})
    dataset = load(config.data, seed)
    problem = build_problem(config, fit_mixture(config, dataset.train), dataset.stamp)
    with training_in_memory(problem, dataset.train) as (trainer, records):
        for _ in records:
            pass
    model = TrainedModel.trained_on(dataset, problem, trainer.ema.eval())
    metrics = evaluate(dataset, model.all_rows(N, seed), None, seed)
    return {key: metrics[key] for key in (*METRICS, "nonfinite", "swd2_floor") if key in metrics}


def main() -> None:
    """Print one line per variant."""
    parser = argparse.ArgumentParser()
    parser.add_argument("preset", choices=["toy-arcs", "digits", "mnist-latent"])
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--root", default="data", help="folder with MNIST/raw")
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: dict[str, list[dict[str, float]]] = {}
    for name in options.only:
        fields = {"train.steps": options.steps, "data.root": options.root, **VARIANTS[name]}
        table[name] = [run(options.preset, fields, seed) for seed in range(options.seeds)]
        parts = []
        for key in METRICS:
            if key in table[name][0]:
                found = [row[key] for row in table[name]]
                parts.append(f"{key} {statistics.mean(found):.4g} ({min(found):.4g}-{max(found):.4g})")
        lost = sum(row["nonfinite"] for row in table[name])
        print(f"{name:28} {', '.join(parts)}" + (f", {lost:.0f} rows not finite" if lost else ""), flush=True)
    print(f"floor: swd2 {table[name][0]['swd2_floor']:.4g}")
    if options.out:
        with open(options.out, "w", encoding="utf-8") as f:
            json.dump(table, f, indent=1)


if __name__ == "__main__":
    main()
