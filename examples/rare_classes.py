"""A rare class in a small table: train a classifier on synthetic rows, test it on real ones.

Two tables of scikit-learn, each with most of one class left out of training: breast cancer (30 measurements; 24 malignant
tumours among 200 benign ones) and wine (13 measurements; 8 wines of the third grower among 80 of the others). The
generator learns measurements and class together and makes ten times as many rows; a classifier trained on those is tested
on the real rows that nobody has seen, as is one trained on the real rows.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from compare import TRUTH, arguments, generated, report, scaled, scatters
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


@dataclass(frozen=True)
class Table:
    """A table, and which of its rows are trained on."""

    load: Callable[..., Any]
    rare: int
    """Label of the class that becomes rare."""
    rows: tuple[int, int]
    """Training rows: of the other classes, and of the rare one."""


TABLES = {"cancer": Table(load_breast_cancer, 0, (200, 24)), "wine": Table(load_wine, 2, (80, 8))}


def split(table: Table, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training rows with the class as their last column (1 is the rare one), and the others."""
    X, y = table.load(return_X_y=True)
    rng = np.random.default_rng(seed)
    rare = y == table.rare
    # Measurements are positive and skewed: their logarithm is what the classes are near normal in.
    rows = np.concatenate([np.log1p(X), rare[:, None].astype(float)], 1)
    order = [rng.permutation(np.flatnonzero(which)) for which in (~rare, rare)]
    train, test = (
        np.concatenate([rows[k[part]] for k, part in zip(order, parts, strict=True)])
        for parts in ([slice(n) for n in table.rows], [slice(n, None) for n in table.rows])
    )
    return train, test


def plane(train: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What puts rows (n, d) in the plane, (n, 2): along the difference of the classes of `train`, and the widest spread
    across it."""
    mean, scale = train[:, :-1].mean(0), train[:, :-1].std(0)
    z, rare = (train[:, :-1] - mean) / scale, train[:, -1] > 0.5
    first = z[rare].mean(0) - z[~rare].mean(0)
    first /= np.linalg.norm(first)
    second = np.linalg.svd(z - np.outer(z @ first, first), full_matrices=False)[2][0]
    return lambda x: (x[:, :-1] - mean) / scale @ np.stack([first, second], 1)


def main() -> None:
    """Run both tables and all seeds; print the tables, write figures and numbers."""
    options = arguments(__doc__)
    for name, table in TABLES.items():
        results = []
        for seed in range(options.seeds):
            train, test = split(table, seed)
            # As many as the training rows at least: both classes should occur.
            n = max(len(train), scaled(10 * len(train), options.scale))
            rows = generated(
                train, n, seed, scaled(2000, options.scale), reference__n_components=6,
                reference__reg_covar=0.05, train__batch_rows=128,
            )  # fmt: skip
            rows = {TRUTH: train, **{method: x[np.isfinite(x).all(1)] for method, x in rows.items()}}
            rare = {method: x[:, -1] > 0.5 for method, x in rows.items()}
            own = {}
            for method, x in rows.items():
                model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(
                    x[:, :-1], rare[method]
                )
                chance = model.predict_proba(test[:, :-1])[:, 1]
                own[method] = {
                    "balanced accuracy": float(balanced_accuracy_score(test[:, -1] > 0.5, chance > 0.5)),
                    "average precision": float(average_precision_score(test[:, -1] > 0.5, chance)),
                    "share of the rare class": float(rare[method].mean()),
                }
            results.append(own)
            if seed == 0:
                project = plane(train)
                scatters(
                    {method: project(x) for method, x in rows.items()},
                    options.out / f"example-rare-classes-{name}.png",
                    f"{name}: the rare class in red, along the difference of the classes and across it",
                    rare,
                )
        report(f"example-rare-classes-{name}", results, options.out)


if __name__ == "__main__":
    main()
