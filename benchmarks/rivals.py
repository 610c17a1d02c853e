"""Noising processes side by side on toys, digits and scikit-learn's tables: the same network, steps, batch and learning rate.

    python benchmarks/rivals.py [--steps 2000] [--seeds 3] [--sets arcs,wine,..] [--out results/rivals.json]

`langevin` is the preset `vectors`; `vp` has the loss, the times, the network's parametrisation and the sampler of the preset
`table`, whose process is `mixture-ou`; `mixture` is the mixture of the latter alone. Times are processor seconds of data,
mixture, training and generation. Each line is written as soon as it is known, and one that the file has is not run again.

auc: of gradient-boosted trees, cross-validated, that tell generated from held-out rows; 0.5 is a model that cannot be told.
swd2: sliced Wasserstein distance to held-out rows in standardised units. shares: total variation of mode or class shares.
copies: share of generated rows nearer to a training row than to any of as many held-out ones; 0.5 is right. Rows of `data` are
training rows in place of generated ones.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.stats import rankdata
from sklearn import datasets
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict

from ndsm.config import load_config
from ndsm.data import Dataset, load
from ndsm.metrics import evaluate
from ndsm.training import fit_mixture
from ndsm.workflows.setup import build_problem
from ndsm.workflows.train import training_in_memory
from ndsm.workflows.trained_model import TrainedModel

TOYS = ("arcs", "rings", "checkerboard")
TABLES = {
    "iris": datasets.load_iris,
    "wine": datasets.load_wine,
    "cancer": datasets.load_breast_cancer,
    "diabetes": datasets.load_diabetes,
}
SETS = (*TOYS, "digits", *TABLES)
HELD_OUT = 0.3
LINEAR = {"process.kind": "ou", "reference.n_components": 1, "reference.covariance_type": "spherical"}
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "langevin": ("vectors", {}),
    "vp": ("table", LINEAR),
    "mixture-ou": ("table", {}),
}
MOST = 2000
"""Generated rows."""
DRAWS = 3
"""Sets of generated rows that the classifier is given, one after the other."""
RANKED = ("auc", "swd2", "shares")


def dataset_fields(name: str, folder: Path) -> dict[str, Any]:
    """Fields of the section `data`."""
    if name in TABLES:
        x, y = TABLES[name](return_X_y=True)
        path = folder / f"{name}.csv"
        header = ",".join([*(f"x{i}" for i in range(x.shape[1])), "label"])
        label = y if name != "diabetes" else (y > np.median(y)).astype(int)
        table = np.column_stack([x, label])
        np.savetxt(
            path, table, delimiter=",", header=header, comments="", fmt=["%.17g"] * x.shape[1] + ["%d"]
        )
        return {
            "data.name": "vectors", "data.path": str(path), "data.labels": "label", "data.validation_fraction": HELD_OUT,
        }  # fmt: skip
    return {"data.name": name, **({} if name in TOYS else {"data.validation_fraction": HELD_OUT})}


def told_apart(generated: np.ndarray, held_out: np.ndarray, seed: int) -> float:
    """Cross-validated area under the curve of trees that tell generated from as many held-out rows."""
    n = min(len(generated), len(held_out))
    x, y = np.concatenate([generated[:n], held_out[:n]]), np.repeat([0, 1], n)
    trees = HistGradientBoostingClassifier(max_iter=100, min_samples_leaf=min(20, max(2, n // 10)))
    folds = StratifiedKFold(5, shuffle=True, random_state=seed)
    return float(roc_auc_score(y, cross_val_predict(trees, x, y, cv=folds, method="predict_proba")[:, 1]))


def measured(dataset: Dataset, rows: np.ndarray, held_out: np.ndarray, seed: int) -> dict[str, float]:
    """The numbers of generated rows (n, d) in model units."""
    found = evaluate(dataset, rows, None, seed)
    m, parts = len(held_out), np.array_split(rows, max(1, min(DRAWS, len(rows) // len(held_out))))
    train = dataset.train[np.random.default_rng(seed).permutation(len(dataset.train))[:m]]
    distances = [cKDTree(known).query(rows)[0] for known in (train, held_out[: len(train)])]
    off = {"off_support": found["off_support"]} if "off_support" in found else {}
    return {
        "auc": float(np.mean([told_apart(part, held_out, seed) for part in parts])),
        "swd2": found["swd2"],
        "shares": found.get("class_share_tv", float("nan")),
        "copies": float(np.mean(distances[0] < distances[1])),
        **off,
    }


def lines(name: str, seed: int, steps: int, folder: Path) -> Iterator[dict[str, Any]]:
    """One dict for each method, and those of the mixture and of training rows."""
    for method, (preset, fields) in METHODS.items():
        started = time.process_time()
        config = load_config(
            preset,
            {**dataset_fields(name, folder), **fields, "train.steps": steps, "train.seed": seed, "train.device": "cpu"},
        )  # fmt: skip
        dataset = load(config.data, seed)
        if dataset.toy is None:
            held_out = dataset.validation
        else:
            truth, _ = dataset.toy.sample(MOST, np.random.default_rng([seed, 1]))
            held_out = dataset.scaling.apply(truth)
        n = min(MOST, DRAWS * len(held_out))
        mixture = fit_mixture(config, dataset.train)
        problem = build_problem(config, mixture, dataset.stamp)
        with training_in_memory(problem, dataset.train) as (trainer, records):
            for _ in records:
                pass
            model = TrainedModel.trained_on(dataset, problem, trainer.ema.eval())
        rows = np.concatenate(list(model.rows(n, seed)))
        seconds = time.process_time() - started
        head = {"set": name, "seed": seed, "train_rows": len(dataset.train), "held_out": len(held_out)}
        yield {**head, "method": method, "seconds": seconds, **measured(dataset, rows, held_out, seed)}
        if method == "mixture-ou":
            alone, shape = model.prior_rows(n, seed), f"{mixture.n_components} {mixture.covariance_type}"
            yield {**head, "method": "mixture", "shape": shape, **measured(dataset, alone, held_out, seed)}
            real = dataset.train[np.random.default_rng(seed).permutation(len(dataset.train))[:n]]
            yield {**head, "method": "data", **measured(dataset, real, held_out, seed)}


def table(rows: list[dict[str, Any]]) -> str:
    """Means and standard deviations over seeds for each set and method, and the mean ranks."""
    out, ranks = [], {m: [] for m in (*METHODS, "mixture")}
    out.append(
        "| set | method | AUC | sliced W2 | shares TV | off support | copies | s |\n|---|---|---|---|---|---|---|---|"
    )
    for name in dict.fromkeys(row["set"] for row in rows):
        means = {}
        for method in (*METHODS, "mixture", "data"):
            of = [row for row in rows if (row["set"], row["method"]) == (name, method)]
            if not of:
                continue
            cells = []
            for key in (*RANKED, "off_support", "copies", "seconds"):
                values = np.array([row.get(key, np.nan) for row in of], dtype=float)
                means[method, key] = values.mean()
                spread = f" ± {values.std(ddof=1):.3f}" if len(values) > 1 and key != "seconds" else ""
                cells.append("" if np.isnan(values).any() else f"{values.mean():.3g}{spread}")
            out.append(f"| {name} | {method} | " + " | ".join(cells) + " |")
        for key in RANKED:
            values = np.array([means[m, key] for m in ranks])
            if key == "auc":
                values = np.abs(values - 0.5)
            if np.isfinite(values).all():
                for m, rank in zip(ranks, rankdata(values), strict=True):
                    ranks[m].append(rank)
    out.append("\nmean rank: " + ", ".join(f"{m} {np.mean(r):.2f}" for m, r in ranks.items()))
    return "\n".join(out)


def main() -> None:
    """Run what the file does not have yet, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--out", default="rivals.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    out = Path(options.out)
    rows: list[dict[str, Any]] = json.loads(out.read_text())["rows"] if out.exists() else []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(options.seeds):
            for name in options.sets.split(","):
                if any((row["set"], row["seed"]) == (name, seed) for row in rows):
                    continue
                for row in lines(name, seed, options.steps, Path(folder)):
                    print(json.dumps(row), flush=True)
                    rows.append(row)
                commit = subprocess.run(
                    ["git", "rev-parse", "--short", "HEAD"], check=False, capture_output=True, text=True
                )
                about = {
                    "command": " ".join(["python", *sys.argv]), "commit": commit.stdout.strip(), "machine": platform.machine(),
                    "date": time.strftime("%Y-%m-%d"), "seeds": options.seeds, "steps": options.steps,
                }  # fmt: skip
                out.parent.mkdir(parents=True, exist_ok=True)
                out.write_text(json.dumps({**about, "rows": rows}, indent=1))
    print(table(rows))


if __name__ == "__main__":
    main()
