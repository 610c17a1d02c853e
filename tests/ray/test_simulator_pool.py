"""How many simulators a run has, on a real cluster: with what is free of it, and while others come and go. The simulators are
actors that do nothing, which start faster."""

import pytest
import torch
from ray.util.placement_group import remove_placement_group
from settle import wait_for, wait_for_free_cpus, wait_until_all_is_free

from ndsm.config import load_config
from ndsm.mixture import GaussianMixture
from ndsm.training.calibration import Costs
from ndsm.workflows.setup import build_problem
from pipelines import simulator_pool
from pipelines.cluster import find_cluster
from pipelines.simulator_pool import SimulatorPool, calibrated
from pipelines.train import room_for

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def idle():
    """A class in a simulator's place; made here, so that it travels by value."""

    class Idle:
        def __init__(self, driver=None):
            pass

        def there(self):
            return True

    return Idle


@pytest.fixture
def other(ray_cluster, idle):
    """Starts an actor of another job that holds so many CPUs."""
    made = []

    def start(cpus):
        made.append(ray_cluster.remote(num_cpus=cpus)(idle).remote())
        assert ray_cluster.get(made[-1].there.remote())
        return made[-1]

    yield start
    for actor in made:
        ray_cluster.kill(actor)


@pytest.fixture(autouse=True)
def _all_is_free(ray_cluster):
    yield
    wait_until_all_is_free()


@pytest.fixture
def make(ray_cluster, _all_is_free, idle, monkeypatch):
    """A pool of so many simulators in a room of its own."""
    monkeypatch.setattr("pipelines.simulators.Simulator", idle)
    made = []

    def start(count, say=lambda text: None, **fields):
        room, problem = room_of(**fields)
        room.wait(count)
        pool = SimulatorPool(problem, ray_cluster.put(None), room, count, say)
        made.append((pool, room))
        return pool, room

    yield start
    for pool, room in made:
        pool.stop()
        with room:
            pass


def room_of(**fields):
    settings = {
        "network.width": 8, "network.depth": 1, "process.grid.steps": 20, "train.simulators": "auto", "train.device": "cpu",
        "objective": {"kind": "ndsm"}, "train.block_mb": 0.1, **fields,
    }  # fmt: skip
    mixture = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    problem = build_problem(load_config("toy-arcs", settings), mixture, "none")
    return room_for(problem, find_cluster(), 1000, False), problem


class Lines:
    """Lines of metrics, ten seconds apart."""

    def __init__(self):
        self._seconds, self._worked = 0.0, 0.0

    def next(self, count, stall, busy):
        self._seconds, self._worked = self._seconds + 10, self._worked + 10 * busy * count
        return {
            "seconds": self._seconds, "simulator_seconds": self._worked, "stall_fraction": stall, "workers": 1
        }  # fmt: skip


def adapt(ray, pool, lines, times, stall, busy):
    """Counts after each of so many lines, as the coordinator has them."""
    counts = []
    for _ in range(times):
        pool.adapt(lines.next(len(pool.handles), stall, busy))
        (shown,) = ray.get(pool.coordinator.simulators.remote())
        counts.append(len(ray.get(shown)))
    return counts


def ended(ray, handle):
    try:
        ray.get(handle.actor.there.remote())
    except ray.exceptions.RayActorError:
        return True
    return False


def test_simulators_come_and_go_as_workers_wait_or_do_not(ray_cluster, make, other):
    """Never more than there is room for beside as many workers as may come and what others hold."""
    pool, room = make(1, **{"train.workers": "1,2"})
    holder = other(1)
    lines = Lines()
    # Four CPUs: one simulator's, one somebody else's, one held for the worker, and one left to another worker.
    assert adapt(ray_cluster, pool, lines, 12, 0.6, 1.0) == [1] * 12
    ray_cluster.kill(holder)
    wait_for_free_cpus(2)
    found = adapt(ray_cluster, pool, lines, 12, 0.6, 1.0)
    while found[-1] < 2:  # The cluster may be told of the group's place a moment after it was asked for.
        found += adapt(ray_cluster, pool, lines, 1, 0.6, 1.0)
    assert found == sorted(found)
    assert adapt(ray_cluster, pool, lines, 12, 0.6, 1.0) == [2] * 12
    assert all(ray_cluster.get([handle.actor.there.remote() for handle in pool.handles]))
    left = pool.handles[1]
    assert 1 in adapt(ray_cluster, pool, lines, 12, 0.0, 0.1)
    # Workers that wait for room need not wait until it would have ended by itself.
    assert room.in_the_way() == []
    assert pool.make_way() is None
    wait_for(lambda: ended(ray_cluster, left))
    assert len(room.places) == 1


