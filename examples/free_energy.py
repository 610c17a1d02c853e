"""Free-energy differences between the wells of a molecule-like landscape, from the model against the truth.

The landscape is Müller and Brown's (1979), three wells of very different weight connected by a curved valley, at a
temperature where Langevin dynamics crosses its barriers now and then. 3,000 equilibrium configurations are what a
simulation would leave; the model is asked for the free energies F = -kT log(probability of the well) of each, in kT
and relative to the deepest, which quadrature gives exactly.
"""

import numpy as np
from compare import TRUTH, arguments, generated, report, scaled, scatters

KT = 20.0
A, B, C = np.array([-200, -100, -170, 15.0]), np.array([-1, -1, -6.5, 0.7]), np.array([0, 0, 11, 0.6])
D = np.array([-10, -10, -6.5, 0.7])
CENTRES = np.array([[1, 0], [0, 0.5], [-0.5, 1.5], [-1, 1.0]])
WELLS = {"left": (-0.558, 1.442), "right": (0.623, 0.028), "middle": (-0.050, 0.467)}
GRID = tuple(np.linspace(low, high, 121) for low, high in ((-1.8, 1.4), (-0.6, 2.3)))


def energy_and_gradient(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """V/kT and its gradient at x (n, 2): (n,) and (n, 2)."""
    dx, dy = (x[:, None] - CENTRES).transpose(2, 0, 1)
    terms = A * np.exp(B * dx**2 + C * dx * dy + D * dy**2) / KT
    slope = [(terms * (2 * B * dx + C * dy)).sum(1), (terms * (C * dx + 2 * D * dy)).sum(1)]
    return terms.sum(1), np.stack(slope, 1)


def wells_of_grid() -> np.ndarray:
    """The well that each grid point's steepest descent ends in, (121, 121)."""
    x = np.stack(np.meshgrid(*GRID, indexing="ij"), -1).reshape(-1, 2)
    for _ in range(600):
        slope = energy_and_gradient(x)[1]
        # A step has a bounded length: the landscape's walls are steep.
        x = x - 0.02 * slope / np.maximum(1.0, np.linalg.norm(slope, axis=1, keepdims=True))
    far = np.linalg.norm(x[:, None] - np.array(list(WELLS.values())), axis=2)
    return far.argmin(1).reshape(len(GRID[0]), len(GRID[1]))


def shares(x: np.ndarray, wells: np.ndarray) -> np.ndarray:
    """Share of the rows x (n, 2) in each well, (3,); at least half a row, so that its logarithm exists."""
    place = [np.clip(np.searchsorted(g, x[:, k]), 0, len(g) - 1) for k, g in enumerate(GRID)]
    return np.maximum(np.bincount(wells[tuple(place)], minlength=3), 0.5) / len(x)


def simulate(n: int, steps: int, seed: int) -> np.ndarray:
    """n configurations (n, 2), the ends of independent chains of Metropolis-adjusted Langevin dynamics."""
    rng, h = np.random.default_rng(seed), 0.006
    x = np.array(list(WELLS.values()))[rng.integers(3, size=n)]
    v, g = energy_and_gradient(x)
    for _ in range(steps):
        y = x - h * g + np.sqrt(2 * h) * rng.normal(size=x.shape)
        w, k = energy_and_gradient(y)
        forward, backward = ((y - x + h * g) ** 2).sum(1), ((x - y + h * k) ** 2).sum(1)
        taken = np.log(rng.random(n)) < v - w + (forward - backward) / (4 * h)
        x, v, g = np.where(taken[:, None], y, x), np.where(taken, w, v), np.where(taken[:, None], k, g)
    return x


def main() -> None:
    """Run all seeds; print the table, write figure and numbers."""
    options, wells = arguments(__doc__), wells_of_grid()
    points = np.stack(np.meshgrid(*GRID, indexing="ij"), -1).reshape(-1, 2)
    energy = energy_and_gradient(points)[0]
    density, lowest = np.exp(-energy), energy.min()
    truth = np.bincount(wells.ravel(), density, minlength=3) / density.sum()
    exact = -np.log(truth[1:] / truth[0])
    print(f"free energies above the left well, kT: right {exact[0]:.3f}, middle {exact[1]:.3f}")
    results = []
    for seed in range(options.seeds):
        X = simulate(3000, scaled(10_000, options.scale), seed)
        rows = generated(
            X, scaled(10_000, options.scale), seed, scaled(5000, options.scale),
            reference__n_components=8, reference__reg_covar=0.02, process__horizon=0.5, sample__steps=100,
        )  # fmt: skip
        own = {}
        for name, x in {**rows, TRUTH: X}.items():
            p = shares(x[np.isfinite(x).all(1)], wells)
            error = np.abs(-np.log(p[1:] / p[0]) - exact)
            # What a molecule would never do: configurations of more than 12 kT above the deepest.
            v = energy_and_gradient(x)[0]
            own[name] = {
                "error of F right, kT": float(error[0]), "error of F middle, kT": float(error[1]),
                "share above 12 kT": float(np.mean(v > lowest + 12)),
            }  # fmt: skip
        results.append(own)
        if seed == 0:
            scatters(
                {TRUTH: X, **rows},
                options.out / "example-free-energy.png",
                "Configurations of Müller and Brown's landscape",
            )
    report("example-free-energy", results, options.out)


if __name__ == "__main__":
    main()
