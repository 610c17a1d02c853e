"""Training: the step, its moving average, stopping and going on."""

import math

import numpy as np
import pytest
import torch

from ndsm.config import load_config
from ndsm.objectives import NDSM, Losses
from ndsm.runs import Run
from ndsm.training import Resume, block_index, local_source, open_replay, resumed, train
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import begin, prepare
from ndsm.workflows.train import train_locally

TINY = {
    "data.n": 500,
    "reference.n_init": 1,
    "reference.reg_covar": 0.1,
    "network.width": 16,
    "objective": {"kind": "ndsm"},
    "network.depth": 2,
    "process.grid.steps": 60,
    "train.steps": 40,
    "train.batch_rows": 100,
    "train.block_mb": 0.02,
    "train.ring_blocks": 2,
    "train.samples_per_insert": 1.0,
    "train.device": "cpu",
    "train.report_seconds": 1e-9,
}


def tiny(**overrides):
    return load_config("toy-arcs", {**TINY, **{k.replace("__", "."): v for k, v in overrides.items()}})


def begun(path, config=None):
    experiment = prepare(config or tiny(), Run(path))
    begin(experiment)
    return experiment


def saved_tensors(run):
    """Everything the newest checkpoint holds, flat."""
    state = run.find_checkpoint().state
    out = {}

    def walk(node, name):
        if isinstance(node, dict):
            for k, v in node.items():
                walk(v, f"{name}.{k}")
        elif isinstance(node, list):
            for i, v in enumerate(node):
                walk(v, f"{name}.{i}")
        else:
            out[name] = node

    walk(state, "")
    return out


def test_resume_is_bitwise(tmp_path):
    """40 steps in one go and in four sittings of 10 end in the same bits, in weights, averages and optimiser."""
    whole = begun(tmp_path / "whole")
    for _ in train_locally(whole):
        pass
    assert whole.problem.limiter(1).blocks_for(40) > 2 * TINY["train.ring_blocks"]
    parts = begun(tmp_path / "parts")
    for sitting in range(1, 4):
        parts.run.stop_file.parent.mkdir(exist_ok=True)
        parts.run.stop_file.touch()
        records = list(train_locally(parts))
        assert records[-1].final
        assert parts.run.last_step() == 10 * sitting
        parts = begun(tmp_path / "parts")
        assert not parts.run.stop_file.exists()
    list(train_locally(parts))
    a, b = saved_tensors(whole.run), saved_tensors(parts.run)
    assert a.keys() == b.keys()
    assert a[".steps"] == 40
    moved = 0
    for name, value in a.items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, b[name]), name
            moved += value.numel()
        elif "lr" not in name:
            assert value == b[name], name
    assert moved > 1000
    for name in ("model.safetensors", "model-raw.safetensors"):
        assert (whole.run.path / name).read_bytes() == (parts.run.path / name).read_bytes()
    # Over all sittings: what was asked for came to some end, and each block was used in one place.
    last = parts.run.last_metrics()
    assert last["restarts"] == 3
    assert last["blocks_sent"] == last["blocks_received"] + last["blocks_lost"] + last["blocks_in_flight"]
    assert last["blocks_received"] == last["blocks_taken"] + last["blocks_waiting"]
    assert last["blocks_taken"] - last["blocks_reused"] == last["next_block"]
    assert last["blocks_reused"] == 3 * TINY["train.ring_blocks"]
    assert last["blocks_taken"] == whole.run.last_metrics()["blocks_taken"] + last["blocks_reused"]


def test_a_complete_run_takes_no_further_step(tmp_path):
    experiment = begun(tmp_path / "run", tiny(train__steps=10))
    list(train_locally(experiment))
    before = (experiment.run.path / "model.safetensors").read_bytes()
    assert list(train_locally(experiment)) == []
    assert (experiment.run.path / "model.safetensors").read_bytes() == before


