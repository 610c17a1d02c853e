"""What the entrypoint of `deploy/rayjob.yaml` does in a Ray job."""

import os
import sys
import time
from pathlib import Path

import pytest
import yaml
from settle import wait_for

pytestmark = [pytest.mark.ray, pytest.mark.nightly, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def client():
    """Of a cluster's job API."""
    from ray.cluster_utils import Cluster
    from ray.job_submission import JobSubmissionClient

    head = {"num_cpus": 2, "include_dashboard": True, "dashboard_port": 0, "object_store_memory": 150 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield JobSubmissionClient(f"http://{cluster.head_node.webui_url}")
    cluster.shutdown()


def environment(cwd):
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {"env_vars": {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PWD": str(cwd)}}


def submit(client, **job):
    """Submit a job, once the node's agent is there to take it; its id."""
    while True:
        try:
            return client.submit_job(**job)
        except RuntimeError as error:
            if "try again later" not in str(error):
                raise
            time.sleep(1)


def test_a_job_with_bad_input_is_stopped_and_not_failed(client, tmp_path):
    """KubeRay submits a job that failed once more, `backoffLimit` times, and one that was stopped not."""
    job = yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text(encoding="utf-8"))["spec"]
    command, rest = job["entrypoint"].split(" ||", 1)
    bad = command.replace("/runs", str(tmp_path)).replace("mnist", "no-such-preset")
    job_id = submit(
        client, entrypoint=f"{bad} ||{rest}", submission_id=job["jobId"], runtime_env=environment(tmp_path)
    )
    wait_for(lambda: client.get_job_status(job_id).is_terminal())
    assert client.get_job_status(job_id) == "STOPPED", client.get_job_logs(job_id)
    assert "ndsm: no preset" in client.get_job_logs(job_id)
    failed = submit(client, entrypoint=f"(exit 1) ||{rest}")
    wait_for(lambda: client.get_job_status(failed).is_terminal())
    assert client.get_job_status(failed) == "FAILED"


def test_a_job_that_is_stopped_has_saved(client, tmp_path):
    """`ray job stop` kills three seconds after SIGTERM."""
    entrypoint = (
        f"ndsm train toy-arcs --out {tmp_path} --data.n 400 --train.steps 1000000 --train.block-mb 0.02 "
    )
    entrypoint += "--train.batch-rows 32 --train.checkpoint-seconds 1000 --reference.n-init 1"
    job_id = submit(client, entrypoint=entrypoint, runtime_env=environment(tmp_path))
    metrics = tmp_path / "toy-arcs" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() or client.get_job_status(job_id).is_terminal())
    client.stop_job(job_id)
    wait_for(lambda: client.get_job_status(job_id).is_terminal())
    logs = client.get_job_logs(job_id)
    assert client.get_job_status(job_id) == "STOPPED", logs
    assert "SIGTERM came: saving a checkpoint" in logs
    assert "a checkpoint is saved; the same command goes on from there" in logs
    assert list((tmp_path / "toy-arcs" / "checkpoints").glob("step-*.pt"))
