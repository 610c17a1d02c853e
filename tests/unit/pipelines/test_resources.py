"""A run that the cluster cannot hold is refused before Ray would wait for ever."""

from collections import Counter

import pytest

from ndsm.config import Train
from ndsm.errors import InputError, Unfinished
from pipelines.resources import (
    Cluster,
    Node,
    SimulatorScaling,
    Waiting,
    check_budget,
    gpu_of_each,
    lack,
    simulators_needed,
    spread,
)

MB = 2**20


def check(
    cpus=4.0, gpus=0.0, store=100 * MB, block=5 * MB, data=MB, gpu=False, trainer=None, sim=None, **train
):
    config = Train(batch_rows=240, **train)
    check_budget(Cluster(cpus, gpus, store, trainer, sim), config, config.simulators, block, data, gpu)


@pytest.mark.parametrize(
    ("gpus", "device", "processes", "each"),
    [(0, "auto", 1, 0), (1, "auto", 1, 1), (1, "auto", 2, 0), (2, "cuda", 2, 1), (2, "cpu", 1, 0)],
)
def test_processes_have_a_gpu_each_or_none_at_all(gpus, device, processes, each):
    assert gpu_of_each(Cluster(8, gpus, 1e9), device, processes) == each


def test_a_run_that_fits_exactly_is_accepted():
    check(cpus=4, workers=1, simulators=3, window=2)
    check(cpus=2, gpus=1, gpu=True, workers=1, simulators=1)
    # 30 % of 100 MB: six blocks of 5 MB.
    check(cpus=5, workers=1, simulators=3, window=2, block=5 * MB)
    check(data=90 * MB, window=2)
    # Elastic: the least number of workers has to fit. No simulators, no blocks in flight.
    check(cpus=4, workers="1,4", simulators=3, window=1)
    check(cpus=1, workers=1, simulators=0, block=1000 * MB)
    check(cpus=4, trainer=1, sim=3, workers="1,3", simulators=3)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"cpus": 4, "workers": 2, "simulators": 3},
            "has 4 CPUs, but 3 simulators and 2 training workers need 5",
        ),
        ({"gpus": 1, "gpu": True, "workers": 2}, "has 1 GPUs, but 2 training workers on cuda need 2"),
        (
            {"simulators": 3, "window": 3},
            r"take 45 MB \(train.window 3 x 3 simulators x 5.0 MB\), but only 30 MB",
        ),
        ({"cpus": 4, "workers": "2,4", "simulators": 3}, "3 simulators and 2 training workers need 5"),
        ({"trainer": 1, "workers": 2}, "has 1 of the resource 'trainer', but the run needs 2"),
        ({"sim": 2, "simulators": 3}, "has 2 of the resource 'sim', but the run needs 3"),
        ({"data": 91 * MB, "window": 2}, "training rows take 91 MB, more than the object store's 100 MB"),
    ],
)
def test_a_run_that_does_not_fit_is_refused_with_its_numbers(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        check(**settings)


def test_without_a_gpu_in_use_gpus_do_not_matter():
    check(gpus=0, gpu=False, workers=2, simulators=1)


def test_custom_resources_are_asked_for_where_the_cluster_offers_them():
    plain = Cluster.of({"CPU": 4.0, "GPU": 1.0, "object_store_memory": 10.0})
    assert plain.worker_resources(True) == {"CPU": 1, "GPU": 1}
    assert plain.simulator_resources() == {"CPU": 1}
    split = Cluster.of({"CPU": 9.0, "trainer": 2.0, "sim": 5.0})
    assert split.worker_resources(False) == {"CPU": 1, "trainer": 1}
    assert split.worker_resources(False, 3) == {"CPU": 3, "trainer": 1}
    assert split.simulator_resources() == {"CPU": 1, "sim": 1}


def node(name, store=100 * MB, used=None, **total):
    """A node with these resources, of which `used` are held."""
    total = {"object_store_memory": float(store), **{key: float(value) for key, value in total.items()}}
    free = {key: value - (used or {}).get(key, 0) for key, value in total.items()}
    return Node(name, f"host-{name}", total, free)


def check_nodes(*nodes, data, block=5 * MB, gpu=False, **train):
    totals = {key: sum(n.total.get(key, 0.0) for n in nodes) for n in nodes for key in n.total}
    config = Train(batch_rows=240, **train)
    check_budget(Cluster.of(totals, nodes=nodes), config, config.first_simulators, block, data, gpu)


def test_object_stores_do_not_add_up_for_what_every_node_needs_whole():
    """40 MB of rows on twelve nodes of 4.8 MB: 57.6 MB in all, and no node that could hold them."""
    twelve = [node(str(k), 4.8 * MB, CPU=4) for k in range(12)]
    with pytest.raises(
        InputError, match=r"take 40 MB, of which every node .* needs a whole copy .* node host-\d+ has 5 MB"
    ):
        check_nodes(*twelve, data=40 * MB, block=MB // 8, workers=1, simulators=2, window=1)
    check_nodes(*twelve, data=4 * MB, block=MB // 8, workers=1, simulators=2, window=1)


def test_nodes_too_small_for_the_rows_only_simulate_nothing():
    small, large = node("small", 20 * MB, CPU=8), node("large", 200 * MB, CPU=4)
    check_nodes(small, large, data=50 * MB, workers=1, simulators=3, window=1)
    with pytest.raises(InputError, match=r"node host-small has 20 MB"):
        check_nodes(small, large, data=50 * MB, workers=1, simulators=5, window=1)
    # A worker that simulates by itself may come to any of them.
    for simulators in (0, "auto"):
        with pytest.raises(InputError, match=r"node host-small has 20 MB"):
            check_nodes(small, large, data=50 * MB, workers=1, simulators=simulators, window=1)
    assert small.simulators_by_memory(5 * MB, 50 * MB) == 0
    # 30 % of 200 MB: twelve windows of 5 MB. Beside 150 MB of rows ten.
    assert large.simulators_by_memory(5 * MB, 50 * MB) == 12
    assert large.simulators_by_memory(5 * MB, 150 * MB) == 10


def test_simulators_go_to_what_is_free_and_leave_room_for_workers():
    a, b = node("a", CPU=16, GPU=1, used={"CPU": 2}), node("b", CPU=4, GPU=1)
    most = {"a": 100, "b": 100}
    assert Counter(spread((a, b), {"CPU": 1}, 99, most)) == {"a": 14, "b": 4}
    kept = ({"CPU": 1, "GPU": 1}, 2)
    assert Counter(spread((a, b), {"CPU": 1}, 99, most, kept)) == {"a": 13, "b": 3}
    assert Counter(spread((a, b), {"CPU": 1}, 3, {"a": 1, "b": 9})) == {"a": 1, "b": 2}
    assert spread((a, b), {"CPU": 1, "sim": 1}, 3, most) == []


def test_what_is_waited_for_is_counted_from_what_is_free():
    busy, half = node("busy", CPU=2, used={"CPU": 2}), node("half", CPU=2, GPU=1, used={"CPU": 1, "GPU": 1})
    assert lack([busy], {"CPU": 1}, 1) == "1 CPU: 2 of 2 in use by others"
    assert lack([busy, half], {"CPU": 1}, 1) is None
    assert lack([busy, half], {"CPU": 1}, 3, own=2) == "3 CPU: 1 of 4 in use by others, 2 by this run"
    assert lack([busy, half], {"CPU": 1, "GPU": 1}, 1) == "1 GPU: 1 of 1 in use by others"
    gpu = node("gpu", CPU=1, GPU=1, used={"CPU": 1})
    assert lack([gpu, half], {"CPU": 1, "GPU": 1}, 1) == (
        "1 CPU and 1 GPU on one node, 1 times: what is free is on different nodes"
    )


def test_a_wait_is_told_at_once_when_it_changes_and_each_minute_and_has_an_end():
    said, now = [], [0.0]
    waiting = Waiting(said.append, 200.0, lambda: now[0])
    for now[0], what in ((0, "a"), (1, "a"), (2, "b"), (61, "b"), (63, "b")):
        waiting.on(what)
    assert said == ["waiting for a", "waiting for b", "waiting for b"]
    waiting.over()
    now[0] = 500.0
    waiting.on("b")
    assert len(said) == 4
    now[0] = 700.0
    with pytest.raises(Unfinished, match=r"gave up after train\.start_seconds \(200 s\) of waiting for b;"):
        waiting.on("b")


@pytest.mark.parametrize(
    ("block", "use", "workers", "most", "expected"),
    [
        # A tenth of the time or less: the worker does it beside its steps.
        (0.01, 0.1, 1, 8, 0),
        (0.011, 0.1, 1, 8, 1),
        # Two workers use 20 blocks a second of 0.2 s each: four simulators, and a quarter more.
        (0.2, 0.1, 2, 8, 5),
        (0.2, 0.1, 2, 3, 3),
    ],
)
def test_simulators_follow_from_the_costs_of_a_block_and_its_use(block, use, workers, most, expected):
    assert simulators_needed(block, use, workers, most) == expected


def test_a_worker_simulates_by_itself_if_its_own_device_is_fast_enough():
    assert simulators_needed(0.2, 0.1, 2, 8, own_seconds=0.01) == 0
    assert simulators_needed(0.2, 0.1, 2, 8, own_seconds=0.011) == 5


def test_the_console_says_where_to_watch_what_runs():
    told = []
    Cluster.of({}, "http://127.0.0.1:8265", "http://127.0.0.1:5/metrics").tell(told.append)
    Cluster.of({}).tell(told.append)
    assert told == [
        "Ray dashboard: http://127.0.0.1:8265",
        "Metrics for Prometheus: http://127.0.0.1:5/metrics",
    ]


class TestScaling:
    """The policy drives a model of a run: r blocks/s wanted, each simulator makes m a second."""

    @staticmethod
    def settle(wanted, rate, count, most=100):
        policy, counts = SimulatorScaling(1), []
        for _ in range(60):
            made = min(wanted, count * rate)
            count = policy.decide(count, 1 - made / wanted, made / (count * rate), most)
            counts.append(count)
        assert counts[-1] == counts[-20], "still changing"
        return counts

    @pytest.mark.parametrize(("wanted", "rate"), [(10, 1), (10, 3), (3, 10), (64, 0.7)])
    @pytest.mark.parametrize("count", [1, 90])
    def test_it_settles_where_nobody_waits_and_few_idle(self, wanted, rate, count):
        final = self.settle(wanted, rate, count)[-1]
        least = -(-wanted // rate)
        assert 0.98 * wanted <= final * rate
        assert final <= 1.7 * least + 1

    def test_it_keeps_within_its_bounds(self):
        assert max(self.settle(50, 1, 1, most=7)) == 7

    def test_it_follows_the_room_there_is(self):
        policy = SimulatorScaling(1)
        starved = [policy.decide(2, stall=0.5, busy=1.0, most=most) for most in (2, 2, 2, 3, 3, 3)]
        assert starved == [2, 2, 2, 2, 2, 3]
        assert [policy.decide(3, stall=0.5, busy=1.0, most=2) for _ in range(3)] == [3, 3, 2]

    def test_one_bad_report_changes_nothing(self):
        policy = SimulatorScaling(1)
        reports = [(0.3, 1.0), (0.0, 0.8), (0.3, 1.0), (0.3, 1.0), (0.0, 0.1), (0.3, 1.0)]
        assert [policy.decide(4, *report, 10) for report in reports] == [4] * 6

    def test_a_stall_that_more_simulators_would_not_end_adds_none(self):
        policy = SimulatorScaling(1)
        assert [policy.decide(4, stall=0.5, busy=0.1, most=10) for _ in range(5)] == [4] * 5
