"""Thin arcs of uneven weights: what the default does where an ordinary diffusion model blurs.

Eight half circles in the plane, 0.05 thick, with weights .30 to .03; 9,000 rows. `ndsm.NDSM()` and a diffusion model with linear
noising get the same network, steps, batches, loss, mirrored noise, averaged weights, early stopping and sampler.
"""

from typing import Any

import numpy as np
import torch
from compare import arguments, report, scaled, scatters

import ndsm
from ndsm.config import load_config
from ndsm.data.toys import make_toy
from ndsm.metrics.balance import class_share, total_variation
from ndsm.metrics.two_sample import told_apart

ROWS, STEPS, GENERATED = 9000, 2000, 2000
LINEAR = {"process.kind": "ou", "reference.n_components": 1, "reference.covariance_type": "spherical"}


def trained(X: np.ndarray, seed: int, steps: int, fields: dict[str, Any]) -> ndsm.NDSM:
    """The default with these fields of the configuration, after so many steps."""
    config = load_config("table", {**fields, "train.device": "cpu"})
    return ndsm.NDSM(config=config, max_steps=steps, random_state=seed).fit(X)


def main() -> None:
    """Run all seeds; print the table, write figure and numbers."""
    options = arguments(__doc__)
    toy = make_toy("arcs")
    n = scaled(GENERATED, options.scale)
    results = []
    for seed in range(options.seeds):
        rng = np.random.default_rng(seed)
        X, _ = toy.sample(scaled(ROWS, options.scale), rng)
        held_out, again = (toy.sample(n, rng)[0] for _ in range(2))
        steps = scaled(STEPS, options.scale)
        gen = trained(X, seed, steps, {})
        assert gen.mixture_ is not None
        alone = gen.mixture_.sample(n, torch.Generator().manual_seed(seed)).numpy()
        found = {
            "VP + DSM": trained(X, seed, steps, LINEAR).sample(n),
            "ndsm": gen.sample(n),
            "mixture alone": alone * X.std(0) + X.mean(0),
            "true data": again,
        }
        results.append(
            {
                name: {
                    "trees tell them apart (AUC)": told_apart(rows, held_out, seed).auc.value,
                    "off the arcs": float(np.mean(toy.off_support(rows))),
                    "arc shares, TV": total_variation(class_share(toy.mode_of(rows), 8), toy.weights),
                }
                for name, rows in found.items()
            }
        )
        if seed == 0:
            panels = {"data": X[:n], "ordinary diffusion": found["VP + DSM"], "ndsm": found["ndsm"]}
            off = {name: toy.off_support(rows) for name, rows in panels.items()}
            scatters(panels, options.out / "example-thin-support.png", "Rows off the arcs in red", off)
    report("example-thin-support", results, options.out)


if __name__ == "__main__":
    main()
