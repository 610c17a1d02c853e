"""What a trial that is a Ray Train run does in its own process, which holds no GPU; without a cluster."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ndsm.experiment import Experiment, prepare
from ndsm.run import Run
from ndsm.training import pick_device
from tuning import nested


@pytest.fixture
def experiment(search, tmp_path) -> Experiment:
    return prepare(search[0].space.base, Run(tmp_path / "run"))


def cluster_with(monkeypatch, **resources):
    ray = SimpleNamespace(cluster_resources=lambda: {"CPU": 4.0, **resources}, put=lambda x: x)
    monkeypatch.setattr(nested, "ray", ray)


def test_its_weights_are_read_on_the_processor(experiment, monkeypatch):
    devices, lines = [], []

    def start(problem, checkpoint):
        devices.append(pick_device(problem.config.train.device).type)
        return SimpleNamespace(ema="weights"), None

    def train(problem, run, data, on_metrics, *_):
        on_metrics({"step": 12})

    cluster_with(monkeypatch, GPU=1.0)
    monkeypatch.setattr(nested, "start", start)
    monkeypatch.setattr(nested, "train_on_ray", train)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(Run, "last_step", lambda run: 10)
    nested.train_nested(experiment, lambda line, weights: lines.append((line["step"], weights())))
    assert lines == [(10, "weights")]
    assert devices == ["cpu"]


@pytest.mark.parametrize(("gpus", "device"), [(0, "cpu"), (1, "cuda")])
def test_a_step_is_timed_on_what_its_workers_will_have(experiment, monkeypatch, gpus, device):
    seen = {}

    def as_worker(function, found, use_gpu, own, preset, data):
        seen.update(
            function=function, use_gpu=use_gpu, devices=[p.config.train.device for p in (own, preset)]
        )
        return np.float64(2.0)

    cluster_with(monkeypatch, GPU=float(gpus))
    monkeypatch.setattr(nested, "as_worker", as_worker)
    problem = experiment.problem
    assert nested.relative_cost_on_worker(problem, problem, experiment.dataset.train) == 2.0
    assert seen == {"function": nested.relative_cost, "use_gpu": gpus == 1, "devices": [device] * 2}
