"""Moving a process to a device where it already is costs nothing: its mixture's covariances are factorised once on each."""

import numpy as np
import pytest
import torch
from torch import nn

from ndsm.config import load_config
from ndsm.data import Scaling, TableSchema
from ndsm.mixture import GaussianMixture
from ndsm.processes import OU, VE, VP, Langevin, MixtureOU, SubVP
from ndsm.workflows.setup import training_problem
from ndsm.workflows.trained_model import TrainedModel

MIXTURE = GaussianMixture(torch.ones(2), torch.eye(3)[:2], torch.eye(3).expand(2, 3, 3), "full")
PROCESSES = {
    "langevin": Langevin(MIXTURE),
    "another prior": Langevin(MIXTURE).starting_from(MIXTURE.with_weights(torch.tensor([1.0, 2.0]))),
    "a drift": Langevin(drift=lambda y, t: y, prior=MIXTURE),
    "mixture-ou": MixtureOU(MIXTURE),
    **{kind.__name__: kind().for_dimension(3) for kind in (VP, SubVP, OU, VE)},
}
DEVICES = [
    ("meta", "meta"),
    pytest.param(
        ("cuda", "cuda:0"),
        marks=[
            pytest.mark.gpu,
            pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
        ],
    ),
]


@pytest.fixture(name="made")
def _made(monkeypatch):
    """The mixtures that are made meanwhile."""
    made, make = [], GaussianMixture.__init__

    def counted(self, *args, **settings):
        made.append(self)
        make(self, *args, **settings)

    monkeypatch.setattr(GaussianMixture, "__init__", counted)
    return made


@pytest.mark.parametrize("names", DEVICES)
@pytest.mark.parametrize("kind", PROCESSES)
def test_a_process_is_itself_where_it_already_is(kind, names, made):
    process, (name, same) = PROCESSES[kind], names
    assert process.to("cpu") is process
    assert made == []
    moved = process.to(name)
    # Those of a mixture-ou process are that of its components and N(0, I).
    assert len(made) == (2 if kind in ("another prior", "mixture-ou") else 1)
    assert moved is not process
    assert moved.to(same) is moved.to(name) is moved
    assert len(made) <= 2


@pytest.mark.parametrize("kind", ["langevin", "mixture-ou"])
def test_a_model_moves_its_process_once(kind, made):
    config = load_config(
        "table-langevin",
        {"data.path": "X", "process.kind": kind, **({"objective.kind": "dsm"} if "ou" in kind else {})},
    )
    problem = training_problem(config, MIXTURE, "rows", None)
    model = TrainedModel(
        problem, nn.Linear(3, 3, device="meta"), Scaling(np.zeros(3), np.ones(3)), TableSchema(())
    )
    first, count = model.process, len(made)
    assert first.mixture.device.type == "meta"
    assert model.process is first
    assert len(made) == count
    model.network.to_empty(device="cpu")
    assert model.process.mixture.device.type == "cpu"
