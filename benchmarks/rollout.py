"""Rollout rate over a loop that only draws the same Gaussian numbers and adds them; one thread.

    python benchmarks/rollout.py

Both sides draw the grid's increments and the recorded examples' own increments from the same generator, in
arrays of the same shape. The two are timed in turn and the median of the pairwise ratios is printed. At d = 64 all four
covariance shapes are run.
"""

import statistics
import time

import numpy as np
import torch

from ndsm.mixture import GaussianMixture
from ndsm.mixture.gaussian_mixture import CovarianceType
from ndsm.objectives import NDSM
from ndsm.processes import Langevin, uniform_grid
from ndsm.simulation import RolloutSpec, RowLayout, paths_per_block, rollout
from ndsm.simulation.rollout import group_size

STEPS, TIMES_PER_PATH, COMPONENTS = 50, 5, 10


def make_spec(d: int, block_mb: float, covariance_type: CovarianceType) -> RolloutSpec:
    """A mixture of 10 components at random places in d dimensions, 50 uniform steps, 5 recorded times."""
    generator = torch.Generator().manual_seed(d)
    means = torch.randn(COMPONENTS, d, generator=generator)
    # Not multiples of the identity, which a shape could take advantage of.
    root = torch.randn(d, d, generator=generator) / d**0.5
    full = 0.4 * torch.eye(d) + 0.1 * root @ root.T
    covariances = {
        "spherical": torch.full((COMPONENTS,), 0.5),
        "diag": full.diagonal().expand(COMPONENTS, d),
        "tied": full,
        "full": full.expand(COMPONENTS, d, d),
    }
    mixture = GaussianMixture(torch.ones(COMPONENTS), means, covariances[covariance_type], covariance_type)
    layout = RowLayout(NDSM.records, d)
    paths = paths_per_block(block_mb, layout, TIMES_PER_PATH)
    process = Langevin(mixture, horizon=0.5)
    return RolloutSpec(process, uniform_grid(0.5, STEPS), 1e-3, TIMES_PER_PATH, paths, layout, 0, 0.9)


def noise_only(spec: RolloutSpec, d: int) -> None:
    """Draw what one block draws, and add it."""
    generator = torch.Generator().manual_seed(0)
    groups = np.array_split(np.arange(spec.paths), max(1, round(spec.paths / group_size(spec.paths, d))))
    for group in groups:
        y = torch.zeros(d, len(group))
        z = torch.empty_like(y)
        own = torch.empty(d, len(group) * TIMES_PER_PATH // STEPS)
        for _ in range(STEPS):
            y.add_(z.normal_(generator=generator), alpha=0.1)
            own.normal_(generator=generator)


def seconds(call: object) -> float:
    """Wall seconds of one call."""
    started = time.perf_counter()
    call()  # type: ignore[operator]
    return time.perf_counter() - started


def main() -> None:
    """Print one line per dimension and covariance shape."""
    torch.set_num_threads(1)
    cases: tuple[tuple[int, CovarianceType, float | None], ...] = (
        (2, "spherical", 0.25),
        (64, "spherical", 0.4),
        (64, "diag", None),
        (64, "tied", None),
        (64, "full", None),
        (784, "spherical", None),
    )
    for d, covariance_type, target in cases:
        spec = make_spec(d, 2.0, covariance_type)
        data = np.random.default_rng(0).normal(size=(10_000, d)).astype("f")
        rollout(spec, data, 0)
        ratios, rates = [], []
        for repeat in range(15):
            base = seconds(lambda spec=spec, d=d: noise_only(spec, d))
            full = seconds(lambda spec=spec, data=data, repeat=repeat: rollout(spec, data, repeat))
            ratios.append(base / full)
            rates.append(spec.rows / full)
        goal = "" if target is None else f"  (target >= {target})"
        print(
            f"d = {d:3}, {covariance_type:9}: {statistics.median(ratios):.2f} of the noise-only rate{goal}, range {min(ratios):.2f}-"
            f"{max(ratios):.2f}; {statistics.median(rates):.0f} recorded rows/s"
        )


if __name__ == "__main__":
    main()
