"""A cluster that is a head alone, whose autoscaler starts nodes of Ray's fake provider, on one host."""

import json

import pytest
from host_bed import hosts
from settle import wait_for

TYPES = {
    # What the provider takes the head for.
    "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
    "trainer": {"resources": {"CPU": 1, "trainer": 1}, "node_config": {}, "max_workers": 2},
    "simulator": {"resources": {"CPU": 2, "sim": 2}, "node_config": {}, "max_workers": 2},
}
PROVIDER = {
    "type": "fake_multinode",
    # Its nodes have one address, and nobody logs in to them.
    "use_node_id_as_ip": True,
    "disable_node_updaters": True,
    "disable_launch_config_check": True,
}
EMPTY = {
    **{key: {} for key in ("docker", "file_mounts", "auth")},
    **{
        key: []
        for key in ("cluster_synced_files", "rsync_exclude", "rsync_filter", "initialization_commands")
    },
    **{key: [] for key in ("setup_commands", "head_setup_commands", "worker_setup_commands")},
    **{key: [] for key in ("head_start_ray_commands", "worker_start_ray_commands")},
}
TRAIN = "ndsm train toy-arcs --data.n 400 --train.steps 60 --train.batch-rows 32 --reference.n-init 1 --evaluate.n 100 "


@pytest.mark.nightly
@pytest.mark.timeout(600)
def test_a_head_alone_gets_the_machines_that_a_run_asks_for_and_trains():
    config = {
        "cluster_name": "fake", "max_workers": 4, "idle_timeout_minutes": 5, "upscaling_speed": 1.0, "provider": PROVIDER,
        "available_node_types": TYPES, "head_node_type": "ray.head.default", "file_mounts_sync_continuously": False, **EMPTY,
    }  # fmt: skip
    with hosts(1) as (head,):
        # As `ray up` leaves it on a head, in YAML.
        (head.home / "ray_bootstrap_config.yaml").write_text(json.dumps(config))
        autoscaler = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
        head.start_head(0, "--autoscaling-config=ray_bootstrap_config.yaml", **autoscaler)
        run = head.start(TRAIN, RAY_ADDRESS=f"{head.address}:6379")
        asked = "1 x (1 CPU, 1 trainer) and 1 x (1 CPU, 1 sim)"
        said = f"waiting for machines for {asked}, which the autoscaler was asked for: there are 0 CPUs"
        wait_for(lambda: said in run.out or run.rc is not None)
        assert run.wait(400).rc == 0
        assert "results in runs/toy-arcs" in run.out


@pytest.mark.nightly
def test_without_an_autoscaler_what_does_not_fit_is_refused():
    with hosts(1) as (head,):
        head.start_head(0)
        refused = head.run(TRAIN, RAY_ADDRESS=f"{head.address}:6379")
        assert refused.rc == 2
        assert "the cluster has 0 CPUs, but 1 simulators and 1 training workers need 2" in refused.err
