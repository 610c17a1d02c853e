"""Rollout rate over a loop that only draws the same Gaussian numbers and adds them; one thread.

    python benchmarks/rollout.py

Both sides draw the grid's increments and the recorded examples' own increments from the same generator, in
arrays of the same shape. The two are timed in turn and the median of the pairwise ratios is printed.
"""

import statistics
import time

import numpy as np
import torch

from ndsm.objectives import NDSM
from ndsm.processes import Langevin, RolloutSpec, RowLayout, paths_per_block, rollout, uniform_grid
from ndsm.processes.rollout import group_size
from ndsm.reference import GaussianMixture

STEPS, TIMES_PER_PATH, COMPONENTS = 50, 5, 10


def make_spec(d: int, block_mb: float) -> RolloutSpec:
    """A mixture of 10 random spherical components in d dimensions, 50 uniform steps, 5 recorded times."""
    generator = torch.Generator().manual_seed(d)
    means = torch.randn(COMPONENTS, d, generator=generator)
    mixture = GaussianMixture(torch.ones(COMPONENTS), means, torch.full((COMPONENTS,), 0.5))
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
    """Print one line per dimension."""
    torch.set_num_threads(1)
    for d, target in ((2, 0.25), (64, 0.4), (784, None)):
        spec = make_spec(d, 2.0)
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
            f"d = {d:3}: {statistics.median(ratios):.2f} of the noise-only rate{goal}, range {min(ratios):.2f}-"
            f"{max(ratios):.2f}; {statistics.median(rates):.0f} recorded rows/s"
        )


if __name__ == "__main__":
    main()
