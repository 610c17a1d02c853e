"""Training on a GPU: what only a real one tells. Skipped where there is none; see test_devices.py for all else."""

import numpy as np
import pytest
import torch

from ndsm.config import load_config
from ndsm.runs import Run
from ndsm.simulation import rollout
from ndsm.training import Ring
from ndsm.workflows.setup import begin, prepare
from ndsm.workflows.train import train_locally
from ndsm.workflows.trained_model import TrainedModel

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"
    ),
]

SHORT = {"train.steps": 30, "train.batch_rows": 64, "train.block_mb": 0.3, "reference.n_components": 3}
OBJECTIVES = {
    "path": {"objective.epsilon": {"every": 10}},
    "ndsm": {},
    "ndsm-cv": {"objective.epsilon": {"kind": "network", "every": 10}},
    "antithetic": {},
    "mixture-dsm": {},
}


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("network", ["resmlp", "unet"])
def test_every_objective_trains_on_the_gpu_and_generates_there(kind, network, tmp_path):
    own = {
        "objective": {"kind": kind},
        "network": {"kind": network, "width": 16, "depth": 2},
        **OBJECTIVES[kind],
    }
    run = Run(tmp_path / kind)
    experiment = prepare(load_config("digits", {**SHORT, **own, "train.device": "cuda"}), run)
    begin(experiment)
    for record in train_locally(experiment):
        assert np.isfinite(record.metrics["loss"])
    model = TrainedModel.of(run)
    assert {p.device.type for p in model.network.parameters()} == {"cuda"}
    rows = model.all_rows(500, 0)
    assert rows.shape == (500, 64)
    assert np.isfinite(rows).all()


@pytest.mark.parametrize("field", [{"train.precision": "bfloat16"}, {"train.compile": True}])
def test_reduced_precision_and_compilation_train_on_the_gpu(field, tmp_path):
    run = Run(tmp_path / "run")
    experiment = prepare(load_config("digits", {**SHORT, **field, "train.device": "cuda"}), run)
    begin(experiment)
    losses = [record.metrics["loss"] for record in train_locally(experiment)]
    assert np.isfinite(losses).all()


def test_the_first_steps_agree_with_the_processors(tmp_path):
    """On the same blocks and batches, which a processor simulates: only rounding differs."""
    losses = {}
    for device in ("cpu", "cuda"):
        run = Run(tmp_path / device)
        fields = {**SHORT, "train.steps": 3, "train.device": device}
        experiment = prepare(load_config("digits", fields), run)
        begin(experiment)
        spec, rows = experiment.problem.spec, experiment.dataset.train
        records = train_locally(
            experiment, make_block=lambda index, spec=spec, rows=rows: rollout(spec, rows, index)
        )
        losses[device] = [record.metrics["loss"] for record in records][-1]
    assert losses["cuda"] == pytest.approx(losses["cpu"], rel=1e-3)


def test_blocks_reach_the_ring_through_pinned_memory_each_to_its_place():
    ring = Ring(5, 1000, 300, "cuda")
    assert ring._staging is not None
    assert all(buffer.is_pinned() for buffer in ring._staging._buffers)
    block = np.empty((1000, 300), dtype=np.float32)
    for number in range(12):
        block.fill(number)
        ring.insert(block)
    held = ring.draw(torch.arange(5000, dtype=torch.float64, device="cuda") / 5000).reshape(5, -1)
    assert [rows.unique().tolist() for rows in held] == [[10], [11], [7], [8], [9]]


@pytest.mark.parametrize("kind", ["path", "ndsm", "mixture-dsm"])
def test_the_gpu_simulates_the_same_law(kind, tmp_path, mean_within):
    """Repeatable, with other numbers than a processor's from the same starts at the same times; of each recorded quantity
    the mean and the mean square agree within 4 SE of their difference."""
    fields = {**SHORT, "objective": {"kind": kind}, "train.times_per_path": 1, "train.device": "cuda"}
    experiment = prepare(load_config("digits", fields), Run(tmp_path / "run"))
    spec, data = experiment.problem.spec, experiment.dataset.train
    own = spec.on(torch.device("cuda"))
    assert own.stamp != spec.stamp
    found = rollout(own, data, 0)
    assert found.tobytes() == rollout(own, data, 0).tobytes()
    parts = [spec.layout.split(torch.from_numpy(block)) for block in (found, rollout(spec, data, 0))]
    for name in spec.layout.records:
        ours, theirs = (part[name].double().reshape(len(found), -1) for part in parts)
        if name in ("t", "std"):
            torch.testing.assert_close(ours, theirs)
            continue
        assert not torch.equal(ours, theirs)
        for power in (1, 2):
            mean_within((ours**power - theirs**power).mean(1), 0.0)
