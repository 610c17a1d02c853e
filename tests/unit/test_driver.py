"""What the driver and the workers decide on Ray, without Ray."""

import time
import types

import pytest
import torch

from ndsm.config import load_config
from ndsm.experiment import build_problem
from ndsm.reference import GaussianMixture
from ndsm.run import Run, training_hash
from ndsm.training import pick_device
from ndsm.training.calibration import Costs
from pipelines import simulator_pool, train, worker
from pipelines.board import Board
from pipelines.handles import SimulatorHandle
from pipelines.resources import Cluster

MB = 2**20


class Handle(SimulatorHandle):
    """A simulator that is only counted."""

    def stop(self) -> None:
        self.inputs.append("stopped")


class FakeRay:
    """In Ray's place: so many CPUs, and a task runs where it is called."""

    def __init__(self, cpus):
        self.cpus = cpus

    def cluster_resources(self):
        return {"CPU": self.cpus, "object_store_memory": 10_000.0 * MB}

    def remote(self, **options):
        self.options = options
        return lambda task: types.SimpleNamespace(remote=task)

    def get(self, ref):
        return ref


@pytest.fixture
def ray(monkeypatch):
    made = FakeRay(6.0)
    monkeypatch.setattr(simulator_pool, "ray", made)
    monkeypatch.setattr(
        simulator_pool, "start_simulators", lambda n, *_: [Handle(object(), []) for _ in range(n)]
    )
    shown = types.SimpleNamespace(lists=[])
    shown.set_simulators = types.SimpleNamespace(remote=shown.lists.append)
    monkeypatch.setattr(simulator_pool, "open_board", lambda handles: shown)
    return made


def problem_of(**fields):
    settings = {
        "network.width": 8, "network.depth": 1, "process.grid.steps": 20, "train.simulators": "auto", "train.device": "cpu",
        "objective": {"kind": "ndsm"}, "train.workers": "1,2", **fields,
    }  # fmt: skip
    mixture = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    return build_problem(load_config("toy-arcs", settings), mixture, "none")


def pool_of(problem, cluster, count):
    return simulator_pool.SimulatorPool(problem, None, cluster, count)


class Lines:
    """Lines of metrics, ten seconds apart."""

    def __init__(self):
        self._seconds, self._worked = 0.0, 0.0

    def next(self, count, stall, busy):
        self._seconds, self._worked = self._seconds + 10, self._worked + 10 * busy * count
        return {"seconds": self._seconds, "simulator_seconds": self._worked, "stall_fraction": stall}


def test_simulators_come_while_workers_wait_and_as_nodes_do(ray):
    """No more than there is room for beside as many workers as may come; a node that comes makes room."""
    cluster, lines = Cluster.of(ray.cluster_resources()), Lines()
    pool = pool_of(problem_of(), cluster, 1)
    counts = []
    for report in range(30):
        if report == 20:
            ray.cpus = 8.0
        pool.adapt(lines.next(len(pool._handles), 0.6, 1.0))
        counts.append(len(pool._handles))
    assert counts[19] == 4
    assert counts[-1] == 6
    assert counts == sorted(counts)
    assert [len(handles) for handles in pool.board.lists] == sorted(set(counts))[1:]


def test_simulators_that_leave_are_ended_a_report_after_workers_could_know(ray):
    pool, lines = pool_of(problem_of(), Cluster.of(ray.cluster_resources()), 4), Lines()
    before = list(pool._handles)
    while len(pool._handles) == 4:
        pool.adapt(lines.next(4, 0.0, 0.1))
    assert pool._handles == before[:1]
    assert not any(handle.inputs for handle in before)
    pool.adapt(lines.next(1, 0.0, 0.5))
    assert [bool(handle.inputs) for handle in before] == [False, True, True, True]


def test_a_restart_of_the_workers_is_no_report(ray):
    """The clock of a run then goes back to its checkpoint: no time has passed that a stall could be a share of."""
    pool, lines = pool_of(problem_of(), Cluster.of(ray.cluster_resources()), 2), Lines()
    for restart in range(10):
        pool.adapt({**lines.next(2, 0.6, 1.0), "seconds": 100.0 - restart})
    assert len(pool._handles) == 2


def test_a_number_of_simulators_stays_what_it_is(ray):
    problem = problem_of(**{"train.simulators": 2})
    pool, lines = pool_of(problem, Cluster.of(ray.cluster_resources()), 2), Lines()
    for _ in range(10):
        pool.adapt(lines.next(2, 0.6, 1.0))
    assert len(pool._handles) == 2


@pytest.mark.parametrize(
    ("block", "store", "expected", "words"),
    [
        (0.01, 10_000, 0, "each worker simulates by itself"),
        # Two workers use 10 blocks of 0.2 s a second each: five simulators with the margin, for four of which are CPUs.
        (0.2, 10_000, 4, "4 simulators"),
        # 30 % of 40 MB: three windows of 4 MB.
        (0.2, 40, 3, "3 simulators"),
    ],
)
def test_auto_starts_what_the_measured_costs_ask_for_and_there_is_room_for(
    ray, monkeypatch, block, store, expected, words
):
    problem, said, started = problem_of(**{"train.device": "auto"}), [], []
    window = problem.config.train.window * problem.spec.block_bytes
    assert 3.9 * MB < window <= 4 * MB
    monkeypatch.setattr(simulator_pool, "start", lambda problem, *_: (started.append(problem), None))
    monkeypatch.setattr(simulator_pool, "measure_costs", lambda *_: Costs(block, block, 1e-3, 0.1, 0.0))
    found = Cluster(6, 0, store * MB)
    assert simulator_pool.calibrated(problem, None, found, False, said.append) == expected
    assert ray.options == {"num_cpus": 1, "num_gpus": 0, "resources": {}, "scheduling_strategy": "DEFAULT"}
    assert len(said) == 1
    assert words in said[0]
    assert started[0].config.train.device == "cpu"


