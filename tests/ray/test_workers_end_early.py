"""Early stopping on a cluster: rank 0 sees that the held-out loss falls no more, and all workers end."""

import numpy as np
import pytest
from sklearn.datasets import make_blobs

import pipelines.train
from ndsm.config import load_config
from ndsm.runs import Run
from ndsm.runs.status import status

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.nightly]

STEPS, PATIENCE, EVERY = 2000, 6, 20


@pytest.mark.parametrize(("workers", "simulators"), [(1, 1), (2, 0)])
def test_all_workers_end_with_the_best_weights(ray_cluster, tmp_path, workers, simulators):
    np.save(tmp_path / "blobs.npy", make_blobs(40, 6, centers=4, random_state=0)[0])
    config = load_config(
        "table",
        {
            "data.path": str(tmp_path / "blobs.npy"), "reference.n_components": 1, "reference.covariance_type": "spherical",
            "network.width": 64, "network.depth": 2, "train.lr": 3e-3, "train.lr_schedule": "constant", "train.ema": 0.9,
            "train.steps": STEPS, "train.patience": PATIENCE, "train.validation_steps": EVERY, "train.held_out_fraction": 0.25,
            "train.batch_rows": 50, "train.block_mb": 0.02, "train.device": "cpu", "train.workers": workers,
            "train.simulators": simulators,
        },
    )  # fmt: skip
    said = []
    pipelines.train.train(config, tmp_path / "run", on_metrics=said.append)
    last = said[-1]
    assert last["step"] == last["best_step"] + PATIENCE * EVERY < STEPS
    run = Run(tmp_path / "run")
    assert run.last_step() == STEPS
    assert status(run)["state"] == "finished"
