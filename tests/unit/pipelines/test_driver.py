"""What the driver and the workers decide on Ray, without Ray."""

from dataclasses import replace

import pytest
import torch

from ndsm.config import load_config
from ndsm.mixture import GaussianMixture
from ndsm.runs.identity import training_hash
from ndsm.training import pick_device
from ndsm.workflows.setup import build_problem
from pipelines import simulator_pool, train, worker
from pipelines.coordinator import Coordinator, Group
from pipelines.resources import Cluster


def problem_of(**fields):
    settings = {
        "network.width": 8, "network.depth": 1, "process.grid.steps": 20, "train.simulators": "auto", "train.device": "cpu",
        "objective": {"kind": "ndsm"}, "train.workers": "1,2", **fields,
    }  # fmt: skip
    mixture = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.ones(1))
    return build_problem(load_config("toy-arcs", settings), mixture, "none")


@pytest.mark.parametrize("device", ["auto", "cpu"])
def test_workers_without_a_gpu_of_their_own_train_on_the_processor(monkeypatch, device):
    """Ray does not hide GPUs from a process that asked for none."""
    problem = problem_of(**{"train.device": device})
    assert not train.uses_gpu(load_config("toy-arcs", {"train.workers": 2}).train, Cluster(4, 1, 1e9))
    given = simulator_pool.workers_problem(problem, False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device(given.config.train.device).type == "cpu"
    assert problem.config.train.device == device
    assert training_hash(given.config) == training_hash(problem.config)
    assert given.spec.stamp == problem.spec.stamp
    assert simulator_pool.workers_problem(problem, True).config.train.device == "cuda"


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


def test_workers_that_are_to_stop_are_waited_for_as_long_as_they_have_something_to_save():
    now = 100.0
    watch = train.StopWatch(lambda: now)
    trains = Group(1, ("node",), step=0, world=1, reports=3)
    assert not watch.is_over(trains)
    now += 1000
    # Saving may take as long as it takes.
    assert not watch.is_over(trains)
    assert watch.is_over(replace(trains, saved=True))
    # None lives, or those that live have not trained: the last checkpoint is all there is.
    assert watch.is_over(replace(trains, nodes=()))
    starting = Group(2, ("node",))
    assert watch.is_over(starting)
    assert not train.StopWatch(lambda: now).is_over(starting)


def test_the_coordinator_knows_which_workers_there_are():
    """What Ray Train's controller and rank 0 tell of starts, losses and reports."""
    made = Coordinator([])
    assert made.group() == Group()
    made.note_workers(["a", "b"])
    made.begin(20, 2)
    made.post({"step": 30})
    assert made.group() == Group(1, ("a", "b"), 20, 2, 1)
    made.note_loss([1])
    made.note_workers([])
    assert made.group() == Group(1, (), 20, 2, 1, (1,))
    made.note_workers(["a"])
    assert made.group() == Group(2, ("a",))
    assert not made.stops()
    made.ask_to_stop()
    assert made.stops()
    assert made.post({"step": 40}, True)
    assert made.group().saved
