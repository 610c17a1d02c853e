"""When an evaluation beside the training starts, and what becomes of one that fails, on a real cluster; what it finds is made up."""

import os
import time
from types import SimpleNamespace

import pytest
from settle import free_cpus, wait_for, wait_for_free_cpus

from pipelines import evaluate

pytestmark = pytest.mark.ray


@pytest.fixture
def begin(ray_cluster, tmp_path, monkeypatch):
    """Evaluations that are due at once, each of which calls a function."""
    noted = []
    monkeypatch.setattr(evaluate, "log_evaluation", lambda run, events, found, picture: noted.append(found))
    monkeypatch.setattr(evaluate, "AGAIN_SECONDS", 0.1)

    class LightRun:
        """Is sent without PyTorch."""

        def __init__(self, path, mirror=None):
            self.path, self.mirror, self.tensorboard_evaluations = path, mirror, path

    monkeypatch.setattr(evaluate, "Run", LightRun)
    monkeypatch.setattr(evaluate, "EventFiles", lambda folder: SimpleNamespace(close=lambda: None))
    sections = {"evaluate": SimpleNamespace(seconds=0.01), "train": SimpleNamespace(cpus_per_worker=1)}
    problem = SimpleNamespace(config=SimpleNamespace(**sections))
    made = []

    def start(function):
        monkeypatch.setattr(evaluate, "evaluate_newest", lambda run, problem, dataset: function())
        made.append(evaluate.Evaluations(LightRun(tmp_path), problem))
        wait_for_free_cpus(4)
        time.sleep(0.05)
        return made[-1], noted

    yield start
    for evaluations in made:
        evaluations.stop()


def start_one(evaluations):
    """Have one started, which a busy machine may take several looks for."""

    def started():
        evaluations.look(True)
        return free_cpus() == 3

    wait_for(started)


def test_one_at_a_time_starts_while_the_workers_train(ray_cluster, begin, tmp_path):
    gate = tmp_path / "gate"

    def evaluation():
        while not gate.exists():
            time.sleep(0.05)
        return {"step": 7}, b""

    evaluations, noted = begin(evaluation)
    evaluations.look(False)
    assert free_cpus() == 4
    start_one(evaluations)
    for _ in range(3):
        evaluations.look(True)
        time.sleep(0.05)
        assert free_cpus() == 3
    gate.touch()

    def taken_up():
        evaluations.look(False)
        return bool(noted)

    wait_for(taken_up)
    assert noted == [{"step": 7}]
    wait_for_free_cpus(4)


def test_without_a_free_cpu_none_waits_for_one(ray_cluster, begin):
    """A worker that starts again would find its CPU taken."""

    @ray_cluster.remote(num_cpus=4)
    class Others:
        def there(self):
            return True

    evaluations, _ = begin(lambda: None)
    others = Others.remote()
    ray_cluster.get(others.there.remote())
    wait_for_free_cpus(0)
    evaluations.look(True)
    ray_cluster.kill(others)
    wait_for_free_cpus(4)
    # Nothing that had waited takes it now.
    time.sleep(0.5)
    assert free_cpus() == 4
    start_one(evaluations)


def test_the_first_failure_is_told_and_all_give_their_cpu_back(ray_cluster, begin, caplog):
    evaluations, noted = begin(lambda: os._exit(1))
    for _ in range(2):
        start_one(evaluations)

        def over():
            evaluations.look(False)
            return free_cpus() == 4

        wait_for(over)
        time.sleep(0.1)
    assert noted == []
    assert caplog.text.count("an evaluation beside the training failed: WorkerCrashedError") == 1
