"""A posterior with several modes, from simulations alone (simulation-based inference).

The simulator draws x in the plane from two parameters, uniform in [-1, 1]²: a point of a crescent, moved by
(-|θ₁ + θ₂|, θ₂ - θ₁)/√2 ("two moons", Greenberg, Nonnenmacher and Macke 2019). Given an observation the posterior
has two crescents, of equal weight for all but the edge of the square, and its density is known.

A model of the joint rows (θ, x) is trained on 4,000 simulations; its posterior at an observation are draws of θ with x
fixed. The baseline are the simulations themselves, the 20 whose x is nearest (rejection ABC at the same budget), and the
floor is the exact posterior, drawn again.
"""

import numpy as np
from compare import arguments, report, scaled, scatters, trained

from ndsm.metrics.wasserstein import sliced_wasserstein

SIMULATIONS, DRAWS, NEAREST = 4000, 200, 20
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


def compared(found: np.ndarray, exact: np.ndarray, seed: int) -> tuple[float, float]:
    """Sliced W2 of parameters (n, 2) to exact ones, and the error of the share of one mode."""
    found = found[np.isfinite(found).all(1)]
    distance = sliced_wasserstein(found.astype("f"), exact.astype("f"), seed=seed)
    return distance, abs(np.mean(found.sum(1) > 0) - np.mean(exact.sum(1) > 0))


def main() -> None:
    """Run all seeds; print the table, write figure and numbers."""
    options = arguments(__doc__)
    results = []
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        X = joint(SIMULATIONS, rng)
        # The joint rows are one sheet, folded once: two parts, and four times as many components.
        models = trained(
            X, seed, scaled(2000, options.scale), reference__n_components=8, reference__covariance_type="full",
            reference__reg_covar=0.02, process__horizon=2.0, sample__sampler="exponential",
            sample__steps=scaled(100, options.scale),
        )  # fmt: skip
        n = scaled(DRAWS, options.scale)
        unknown = np.concatenate([np.full((len(OBSERVATIONS), 2), np.nan), OBSERVATIONS], 1).repeat(n, 0)
        # By row of the table: parameters for each observation, (5, n, 2).
        found = {
            name: model.complete(unknown)[:, :2].reshape(len(OBSERVATIONS), n, 2)
            for name, model in models.items()
        }
        found["simulations alone"] = np.stack([nearest(X, x, NEAREST) for x in OBSERVATIONS])
        exact = [posterior(x, n, np.random.default_rng([seed, k])) for k, x in enumerate(OBSERVATIONS)]
        found["exact posterior"] = np.stack([posterior(x, n, rng) for x in OBSERVATIONS])
        own: dict[str, dict[str, float]] = {}
        for name, draws in found.items():
            each = [compared(a, b, seed) for a, b in zip(draws, exact, strict=True)]
            distance, weight = np.mean(each, 0)
            own[name] = {
                "sliced W2 to the posterior": float(distance),
                "error of the mode's weight": float(weight),
            }
        results.append(own)
        if seed == 0:
            names = ["exact posterior", *models, "simulations alone"]
            scatters(
                {name: found[name][1] for name in names},
                options.out / "example-posterior.png",
                "Parameters given x = (-0.5, 0.3)",
            )
    report("example-posterior", results, options.out)


if __name__ == "__main__":
    main()
