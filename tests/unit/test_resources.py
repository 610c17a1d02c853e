"""A run that the cluster cannot hold is refused before Ray would wait for ever."""

import pytest

from ndsm.config import Train
from ndsm.errors import InputError
from pipelines.resources import Cluster, SimulatorScaling, check_budget, gpu_of_each, simulators_needed

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
    assert plain.simulator_resources() == {}
    split = Cluster.of({"CPU": 9.0, "trainer": 2.0, "sim": 5.0})
    assert split.worker_resources(False) == {"CPU": 1, "trainer": 1}
    assert split.simulator_resources() == {"sim": 1}


@pytest.mark.parametrize(
    ("cluster", "workers", "expected"),
    [
        (Cluster(4, 0, 100 * MB), 1, 3),
        (Cluster(4, 0, 100 * MB), 4, 1),
        (Cluster(9, 0, 1000 * MB, trainers=2, simulators=5), 2, 5),
        (Cluster(6, 0, 1000 * MB, trainers=2, simulators=5), 2, 4),
        # 30 % of 100 MB: three windows of 10 MB.
        (Cluster(64, 0, 100 * MB), 1, 3),
        (Cluster(64, 0, 100 * MB, trainers=2, simulators=60), 2, 3),
        (Cluster(64, 0, MB), 1, 1),
    ],
)
def test_simulators_fit_beside_the_workers_and_into_the_object_store(cluster, workers, expected):
    assert cluster.room_for_simulators(workers, 10 * MB) == expected


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
