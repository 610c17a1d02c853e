"""Searches on a cluster: a killed driver, and trials that are Ray Train runs. Each has a process of its own, because
`ndsm tune` needs a dashboard, which the cluster of the other tests does without."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]
ROOT = Path(__file__).parents[2]

NESTED = """
import os, socket, sys, time
from pathlib import Path

os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = "0.5"
import ray
from ray.cluster_utils import Cluster
from ray.util import placement_group_table
from ndsm.config import load_config
from tuning.command import SearchOptions, tune

store = 150 << 20
# The usual port may be taken by another cluster.
with socket.socket() as probe:
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
head = dict(num_cpus=3, object_store_memory=store, include_dashboard=True, dashboard_port=port)
cluster = Cluster(initialize_head=True, head_node_args=head)
cluster.add_node(num_cpus=2, object_store_memory=store)
ray.init(address=cluster.address, log_to_driver=False)
cluster.wait_for_nodes()
config = load_config("toy-arcs", {
    "data.n": 500, "train.steps": 270, "train.batch_rows": 32, "train.block_mb": 0.05, "network.width": 16,
    "network.depth": 2, "sample.steps": 40, "sample.sampler": "exponential", "train.report_seconds": 0.2,
    "train.checkpoint_seconds": 0.2, "reference.n_init": 1, "evaluate.n": 300})
frozen = ("reference.covariance_type", "reference.bayesian", "reference.fit_samples", "process.grid.steps")
ended = tune(SearchOptions(
    preset="toy-arcs", config=config, path=Path(sys.argv[1]), ranges={"train.lr": "1e-4..1e-2"}, frozen=frozen, trials=2,
    search="tpe", stop="asha", metric=None, trial_kind="train", concurrent=2, scale=1.0, rows=200, validation=0.2,
    finalists=0, seeds=1, pool_gb=0, fresh=False))
assert ended
for _ in range(60):
    free, every = ray.available_resources().get("CPU"), ray.cluster_resources()["CPU"]
    if free == every:
        break
    time.sleep(0.5)
groups = [g["state"] for g in placement_group_table().values() if g["state"] != "REMOVED"]
print("free", free, "of", every, "groups", groups, flush=True)
ray.shutdown()
cluster.shutdown()
"""


@pytest.mark.nightly
def test_trials_that_are_ray_train_runs_leave_all_cpus_free(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", NESTED, str(tmp_path / "search")],
        check=False, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.splitlines()[-1] == "free 5.0 of 5.0 groups []"
    summary = json.loads((tmp_path / "search" / "summary.json").read_text())
    statuses = [t["status"] for t in summary["trials"] if t["status"] != "invalid"]
    assert len(statuses) == 2
    assert set(statuses) <= {"done", "stopped"}


@pytest.mark.parametrize("kills", [0, pytest.param(1, marks=pytest.mark.nightly)])
def test_a_search_ends_with_its_page_and_trains_nothing_twice(tmp_path, kills):
    """Also one whose driver was killed."""
    words = ["--kills", str(kills), "--trials", "1", "--seconds", "3", "--out", tmp_path]
    done = subprocess.run(
        [sys.executable, "benchmarks/search_kills.py", *words],
        check=False, capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert f"{kills} kills: 1 trials ended, none trained twice" in done.stdout
    found = {p.name for p in (tmp_path / "search").iterdir()}
    assert {"best.yaml", "summary.json", "tune-report.html", "search.json", "trials"} <= found
    page = (tmp_path / "search" / "tune-report.html").read_text(encoding="utf-8")
    for heading in (
        "Best against preset",
        "What matters",
        "Quality against time",
        "The best ε(t)",
        "All trials",
    ):
        assert heading in page
