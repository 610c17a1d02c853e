"""An estimator that fits in a moment, for tests of what goes in and comes out and not of how good it is."""

import ndsm
from ndsm.config import load_config

QUICK = {
    "data.path": "X",
    "train.block_mb": 0.05,
    "network.width": 8,
    "network.depth": 1,
    "process.integrator": "exponential",
    "process.grid.steps": 10,
    "sample.sampler": "exponential",
}
"""Fields of the configuration."""


def quick_estimator(**settings):
    fixed = {"max_steps": 5, "batch_rows": 50, "sample_steps": 4, "device": "cpu", "random_state": 4}
    return ndsm.NDSM(3, config=load_config("vectors", QUICK), **{**fixed, **settings})