def test_another_seed_trains_another_model(tmp_path):
    weights = []
    for seed in (0, 1):
        experiment = begun(tmp_path / str(seed), tiny(train__steps=10, train__seed=seed))
        list(train_locally(experiment))
        weights.append(saved_tensors(experiment.run)[".model.network.layers.0.weight"])
    assert not torch.isclose(*weights).any()


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.999])
def test_averaged_weights_follow_their_recursion(tmp_path, decay):
    """a ← a + (1 - d_n)(w - a), d_n = min(decay, (1 + n)/(10 + n))."""
    experiment = begun(tmp_path / "run", tiny(train__ema=decay))
    trainer, resume = start(experiment.problem, None)
    source = local_source(experiment.problem, experiment.dataset.train, resume)
    replay = open_replay(experiment.problem, resume, 0, source)
    by_hand = [p.detach().double() for p in trainer.model.parameters()]
    for n in range(15):
        trainer.step(replay.batch(n))
        d = min(decay, (1 + n) / (10 + n))
        by_hand = [
            d * a + (1 - d) * w.double() for a, w in zip(by_hand, trainer.model.parameters(), strict=True)
        ]
    replay.source.close()
    for a, kept, raw in zip(by_hand, trainer.ema.parameters(), trainer.model.parameters(), strict=True):
        torch.testing.assert_close(kept.double(), a.detach(), rtol=1e-5, atol=1e-6)
        assert torch.equal(kept, raw) == (decay == 0.0)


def test_a_step_is_adam_on_the_mean_weighted_loss(tmp_path):
    """The reported loss is the mean of V(t)·loss, and the first Adam step moves each weight by lr·sign(gradient)."""
    experiment = begun(tmp_path / "run", tiny(train__lr=1e-3, train__lr_schedule="constant"))
    problem = experiment.problem
    trainer, resume = start(problem, None)
    replay = open_replay(problem, resume, 0, local_source(problem, experiment.dataset.train, resume))
    rows = replay.batch(0)
    replay.source.close()
    named = problem.spec.layout.split(rows)
    expected = (problem.objective(trainer.model, named).base * problem.process.variance(named["t"])).mean()
    gradients = torch.autograd.grad(expected, list(trainer.model.parameters()))
    before = [p.detach().clone() for p in trainer.model.parameters()]
    loss, norm = trainer.step(rows)
    assert float(loss) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float(norm) == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in gradients)), rel=1e-4)
    for p, q, g in zip(before, trainer.model.parameters(), gradients, strict=True):
        clear = g.abs() > 1e-4
        torch.testing.assert_close((q - p)[clear], -1e-3 * g[clear].sign(), rtol=2e-3, atol=1e-7)


def test_the_learning_rate_follows_its_schedule(tmp_path):
    cosine, _ = start(begun(tmp_path / "a", tiny(train__lr=2.0)).problem, None)
    rates = [cosine.learning_rate(s) for s in range(41)]
    assert rates == pytest.approx([1 + math.cos(math.pi * s / 40) for s in range(41)])
    constant, _ = start(
        begun(tmp_path / "b", tiny(train__lr=2.0, train__lr_schedule="constant")).problem, None
    )
    assert {constant.learning_rate(s) for s in range(41)} == {2.0}


def test_another_number_of_workers_takes_blocks_that_no_one_has_taken(tmp_path):
    """All indices used in an era of `world` workers up to a step lie below the first index of the next era."""
    problem = begun(tmp_path / "run", tiny(train__batch_rows=120)).problem
    resume, step, used = Resume(world=2), 0, set()
    for world, steps in ((2, 13), (3, 7), (1, 1), (4, 25)):
        resume = resumed(resume, step, world, problem)
        assert resumed(resume, step + steps, world, problem) is resume
        taken = problem.limiter(world).blocks_for(steps)
        indices = [block_index(resume, rank, n) for rank in range(world) for n in range(taken)]
        assert len(set(indices)) == len(indices)
        assert used.isdisjoint(indices)
        used |= set(indices)
        step += steps
        assert resume.era_step == step - steps
    assert used == set(range(len(used)))