def test_a_restart_of_the_workers_is_no_report(ray_cluster, make):
    """The clock of a run then goes back to its checkpoint: no time has passed that a stall could be a share of."""
    pool, _ = make(2)
    lines = Lines()
    for restart in range(10):
        pool.adapt({**lines.next(2, 0.6, 1.0), "seconds": 100.0 - restart})
    assert len(pool.handles) == 2


def test_a_number_of_simulators_is_filled_up_as_others_leave_and_stays(ray_cluster, make, other):
    said = []
    holder = other(2)
    pool, _ = make(2, said.append, **{"train.simulators": 2})
    assert said == ["1 of 2 simulators have room; the others start when there is more"]
    pool.look(["worker"])
    assert len(pool.handles) == 1
    ray_cluster.kill(holder)
    wait_for(lambda: look(ray_cluster, pool) == 2)
    assert adapt(ray_cluster, pool, Lines(), 10, 0.6, 1.0) == [2] * 10
    assert look(ray_cluster, pool) == 2


def look(ray, pool):
    """The count after a look, as the coordinator has it."""
    pool.look([ray.get_runtime_context().get_node_id()])
    (shown,) = ray.get(pool.coordinator.simulators.remote())
    return len(ray.get(shown))


def test_where_all_simulators_are_lost_guests_run_on_the_workers_cpus_until_there_is_room(
    ray_cluster, make, other, monkeypatch
):
    """The worker waits for blocks meanwhile, so that no line of metrics comes."""
    monkeypatch.setattr(simulator_pool, "LEAVE_SECONDS", 0.0)
    said, holder = [], other(1)
    pool, room = make(2, said.append, **{"train.simulators": 2})
    before, taken = pool.handles, list(room.places)
    # Their node is there: that they are busy, or crash, is another matter.
    assert look(ray_cluster, pool) == 2
    assert pool.handles == before
    with pytest.MonkeyPatch.context() as patch:
        # As if their node had gone: the CPUs do not come back to the other nodes.
        patch.setattr(room, "lost", lambda: [place for place in room.places if place in taken])
        patch.setattr(room, "free", room.places.remove)
        assert look(ray_cluster, pool) == 1
        (guest,) = pool.handles
        assert ray_cluster.get(guest.actor.there.remote())
        assert look(ray_cluster, pool) == 1
        assert (pool.handles, room.places) == ([guest], [])
    assert said == ["no simulator has room: until one has, 1 run on the workers' CPUs, which slows both"]
    ray_cluster.kill(holder)
    for place in taken:
        remove_placement_group(place.group)
    wait_for(lambda: look(ray_cluster, pool) == 2 and guest not in pool.handles)
    assert said[1:] == ["2 of 2 simulators have room again"]


def test_auto_starts_what_the_measured_costs_ask_for_and_there_is_room_for(ray_cluster, monkeypatch):
    """Measured in the room that is held for a worker, though nothing else of the cluster is free."""
    monkeypatch.setattr(simulator_pool, "start", lambda problem, *_: (problem.config.train.device, None))
    said = []
    for block, expected, words in ((0.01, 0, "each worker simulates by itself"), (0.2, 2, "2 simulators")):
        costs = Costs(block, block, 1e-3, 0.1, 0.0)
        monkeypatch.setattr(simulator_pool, "measure_costs", lambda *_, costs=costs: costs)
        room, problem = room_of(**{"train.workers": "1,2"})
        with room:
            room.wait(1)
            # Two workers use 10 blocks of 0.2 s a second each: five simulators with the margin, for two of which are CPUs.
            assert calibrated(problem, ray_cluster.put(None), room, False, said.append) == expected
            assert words in said[-1]
            assert len(room.places) == max(1, expected)
        wait_until_all_is_free()


def test_a_worker_of_several_cpus_holds_them_and_has_as_many_threads(ray_cluster):
    room, _ = room_of(**{"train.cpus_per_worker": 3, "train.simulators": 2})
    with room:
        room.wait(2)
        # Beside three CPUs for the worker there is room for one simulator.
        assert len(room.places) == 1
        assert simulator_pool.as_worker(torch.get_num_threads, room) == 3
