"""Law of Y_t by few exponential steps against many of Euler-Maruyama.

    python benchmarks/integrator.py [digits|mnist|mnist-latent] [--root data]

Sliced Wasserstein-2 distances to a run of Euler-Maruyama with 2,000 steps; in brackets a second such run, the floor.
"""

import argparse

import numpy as np
import torch

from ndsm.config import load_config
from ndsm.data import load
from ndsm.metrics.wasserstein import sliced_wasserstein
from ndsm.processes import Langevin, geometric_grid, uniform_grid
from ndsm.processes.integrators import EulerMaruyama, Exponential
from ndsm.processes.modes import Modes
from ndsm.training import fit_mixture

TIMES = (0.02, 0.1, 0.3, 1.0, 2.0)
PATHS = 1400


def simulate(
    process: Langevin,
    data: np.ndarray,
    grid: np.ndarray,
    integrator: type[EulerMaruyama] | type[Exponential],
    seed: int,
) -> dict[float, np.ndarray]:
    """States of `PATHS` trajectories, (PATHS, d), at each of `TIMES`, which are on the grid."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(len(data), (PATHS,), generator=generator)
    y = torch.from_numpy(data)[start].T.contiguous()
    scheme, z = integrator(process, Modes(process.mixture, y)), torch.empty_like(y)
    found = {}
    for t, h in zip(grid[:-1], np.diff(grid), strict=True):
        z.normal_(generator=generator)
        scheme.advance(y, process.drift_columns(y, float(t)), z, float(h), float(t))
        found |= {at: y.T.clone().numpy() for at in TIMES if abs(t + h - at) < 1e-9}
    return found


def main() -> None:
    """Print one line per number of steps."""
    parser = argparse.ArgumentParser()
    parser.add_argument("preset", nargs="?", default="digits", choices=["digits", "mnist", "mnist-latent"])
    parser.add_argument("--root", default="data", help="folder with MNIST/raw")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = load_config(options.preset, {"data.root": options.root})
    dataset = load(config.data, 0)
    process = Langevin(fit_mixture(config, dataset.train), horizon=TIMES[-1])
    fine = uniform_grid(TIMES[-1], 2000)
    reference, again = (simulate(process, dataset.train, fine, EulerMaruyama, seed) for seed in (1, 2))
    for steps in (20, 50, 100):
        # The grid's own times and those that are compared; the last of these is on it already.
        own = geometric_grid(TIMES[-1], steps - len(TIMES) + 1, 1e-3)
        grid = np.unique(np.concatenate([own, TIMES]))
        found = simulate(process, dataset.train, grid, Exponential, 3)
        distances = (
            f"t = {t:g}: {sliced_wasserstein(found[t], reference[t]):.4f} "
            f"({sliced_wasserstein(again[t], reference[t]):.4f})"
            for t in TIMES
        )
        print(f"{len(grid) - 1} steps  " + "  ".join(distances), flush=True)


if __name__ == "__main__":
    main()
