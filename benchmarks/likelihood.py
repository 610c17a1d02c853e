"""Held-out log-likelihood, nats per row, of small tables and of digits: NDSM, VP + DSM, mixture, kernel density estimate.

    python benchmarks/likelihood.py [--data wine,diabetes,digits] [--seeds 3] [--steps 1500] [--out FILE.json]

Rows are split 64 : 16 : 20 by the seed into those that are trained on, those that choose, and those that are scored.
All are in standardised units; digits' grey levels have uniform noise of one level added, and constant columns left out. The
mixture has full covariances and as many components (1 to 10) as minimise BIC, fitted to the first two parts; it is the
reference of NDSM as well, fitted to the first. The kernel density estimate's bandwidth is that of the best mean in 5-fold
cross-validation on the first two parts. Of both models the second part chooses the time at which the density is taken.
"""

import argparse
import json
import statistics
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_digits, load_wine
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity

from ndsm import NDSM, load_config
from ndsm.config import build_config, merge

TABLES = {"wine": load_wine, "diabetes": load_diabetes, "digits": load_digits}
ENDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
"""Times at which the density may be taken."""
RIDGE = 1e-3
"""Variance added to the mixtures' covariances, in standardised units."""
COMMON: dict[str, Any] = {
    "process.horizon": 2.0,
    "process.integrator": "exponential",
    "process.grid.steps": 40,
    "reference.reg_covar": RIDGE,
    "sample.sampler": "ode",
    "network.width": 64,
    "network.depth": 2,
}
VP: dict[str, Any] = {
    "process.kind": "vp",
    "process.horizon": 1.0,
    "process.integrator": "euler-maruyama",
    "process.grid": {"kind": "importance", "steps": 40},
    "objective.kind": "dsm",
    "train.times_per_path": 1,
}


def rows_of(name: str, seed: int) -> np.ndarray:
    """All rows in a random order, standardised."""
    rng = np.random.default_rng(seed)
    x = TABLES[name]().data
    if name == "digits":
        x = x[:, x.std(0) > 0] + rng.random(x[:, x.std(0) > 0].shape)
    x = x[rng.permutation(len(x))]
    return np.asarray((x - x.mean(0)) / x.std(0), dtype=np.float32)


def mixture_by_bic(x: np.ndarray, seed: int) -> GaussianMixture:
    """The full-covariance mixture of least BIC."""
    models = [
        GaussianMixture(k, reg_covar=RIDGE, n_init=3, random_state=seed).fit(x)
        for k in range(1, 11)
        if len(x) > 2 * k
    ]
    return min(models, key=lambda model: model.bic(x))


def model_score(
    fields: dict[str, Any], kind: str, k: int, parts: list[np.ndarray], seed: int, steps: int
) -> float:
    """Held-out mean log-density of a model, at the time that the second part chooses."""
    config = build_config(merge(load_config("vectors").model_dump(mode="json"), fields), "likelihood")
    # The rows are standardised; the data section only says how they would be scaled.
    model = NDSM(
        k,
        covariance_type="full",
        objective=kind,
        max_steps=steps,
        batch_rows=128,
        config=config,
        random_state=seed,
    )
    model.fit(parts[0])
    generator, scaling = model._generator, model._scaling

    def mean(rows: np.ndarray, end: float) -> float:
        return float(generator.log_density(rows, scaling, end, tolerance=1e-4).log_prob.mean())

    end = max(ENDS, key=lambda time: mean(parts[1], time))
    return mean(parts[2], end)


def compare(name: str, seed: int, steps: int) -> dict[str, float]:
    """Held-out nats per row of every method."""
    x = rows_of(name, seed)
    parts = np.split(x, [int(0.64 * len(x)), int(0.8 * len(x))])
    known, held_out = np.concatenate(parts[:2]), parts[2]
    mixture = mixture_by_bic(known, seed)
    bandwidths = {"bandwidth": np.geomspace(0.05, 2.0, 20)}
    kernel = GridSearchCV(KernelDensity(), bandwidths, cv=5).fit(known).best_estimator_
    return {
        "components": mixture.n_components,
        "mixture": float(mixture.score(held_out)),
        "kernel density": float(kernel.score(held_out) / len(held_out)),
        "NDSM": model_score(COMMON, "path", mixture.n_components, parts, seed, steps),
        "VP + DSM": model_score({**COMMON, **VP}, "dsm", 1, parts, seed, steps),
    }


def main() -> None:
    """Print one line per table and method."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", default=",".join(TABLES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--out")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, list[dict[str, float]]] = {}
    for name in options.data.split(","):
        results[name] = [compare(name, seed, options.steps) for seed in range(options.seeds)]
        for method in results[name][0]:
            values = [result[method] for result in results[name]]
            print(
                f"{name:9} {method:15} {statistics.mean(values):8.3f} ({min(values):.3f} to {max(values):.3f})",
                flush=True,
            )
    if options.out:
        with open(options.out, "w", encoding="utf-8") as f:
            json.dump(results, f, indent=1)


if __name__ == "__main__":
    main()
