"""Digits that are nearly symmetric: turned by 180° they are half as bright.

Threes, fours and sevens of scikit-learn's 8x8 digits, every other one turned and dimmed. A bright turned digit and a dim
upright one are fakes: they occur in no training row, but in the data's symmetric closure. A model that knows the
modes' weights makes none of them and as many of either kind. One that has the symmetry exactly cannot tell them apart.
"""

from collections.abc import Callable

import numpy as np
from compare import TRUTH, arguments, generated, report, scaled
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from ndsm.metrics.wasserstein import sliced_wasserstein
from ndsm.workflows.figures import mosaics_png

DIGITS, ROWS = (3, 4, 7), 5000


def tables(seed: int) -> tuple[np.ndarray, np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Training images (n, 64), held-out ones, and what tells of images whether they are turned and dim, (m, 2)."""
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(seed)
    X = rng.permutation(X[np.isin(y, DIGITS)] / 16)
    both = np.concatenate([X, X[:, ::-1]])
    both = np.concatenate([both, both / 2])
    turned = np.tile(np.repeat([0, 1], len(X)), 2)
    classifier = LogisticRegression(C=10.0, max_iter=3000).fit(direction(both), turned)
    middle = 0.75 * np.linalg.norm(X, axis=1).mean()
    changed = rng.random(len(X)) < 0.5
    X = np.where(changed[:, None], X[:, ::-1] / 2, X)
    cut = 4 * len(X) // 5

    def judge(x: np.ndarray) -> np.ndarray:
        return np.stack([classifier.predict(direction(x)) == 1, np.linalg.norm(x, axis=1) < middle], 1)

    return X[:cut], X[cut:], judge


def direction(x: np.ndarray) -> np.ndarray:
    """Images (n, 64) at one brightness."""
    return x / np.linalg.norm(x, axis=1, keepdims=True).clip(1e-9)


def main() -> None:
    """Run all seeds; print the table, write figure and numbers."""
    options = arguments(__doc__)
    results = []
    for seed in range(options.seeds):
        train, held_out, judge = tables(seed)
        rows = generated(
            train, scaled(ROWS, options.scale), seed, scaled(4000, options.scale), one_scale=True, symmetry="c2",
            reference__n_components=20, reference__reg_covar=1e-6, process__horizon=2.0,
        )  # fmt: skip
        own = {}
        for name, x in {**rows, TRUTH: train}.items():
            x = x[np.isfinite(x).all(1)]
            turned, dim = judge(x).T
            own[name] = {
                "fakes, share": float(np.mean(turned != dim)),
                "turned, share": float(np.mean(turned)),
                "sliced W2": sliced_wasserstein(x[:1000].astype("f"), held_out.astype("f")),
            }
        results.append(own)
        if seed == 0:
            grids = {name: x[:36].clip(0, 1) for name, x in {TRUTH: held_out, **rows}.items()}
            (options.out / "example-nearly-symmetric.png").write_bytes(mosaics_png(grids))
    report("example-nearly-symmetric", results, options.out)


if __name__ == "__main__":
    main()
