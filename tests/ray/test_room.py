"""Room on a cluster that others use: workers' first, what is free counts, and waiting is told of and ends."""

import os
import signal
from collections import Counter
from contextlib import contextmanager

import pytest
from settle import wait_for_free_cpus, wait_until_all_is_free

from ndsm.cli import main
from ndsm.config import Train
from ndsm.errors import Unfinished
from pipelines.cluster import find_cluster
from pipelines.room import Room, wait_for_room

pytestmark = pytest.mark.ray


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    monkeypatch.setattr("pipelines.room.SETTLE_SECONDS", 0.5)


@contextmanager
def taken(ray, cpus):
    """Another job holds so many CPUs; calling what this gives ends it."""

    @ray.remote(num_cpus=cpus, max_restarts=0)
    class Other:
        def there(self):
            return True

    other = Other.remote()
    assert ray.get(other.there.remote())
    wait_for_free_cpus(ray.cluster_resources()["CPU"] - cpus)
    try:
        yield lambda: ray.kill(other)
    finally:
        ray.kill(other)
        wait_until_all_is_free()


def room_of(said, use_gpu=False, data=0, **train):
    return Room(find_cluster(), Train(**train), use_gpu, 1 << 20, data, said.append)


@pytest.mark.nightly
def test_workers_come_first_on_unequal_nodes_and_places_of_a_lost_node_stay_with_it(ray_cluster, joined):
    """The only GPU is on the smaller node: simulators that came first would fill it, and the worker would never start.

    Simulators of a lost node that came back by themselves would take the CPUs that workers start again on.
    """
    with room_of([]) as after:
        with joined("--num-cpus=2 --num-gpus=1 --object-store-memory=100000000") as small:
            with room_of([], True) as room:
                room.wait(5)
                assert room.workers is not None
                where = Counter(place.node == small for place in room.places)
                assert where == {True: 1, False: 4}
                assert room.take(1) == []
                assert room.lost() == []
            wait_until_all_is_free()
            # Rows that the smaller node's object store cannot hold are simulated elsewhere.
            with room_of([], data=200_000_000) as room:
                assert small not in {place.node for place in room.take(9)}
            wait_until_all_is_free()
            after.wait(5)
            assert Counter(place.node == small for place in after.places)[True] == 2
            after.free(next(place for place in after.places if place.node != small))
        lost = after.lost()
        assert [place.node for place in lost] == [small, small]
        # One CPU is free, and stays so until somebody asks for it.
        wait_for_free_cpus(1)
        assert len(after.take(2)) == 1
    wait_until_all_is_free()


def test_a_wait_says_what_is_missing_and_ends_when_it_is_there(ray_cluster):
    said = []
    with taken(ray_cluster, 4) as end:

        def say(text):
            said.append(text)
            end()

        with Room(find_cluster(), Train(), False, 1 << 20, 0, say) as room:
            room.wait(1)
            assert len(room.places) == 1
    assert said[0] == "waiting for 1 CPU: 4 of 4 in use by others"


def test_a_wait_for_a_simulator_counts_the_workers_room(ray_cluster):
    """And what others leave is taken, though more was asked for."""
    said = []
    with taken(ray_cluster, 3):
        with room_of(said, start_seconds=1.0) as room, pytest.raises(Unfinished):
            room.wait(2)
        assert said == ["waiting for 1 CPU: 4 of 4 in use by others"]
    with taken(ray_cluster, 2), room_of(said) as room:
        room.wait(2)
        assert len(room.places) == 1
        assert room.room(1) == 1


def test_ctrl_c_during_a_wait_ends_it_and_holds_nothing(ray_cluster):
    # A process that a shell has started in the background ignores Ctrl-C.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with taken(ray_cluster, 4), pytest.raises(KeyboardInterrupt):
            wait_for_room({"CPU": 1}, 1, 100.0, lambda text: os.kill(os.getpid(), signal.SIGINT))
    finally:
        signal.signal(signal.SIGINT, before)
    wait_until_all_is_free()


def test_a_run_without_room_gives_up_and_has_written_nothing(ray_cluster, tmp_path, capsys):
    args = [
        "--data.n",
        "200",
        "--reference.n-init",
        "1",
        "--train.start-seconds",
        "1",
        "--out",
        str(tmp_path),
    ]
    with taken(ray_cluster, 4):
        assert main(["train", "toy-arcs", *args]) == 1
        train = capsys.readouterr()
        assert main(["tune", "toy-arcs", "--concurrent", "1", *args]) == 1
        tune = capsys.readouterr()
    for out, err in (train, tune):
        assert "waiting for 1 CPU: 4 of 4 in use by others" in out
        expected = (
            "ndsm: gave up after train.start_seconds (1 s) of waiting for 1 CPU: 4 of 4 in use by others"
        )
        assert err.splitlines()[-1].startswith(expected)
    assert list(tmp_path.iterdir()) == []


def test_the_request_of_a_driver_that_was_killed_is_withdrawn_by_the_next(ray_cluster):
    """Ray Train would keep its room for three minutes for workers that never come."""
    from types import SimpleNamespace

    from ray.data._internal.cluster_autoscaler import get_or_create_autoscaling_coordinator

    from pipelines.controller_callback import AnnounceController, withdraw_request
    from pipelines.coordinator import open_coordinator

    class Controller:
        def __init__(self, coordinator):
            run = SimpleNamespace(run_id="killed")
            AnnounceController(coordinator, "file:///runs/mine").after_controller_start(run)

    keeper = get_or_create_autoscaling_coordinator()

    def ask(requester):
        everything = [{"CPU": ray_cluster.cluster_resources()["CPU"]}]
        ray_cluster.get(keeper.request_resources.remote(requester, everything, expire_after_s=1000.0))
        reserved = ray_cluster.get(keeper.get_reserved_resources.remote(requester))
        return sum(node.get("CPU", 0.0) for node in reserved.values())

    withdraw_request("file:///runs/mine")
    coordinator = open_coordinator([])
    controller = ray_cluster.remote(num_cpus=0)(Controller).remote(coordinator)
    ray_cluster.get(controller.__ray_ready__.remote())
    try:
        assert ask("train-killed") > 0
        assert ask("train-next") == 0
        withdraw_request("file:///runs/another")
        assert ask("train-next") == 0
        withdraw_request("file:///runs/mine")
        assert ask("train-next") > 0
    finally:
        for requester in ("train-killed", "train-next"):
            ray_cluster.get(keeper.cancel_request.remote(requester))
        for actor in (controller, coordinator):
            ray_cluster.kill(actor)