def test_a_run_without_a_step_starts_from_block_zero_with_any_number_of_workers(tmp_path):
    problem = begun(tmp_path / "run", tiny()).problem
    assert resumed(Resume(world=1, seconds=2.0), 0, 4, problem) == Resume(4, 0, 0, 2.0)


def test_a_loss_that_is_not_finite_stops_training_and_leaves_the_earlier_checkpoint(tmp_path):
    experiment = begun(tmp_path / "run")
    run = experiment.run
    run.stop_file.parent.mkdir(exist_ok=True)
    run.stop_file.touch()
    list(train_locally(experiment))
    run.stop_file.unlink()
    before = saved_tensors(run)

    class Broken(NDSM):
        def __call__(self, score, rows):
            return Losses(super().__call__(score, rows).base * math.nan, None)

    object.__setattr__(experiment.problem, "objective", Broken())
    with pytest.raises(FloatingPointError, match=r"loss nan, gradient norm nan at step 20; lower train\.lr"):
        list(train_locally(experiment))
    assert run.last_step() == 10
    after = saved_tensors(run)
    assert all(torch.equal(v, after[k]) for k, v in before.items() if isinstance(v, torch.Tensor))


def test_a_gradient_that_is_not_finite_is_never_saved(tmp_path):
    experiment = begun(tmp_path / "run", tiny(train__steps=10))
    calls = []

    class BreaksLast(NDSM):
        def __call__(self, score, rows):
            calls.append(1)
            value = super().__call__(score, rows).base
            # Finite, but its derivative at 0 is not.
            broken = value + ((value - value.detach()) ** 2).sqrt()
            return Losses(broken if len(calls) == 10 else value, None)

    object.__setattr__(experiment.problem, "objective", BreaksLast())
    try:
        list(train_locally(experiment))
    except FloatingPointError:
        return
    weights = [v for k, v in saved_tensors(experiment.run).items() if k.startswith(".model.")]
    assert all(torch.isfinite(w).all() for w in weights)


def test_records_count_what_was_simulated_and_used(tmp_path):
    experiment = begun(tmp_path / "run")
    problem = experiment.problem
    trainer, resume = start(problem, None)
    replay = open_replay(problem, resume, 0, local_source(problem, experiment.dataset.train, resume))
    try:
        metrics = [record.metrics for record in train(trainer, replay, problem, resume)]
    finally:
        replay.source.close()
    assert [m["step"] for m in metrics] == [10, 20, 30, 40]
    for m in metrics:
        assert m["blocks_inserted"] == problem.limiter(1).blocks_for(m["step"])
        assert m["samples_per_insert"] == m["step"] * 100 / (m["blocks_inserted"] * problem.spec.rows)
        assert m["samples_per_insert"] <= 1
        assert np.isfinite(m["loss"])


def test_training_lowers_the_loss(tmp_path):
    """On the same fresh rows, 300 steps lower the mean weighted loss by more than 4 SE of the difference."""
    config = tiny(train__steps=300, train__ema=0.9, train__lr=3e-3, train__block_mb=0.1)
    experiment = begun(tmp_path / "run", config)
    problem = experiment.problem
    trainer, resume = start(problem, None)
    source = local_source(problem, experiment.dataset.train, resume)
    replay = open_replay(problem, resume, 0, source)
    try:
        list(train(trainer, replay, problem, resume))
    finally:
        replay.source.close()
    fresh = source(1000)
    rows = problem.spec.layout.split(
        torch.from_numpy(np.concatenate([fresh.take(1000 + i) for i in range(4)]))
    )
    fresh.close()
    weight = problem.process.variance(rows["t"])
    with torch.no_grad():
        initial = problem.objective(problem.model(torch.device("cpu")), rows).base * weight
        final = problem.objective(trainer.ema, rows).base * weight
    drop = (initial - final).numpy()
    # Rows of one path are dependent: average them first.
    drop = drop[: len(drop) // 5 * 5].reshape(-1, 5).mean(1)
    assert drop.mean() > 4 * math.sqrt(5) * drop.std() / math.sqrt(len(drop))