@pytest.fixture
def driver(monkeypatch):
    """What `train_on_ray` starts: `fit` is in place of the workers, and what it returns has all that was asked for."""
    made = types.SimpleNamespace(board=Board([]), settings={}, ended=[], fit=lambda: None)

    class Trainer:
        def __init__(self, worker, train_loop_config, **options):
            made.settings.update(train_loop_config)

        def fit(self):
            made.fit()
            made.ended.append("workers")

    class Direct:
        def __getattr__(self, name):
            return types.SimpleNamespace(remote=getattr(made.board, name))

    pool = types.SimpleNamespace(
        board=Direct(), adapt=lambda line: None, stop=lambda: made.ended.append("pool")
    )
    evaluations = types.SimpleNamespace(look=lambda reported: None, stop=lambda: None)
    monkeypatch.setattr(train.ray, "get", lambda answer: answer)
    monkeypatch.setattr(train, "TorchTrainer", Trainer)
    monkeypatch.setattr(train, "SimulatorPool", lambda *_: pool)
    monkeypatch.setattr(train, "Evaluations", lambda *_: evaluations)
    return made


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_workers_without_a_gpu_of_their_own_train_on_the_processor(driver, tmp_path, monkeypatch, device):
    """Ray does not hide GPUs from a process that asked for none."""
    problem = problem_of(**{"train.device": device})
    found = Cluster(4, 1, 1000.0 * MB)
    assert not train.uses_gpu(load_config("toy-arcs", {"train.workers": 2}).train, found)
    train.train_on_ray(problem, Run(tmp_path), None, lambda line: None, found, 1)
    given = driver.settings["problem"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device(given.config.train.device).type == "cpu"
    assert problem.config.train.device == device
    assert training_hash(given.config) == training_hash(problem.config)
    assert given.spec.stamp == problem.spec.stamp
    train.train_on_ray(problem, Run(tmp_path), None, lambda line: None, found, 1, use_gpu=True)
    assert driver.settings["problem"].config.train.device == "cuda"


def test_workers_end_before_their_simulators_when_the_driver_fails(driver, tmp_path):
    """A worker that reports is asked to stop, and one that starts again finds that it is over."""

    def fit():
        while not driver.board.post({"step": 1}):
            time.sleep(0.01)

    def show(line):
        raise ValueError("no such column")

    driver.fit = fit
    with pytest.raises(ValueError, match="no such column"):
        train.train_on_ray(problem_of(), Run(tmp_path), None, show, Cluster(4, 0, 1000.0 * MB), 1)
    assert driver.ended == ["workers", "pool"]
    assert "no such column" in str(driver.board.failure())


def test_a_run_of_the_public_function_is_kept_at_a_uri_too(tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(train, "run_on_ray", lambda experiment, *_, **options: trained.append(experiment.run))
    fields = {"data.n": 400, "reference.n_init": 1}
    for storage in ((tmp_path / "far away").as_uri(), str(tmp_path / "elsewhere"), None):
        config = load_config("toy-arcs", {**fields, "train.storage": storage})
        train.train(config, tmp_path / "here" / "mine")
    far, *near = trained
    assert {run.path for run in trained} == {tmp_path / "here" / "mine"}
    assert far.mirror.uri == f"{(tmp_path / 'far away').as_uri()}/mine"
    assert [run.mirror for run in near] == [None, None]


def test_each_notice_of_a_nodes_end_saves_once():
    """Ray goes on to give a notice until the node is gone; another node's is another one."""
    told = iter([None, "a", "a", "a", "a and b", "a and b", None, "c"])
    urgent = worker.Notices(lambda: next(told))
    assert [urgent() for _ in range(8)] == [False, True, False, False, True, False, False, True]


def test_counts_of_workers_add_up_and_the_longest_wait_counts():
    """Whoever waits for blocks keeps the others waiting for gradients, which they do not see as a stall."""
    counts = [
        {"stall_fraction": 0.01, "blocks_sent": 3, "simulator_seconds": 0.25},
        {"stall_fraction": 0.7, "blocks_sent": 4, "simulator_seconds": 0.5},
        {"stall_fraction": 0.0, "blocks_sent": 0, "simulator_seconds": 0.0},
    ]
    tables = []

    def collect(table):
        tables.append(table.clone())
        return table

    for rank in range(3):
        worker.counts_together(counts[rank], rank, 3, collect)
    whole = torch.stack(tables).sum(0)
    for rank in range(3):
        found = worker.counts_together(counts[rank], rank, 3, lambda table: whole)
        assert found == {"stall_fraction": 0.7, "blocks_sent": 7, "simulator_seconds": 0.75}
