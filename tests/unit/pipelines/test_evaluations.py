"""Evaluations beside the training: where one may run, and on what."""

from ndsm.runs import Run
from pipelines import evaluate


def test_none_runs_where_a_worker_may_come_to_need_every_cpu():
    """Nor on a head without any, nor on a node that is gone."""
    nodes = [
        {"NodeID": "head", "Alive": True, "Resources": {}},
        {"NodeID": "trainer", "Alive": True, "Resources": {"CPU": 2.0, "trainer": 2.0}},
        {"NodeID": "roomy", "Alive": True, "Resources": {"CPU": 3.0, "trainer": 2.0}},
        {"NodeID": "gone", "Alive": False, "Resources": {"CPU": 8.0, "sim": 8.0}},
        {"NodeID": "simulator", "Alive": True, "Resources": {"CPU": 8.0, "sim": 8.0}},
    ]
    assert evaluate.nodes_to_spare(nodes) == ["roomy", "simulator"]


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
