"""A rare class in a small table: train a classifier on synthetic rows, test it on real ones.

scikit-learn's breast cancer table (569 tumours, 30 measurements), with only 24 of its malignant tumours left among 200
benign ones. The generator learns measurements and class together and makes ten times as many rows; a
classifier trained on those is tested on the real tumours that nobody has seen, as is one trained on the real rows.
"""

import numpy as np
from compare import TRUTH, arguments, generated, report
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, balanced_accuracy_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

BENIGN, MALIGNANT = 200, 24
ROWS = 10 * (BENIGN + MALIGNANT)


def split(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Training rows with the class as their last column (1 is malignant), and the others."""
    X, y = load_breast_cancer(return_X_y=True)
    rng = np.random.default_rng(seed)
    # Sizes are positive and skewed: their logarithm is what the classes are near normal in.
    table = np.concatenate([np.log1p(X), 1.0 - y[:, None]], 1)
    order = [rng.permutation(np.flatnonzero(y == label)) for label in (1, 0)]
    train = np.concatenate([order[0][:BENIGN], order[1][:MALIGNANT]])
    test = np.concatenate([order[0][BENIGN:], order[1][MALIGNANT:]])
    return table[train], table[test]


def main() -> None:
    """Run all seeds; print the table, write the numbers."""
    options = arguments(__doc__)
    results = []
    for seed in range(options.seeds):
        train, test = split(seed)
        rows = generated(
            train, ROWS, seed, round(2000 * options.scale), reference__n_components=6,
            reference__reg_covar=0.05, train__batch_rows=128,
        )  # fmt: skip
        own = {}
        for name, x in {**rows, TRUTH: train}.items():
            x = x[np.isfinite(x).all(1)]
            malignant = x[:, -1] > 0.5
            model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)).fit(
                x[:, :-1], malignant
            )
            chance = model.predict_proba(test[:, :-1])[:, 1]
            own[name] = {
                "balanced accuracy": float(balanced_accuracy_score(test[:, -1] > 0.5, chance > 0.5)),
                "average precision": float(average_precision_score(test[:, -1] > 0.5, chance)),
                "share of the rare class": float(malignant.mean()),
            }
        results.append(own)
    report("example-rare-classes", results, options.out)


if __name__ == "__main__":
    main()
