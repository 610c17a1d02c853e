"""One small cluster for all tests of this folder: starting one takes seconds."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from settle import nodes_alive, wait_for


@pytest.fixture(scope="package")
def _fewer_processes():
    """Ray Train without two of its helpers: each is one more process for every run, which imports Ray Train for seconds.

    One hands Ray's datasets to workers, of which ndsm has none; the other removes what a killed controller held, which ndsm
    does itself. tests/chaos and tests/cli have them.
    """
    pytest.importorskip("ray.train")
    from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

    trainer = "ray.train.v2.api.data_parallel_trainer"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"{trainer}.DatasetsCallback", lambda **_: WorkerGroupCallback())
        patch.setattr(f"{trainer}.PlacementGroupCleanerCallback", ControllerCallback)
        yield


@pytest.fixture(scope="package")
def ray_cluster(_fewer_processes):
    import ray

    os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
    # tests/chaos has a node that is told of its end; here the watcher would be one more process for every run.
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0"
    # The workers' keys for the S3 server of some tests: they have the environment that the cluster was started with.
    os.environ["AWS_ACCESS_KEY_ID"], os.environ["AWS_SECRET_ACCESS_KEY"] = "key", "secret"
    for attempt in range(3):
        try:
            ray.init(
                address="local",
                num_cpus=4,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
            )
            break
        # Ray gives a node half a minute to start, which a busy machine may exceed.
        except Exception:
            ray.shutdown()
            if attempt == 2:
                raise
    yield ray
    ray.shutdown()


@pytest.fixture(scope="package")
def joined(ray_cluster):
    """A context in which a second node is in the cluster; it gives its id.

    Args of the context: options of `ray start`, and a command that is to start the shell in which it runs.
    """

    @contextmanager
    def join(options: str, wrap: tuple[str, ...] = (), before: str = "true"):
        ray = Path(sys.executable).with_name("ray")
        address = ray_cluster.get_runtime_context().gcs_address
        known = {node["NodeID"] for node in ray_cluster.nodes()}
        script = f'{before} && exec "{ray}" start --address={address} {options} --block'
        process = subprocess.Popen(
            [*wrap, "sh", "-c", script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            wait_for(lambda: nodes_alive() == 2 or process.poll() is not None)
            assert process.poll() is None, process.stdout.read()
            (new,) = {node["NodeID"] for node in ray_cluster.nodes() if node["Alive"]} - known
            yield new
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)
            wait_for(lambda: nodes_alive() == 1)

    return join
