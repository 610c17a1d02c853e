"""Imputation of 30 % missing numbers in scikit-learn's wine and diabetes tables, against its IterativeImputer.

Three quarters of the rows, complete, are trained on; of the others each number is missing with probability 0.3. The number
of training steps is the one whose draws have the least continuous ranked probability score on a quarter of the training
rows, learned from the others. RMSE is that of
the draws' mean in the training rows' standard deviations; `coverage` is the share of missing numbers between their draws'
5 % and 95 % quantiles, `width` the mean distance of the two. The mixture is the model's own reference alone, given
the known numbers exactly.

    python benchmarks/imputation.py [--seeds 3] [--draws 100] [--out FILE]
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_diabetes, load_wine
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer

import ndsm
from ndsm.config import load_config
from ndsm.core.rng import numpy_stream

TABLES = {"wine": load_wine, "diabetes": load_diabetes}
COMPONENTS = 3
SETTINGS: dict[str, Any] = {
    "reference.reg_covar": 0.1,
    "reference.n_init": 3,
    "process.horizon": 2.0,
    "process.integrator": "exponential",
    "process.grid.steps": 40,
    "sample.sampler": "exponential",
    "sample.steps": 60,
    "network.width": 32,
    "network.depth": 2,
}
STEPS = (20, 50, 100, 200)
"""Training steps to choose among: a few hundred rows are learned by heart in a thousand."""
CHOOSING_DRAWS = 40


def measures(
    draws: np.ndarray, truth: np.ndarray, missing: np.ndarray, scale: np.ndarray
) -> dict[str, float]:
    """RMSE, coverage and width of draws (m, n, d) of the missing numbers."""
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    error = ((draws.mean(0) - truth) / scale)[missing]
    return {
        "rmse": float(np.sqrt((error**2).mean())),
        "coverage": float(((truth >= low) & (truth <= high))[missing].mean()),
        "width": float(((high - low) / scale)[missing].mean()),
    }


def crps(draws: np.ndarray, truth: np.ndarray, missing: np.ndarray, scale: np.ndarray) -> float:
    """Mean continuous ranked probability score of draws (m, n, d) of the missing numbers: E|X - y| - E|X - X'| / 2."""
    x, y = np.sort((draws / scale)[:, missing], 0), (truth / scale)[missing]
    m = len(x)
    # The mean distance of two draws, from their order.
    weights = 2 * np.arange(1, m + 1) - m - 1
    apart = 2 * (weights[:, None] * x).sum(0) / (m * (m - 1))
    return float((np.abs(x - y).mean(0) - apart / 2).mean())


def holes(truth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What is missing of the rows: each number with probability 0.3, but never a whole row."""
    missing = rng.random(truth.shape) < 0.3
    missing[missing.all(1), 0] = False
    return missing


def fitted(rows: np.ndarray, steps: int, seed: int) -> ndsm.NDSM:
    """A model of complete rows."""
    return ndsm.NDSM(
        COMPONENTS,
        covariance_type="full",
        objective="path",
        max_steps=steps,
        config=load_config("table-langevin", SETTINGS),
        random_state=seed,
    ).fit(rows)


def choose_steps(train: np.ndarray, seed: int) -> int:
    """The number of steps that imputes a quarter of the rows best, learned from the others."""
    cut = 3 * len(train) // 4
    learned, truth = train[:cut], train[cut:]
    missing = holes(truth, numpy_stream(seed, "choosing"))
    incomplete = np.where(missing, np.nan, truth)
    scores = {
        steps: crps(
            fitted(learned, steps, seed).impute(incomplete, CHOOSING_DRAWS), truth, missing, train.std(0)
        )
        for steps in STEPS
    }
    return min(STEPS, key=lambda steps: scores[steps])


def compare(table: str, seed: int, draws: int) -> dict[str, dict[str, float]]:
    """The measures of each method on one split and pattern."""
    rows = TABLES[table]().data
    rng = numpy_stream(seed, "imputation")
    order, cut = rng.permutation(len(rows)), 3 * len(rows) // 4
    train, truth = rows[order[:cut]], rows[order[cut:]]
    missing = holes(truth, rng)
    incomplete, scale = np.where(missing, np.nan, truth), train.std(0)

    steps = choose_steps(train, seed)
    model = fitted(train, steps, seed)
    known = torch.from_numpy(~missing).repeat(draws, 1)
    standardised = torch.from_numpy(model._model.scaling.apply(incomplete)).repeat(draws, 1)
    alone = model.mixture_.sample_given(standardised, known, torch.Generator().manual_seed(seed)).numpy()
    iterative = IterativeImputer(max_iter=50, random_state=seed).fit(train)
    found = {
        "ndsm": model.impute(incomplete, draws),
        "mixture": model._model.scaling.invert(alone).reshape(draws, *truth.shape),
        "iterative": iterative.transform(incomplete)[None],
    }
    measured = {name: measures(x, truth, missing, scale) for name, x in found.items()}
    measured["ndsm"]["steps"] = float(steps)
    measured["iterative"] = {"rmse": measured["iterative"]["rmse"]}
    return measured


def main() -> None:
    """Compare, print and write."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for table in TABLES:
        for seed in range(options.seeds):
            for name, measured in compare(table, seed, options.draws).items():
                rows.append({"table": table, "seed": seed, "method": name, **measured})
        for name in dict.fromkeys(row["method"] for row in rows):
            mine = [row for row in rows if (row["table"], row["method"]) == (table, name)]
            means = {
                key: np.mean([row[key] for row in mine]) for key in mine[0] if isinstance(mine[0][key], float)
            }
            print(f"{table:9}{name:21}", "  ".join(f"{k} {v:.3f}" for k, v in means.items()), flush=True)
    if options.out is not None:
        options.out.write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
