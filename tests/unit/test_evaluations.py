"""Evaluations beside the training: when one starts, where, and what becomes of one that fails."""

import types

import pytest
from ray.exceptions import WorkerCrashedError

from ndsm.config import load_config
from ndsm.run import Run
from pipelines import evaluate


class Cluster:
    """In Ray's place; the test says whether a CPU is free and how the task ends."""

    exceptions = evaluate.ray.exceptions

    def __init__(self):
        self.free, self.result, self.seconds = True, None, 0.0
        self.started, self.places = 0, 0
        self.selector = None

    def monotonic(self):
        return self.seconds

    def nodes(self):
        return [
            {"NodeID": "head", "Alive": True, "Resources": {}},
            {"NodeID": "trainer", "Alive": True, "Resources": {"CPU": 2.0, "trainer": 2.0}},
            {"NodeID": "roomy", "Alive": True, "Resources": {"CPU": 3.0, "trainer": 2.0}},
            {"NodeID": "gone", "Alive": False, "Resources": {"CPU": 8.0, "sim": 8.0}},
            {"NodeID": "simulator", "Alive": True, "Resources": {"CPU": 8.0, "sim": 8.0}},
        ]

    def remote(self, **options):
        return lambda task: self

    def options(self, scheduling_strategy):
        def start(*args):
            self.started += 1
            return "task"

        return types.SimpleNamespace(remote=start)

    def placement_group(self, bundles, bundle_label_selector):
        assert bundles == [{"CPU": 1}]
        (self.selector,) = bundle_label_selector
        self.places += 1
        return types.SimpleNamespace(wait=lambda seconds: self.free)

    def remove_placement_group(self, place):
        self.places -= 1

    def wait(self, refs, timeout):
        return ([], refs) if self.result is None else (refs, [])

    def get(self, ref):
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def cancel(self, ref, force):
        self.result = None


@pytest.fixture
def cluster(monkeypatch):
    made = Cluster()
    for name in ("ray", "time"):
        monkeypatch.setattr(evaluate, name, made)
    for name in ("placement_group", "remove_placement_group"):
        monkeypatch.setattr(evaluate, name, getattr(made, name))
    monkeypatch.setattr(evaluate, "PlacementGroupSchedulingStrategy", lambda place: place)
    return made


@pytest.fixture
def evaluations(cluster, tmp_path, monkeypatch):
    problem = types.SimpleNamespace(config=load_config("toy-arcs", {"evaluate.seconds": 100.0}))
    monkeypatch.setattr(evaluate, "EventFiles", lambda folder: types.SimpleNamespace(close=lambda: None))
    return evaluate.Evaluations(Run(tmp_path), problem)


def test_one_starts_when_it_is_due_and_the_workers_train(cluster, evaluations):
    evaluations.look(True)
    assert cluster.started == 0
    cluster.seconds = 101.0
    evaluations.look(False)
    assert cluster.started == 0
    for _ in range(3):
        evaluations.look(True)
    assert (cluster.started, cluster.places) == (1, 1)
    # Not where a worker may come to need every CPU, nor on the head without any.
    assert cluster.selector == {"ray.io/node-id": "in(roomy,simulator)"}
    evaluations.stop()
    assert cluster.places == 0


def test_without_a_free_cpu_none_waits_for_one(cluster, evaluations):
    cluster.seconds, cluster.free = 101.0, False
    evaluations.look(True)
    assert (cluster.started, cluster.places) == (0, 0)
    cluster.free = True
    evaluations.look(True)
    assert cluster.started == 0
    cluster.seconds += evaluate.AGAIN_SECONDS + 1
    evaluations.look(True)
    assert cluster.started == 1


def test_the_first_failure_is_told_and_all_give_their_cpu_back(cluster, evaluations, caplog):
    for failure in (1, 2):
        cluster.seconds += 101.0
        evaluations.look(True)
        assert (cluster.started, cluster.places) == (failure, 1)
        cluster.result = WorkerCrashedError()
        evaluations.look(False)
        assert cluster.places == 0
        cluster.result = None
    assert caplog.text.count("an evaluation beside the training failed: WorkerCrashedError()") == 1


def test_it_takes_no_gpu(tmp_path, monkeypatch, search):
    """Its task was given none; the workers' may be on the same machine."""
    problem, seen = search[1].preset, []
    assert problem.config.train.device == "auto"
    monkeypatch.setattr(Run, "scaling", lambda run: None)
    monkeypatch.setattr(evaluate, "load", lambda *_: None)
    monkeypatch.setattr(
        evaluate, "evaluate_checkpoint", lambda run, problem, data: seen.append(problem.config.train.device)
    )
    evaluate.evaluate_newest(Run(tmp_path), problem)
    assert seen == ["cpu"]
