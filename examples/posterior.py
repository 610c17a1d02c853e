"""A posterior with several modes, from simulations alone (simulation-based inference).

The simulator draws x in the plane from two parameters, uniform in [-1, 1]²: a point of a crescent, moved by
(-|θ₁ + θ₂|, θ₂ - θ₁)/√2 ("two moons", Greenberg, Nonnenmacher and Macke 2019). Given an observation the posterior
has two crescents, of equal weight for all but the edge of the square, and its density is known.

A model of the joint rows (θ, x) is trained on 4,000 simulations. Its posterior at an observation are the parameters of
the 200 of 40,000 generated rows whose x is nearest to it; the simulations themselves, in the same way, are the baseline
(rejection ABC at the same budget), and 40,000 rows of the simulator the floor of the method.
"""

import numpy as np
from compare import arguments, generated, report, scatters

from ndsm.metrics.wasserstein import sliced_wasserstein

SIMULATIONS, ROWS, NEAREST = 4000, 40_000, 200
OBSERVATIONS = np.array([[0.0, 0.0], [-0.5, 0.3], [-0.3, -0.6], [-0.9, 0.0], [0.1, 0.8]])


def crescent(n: int, rng: np.random.Generator) -> np.ndarray:
    """n points of the crescent, (n, 2)."""
    angle, radius = rng.uniform(-np.pi / 2, np.pi / 2, n), rng.normal(0.1, 0.01, n)
    return np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], 1)


def simulator(theta: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """x (n, 2) of the parameters (n, 2)."""
    a, b = theta.T
    return crescent(len(theta), rng) + np.stack([-np.abs(a + b), b - a], 1) / np.sqrt(2)


def joint(n: int, rng: np.random.Generator) -> np.ndarray:
    """n rows (θ₁, θ₂, x₁, x₂)."""
    theta = rng.uniform(-1, 1, (n, 2))
    return np.concatenate([theta, simulator(theta, rng)], 1)


def posterior(x: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """n exact draws of θ given x: solve x = crescent + shift for the shift, either sign, and keep those in the square."""
    kept: list[np.ndarray] = []
    while sum(map(len, kept)) < n:
        first, second = ((x - crescent(n, rng)) * np.sqrt(2)).T
        total = -first * rng.choice([-1, 1], n)
        theta = np.stack([total - second, total + second], 1) / 2
        # -|θ₁ + θ₂| is not positive, and the prior ends at the square.
        kept.append(theta[(first <= 0) & (np.abs(theta) <= 1).all(1)])
    return np.concatenate(kept)[:n]


def nearest(rows: np.ndarray, x: np.ndarray, n: int) -> np.ndarray:
    """Parameters of the n rows whose x is nearest, (n, 2)."""
    return rows[np.argsort(((rows[:, 2:] - x) ** 2).sum(1))[:n], :2]


def main() -> None:
    """Run all seeds; print the table, write figure and numbers."""
    options = arguments(__doc__)
    results = []
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        X = joint(SIMULATIONS, rng)
        rows = generated(
            X, ROWS, seed, round(5000 * options.scale), reference__n_components=30,
            reference__reg_covar=0.02, process__horizon=0.5, sample__steps=100,
        )  # fmt: skip
        rows |= {"simulations alone": X, "simulator": joint(ROWS, rng)}
        own: dict[str, dict[str, float]] = {}
        for name, x in rows.items():
            finite = x[np.isfinite(x).all(1)]
            # The same share of rows for simulations alone: with more of them its kernel would be wider still.
            n = NEAREST if len(finite) > SIMULATIONS else max(20, NEAREST * SIMULATIONS // ROWS)
            distance, weights = [], []
            for k, observed in enumerate(OBSERVATIONS):
                found, exact = (
                    nearest(finite, observed, n),
                    posterior(observed, n, np.random.default_rng([seed, k])),
                )
                distance.append(sliced_wasserstein(found.astype("f"), exact.astype("f"), seed=seed))
                weights.append(abs(np.mean(found.sum(1) > 0) - np.mean(exact.sum(1) > 0)))
            own[name] = {
                "sliced W2 to the posterior": float(np.mean(distance)),
                "error of the mode's weight": float(np.mean(weights)),
            }
        results.append(own)
        if seed == 0:
            x = OBSERVATIONS[1]
            panels = {
                "exact posterior": posterior(x, NEAREST, rng),
                **{k: nearest(r, x, NEAREST) for k, r in rows.items()},
            }
            panels["simulations alone"] = nearest(X, x, 20)
            del panels["simulator"]
            scatters(panels, options.out / "example-posterior.png", "Parameters given x = (-0.5, 0.3)")
    report("example-posterior", results, options.out)


if __name__ == "__main__":
    main()
