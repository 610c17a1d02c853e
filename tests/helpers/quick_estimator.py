"""An estimator and a run that are trained in a moment, for tests of what goes in and comes out and not of how good it is."""

from pathlib import Path

import ndsm
from ndsm.config import load_config
from ndsm.runs import Run
from ndsm.workflows.setup import begin, prepare
from ndsm.workflows.train import train_locally

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
    return ndsm.NDSM(3, config=load_config("table-langevin", QUICK), **{**fixed, **settings})


def quick_run(path, fields):
    """A finished run of the preset `table-langevin` with these fields, without evaluation and report."""
    few = {**QUICK, "train.steps": 3, "train.batch_rows": 50, "sample.steps": 4, "reference.n_components": 3}
    experiment = prepare(load_config("table-langevin", {**few, **fields}), Run(Path(path)))
    begin(experiment)
    list(train_locally(experiment))
    return experiment.run
