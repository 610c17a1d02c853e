"""One small cluster for all tests of this folder: starting one takes seconds."""

import os

import pytest


@pytest.fixture(scope="package")
def ray_cluster():
    ray = pytest.importorskip("ray")
    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
    # On a busy machine half a minute is not enough for a node to start.
    os.environ["RAY_raylet_start_wait_time_s"] = "120"
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="error")
    yield ray
    ray.shutdown()
