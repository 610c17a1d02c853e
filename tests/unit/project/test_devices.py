"""Everything that meets a model with rows takes both to one device: walked with a second device, and with a GPU where there is one."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from other_device import META, other_device

import ndsm
from ndsm.cli import main
from ndsm.config import load_config
from ndsm.core.rng import torch_stream
from ndsm.data import Scaling, TableSchema, load
from ndsm.errors import InputError
from ndsm.inference.guidance import Classified, Operator
from ndsm.inference.likelihood import TOLERANCE
from ndsm.inference.noisy_classifier import fit_classifier
from ndsm.mixture import GaussianMixture
from ndsm.reproduce import Job, run_job
from ndsm.runs import Run
from ndsm.samplers import SAMPLERS, generate
from ndsm.training.calibration import measure_costs
from ndsm.vision.autoencoder import Autoencoder
from ndsm.vision.pretrained import Pretrained
from ndsm.workflows import prior_match
from ndsm.workflows.diagnosis import diagnosis_rows, epsilon_curve, time_profile
from ndsm.workflows.evaluate import evaluate_checkpoint
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import build_problem, training_problem
from ndsm.workflows.train import training_in_memory
from ndsm.workflows.trained_model import TrainedModel
from tuning.folder import TrialRecord
from tuning.scoring import Scorer, search_split
from tuning.trial import Setting, run_trial

ROWS = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
SMALL = {
    "train.steps": 2, "train.batch_rows": 8, "train.block_mb": 0.05, "train.times_per_path": 2, "train.device": "cuda", "network.width": 4,
    "network.depth": 1, "reference.n_components": 2, "process.grid.steps": 4, "process.integrator": "exponential",
    "sample.steps": 3, "sample.sampler": "exponential",
}  # fmt: skip
LINEAR = {"process.integrator": "euler-maruyama", "objective.kind": "dsm", "sample.sampler": "ddim"}
REAL = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"
)


@pytest.fixture(params=["other", pytest.param("cuda", marks=[pytest.mark.gpu, REAL])])
def device(request, monkeypatch):
    """The device that `cuda` stands for in a configuration."""
    monkeypatch.setattr(prior_match, "FLOORS", 1)
    # As few steps of an adaptive solver as there can be.
    monkeypatch.setitem(TOLERANCE, torch.float32, 1.0)
    if request.param == "cuda":
        yield torch.device("cuda")
    else:
        with other_device(monkeypatch) as found:
            yield found


def problem_of(**fields):
    """The problem of a small configuration."""
    mixture = GaussianMixture(torch.ones(2) / 2, torch.eye(3)[:2], torch.ones(2))
    return training_problem(
        load_config("table-langevin", {"data.path": "X", **SMALL, **fields}), mixture, "rows", None
    )


def test_the_second_device_catches_what_a_gpu_would(monkeypatch):
    """Rows or a generator of another device; a number may be on the CPU, and an index."""
    layer, number = torch.nn.Linear(3, 2), torch.tensor(2.0)
    with other_device(monkeypatch):
        there, own, other = (
            torch.ones(4, 3).to(META),
            torch_stream(0, "test", device=META),
            torch_stream(0, "test"),
        )
        for mixed in (
            lambda: layer(there),
            lambda: there + torch.ones(4, 3),
            lambda: there @ torch.ones(3, 3),
            lambda: torch.ones(4)[there[:, 0].long()],
            lambda: number.add_(there[0, 0]),
            lambda: torch.stack([number, there[0, 0]]),
        ):
            with pytest.raises(RuntimeError, match="same device"):
                mixed()
        for where, generator in ((META, other), ("cpu", own)):
            with pytest.raises(RuntimeError, match="generator"):
                torch.randn(3, generator=generator, device=where)
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()
        assert (number * there)[torch.tensor([1, 2])].tolist() == [[2.0] * 3] * 2
        assert layer.to(META)(there).detach().cpu().numpy().shape == (4, 2)


@pytest.mark.parametrize("kind", ["ndsm", "ndsm-cv", "antithetic", "path", "sliced", "mixture-dsm"])
def test_objectives_train_and_are_measured_there(kind, device):
    """In memory, with the noise simulated on the device; then what reports and planning measure."""
    weighting = "likelihood" if kind in ("ndsm", "path") else "variance"
    epsilon = {"objective.epsilon": {"kind": "network", "every": 1}} if kind == "ndsm-cv" else {}
    problem = problem_of(**{"objective.kind": kind, "objective.weighting": weighting, **epsilon})
    with training_in_memory(problem, ROWS) as (trainer, records):
        assert [record.step for record in records] == [2]
    assert trainer.device.type == device.type
    if kind in ("ndsm", "path"):
        rows = {name: value[:20] for name, value in diagnosis_rows(problem, ROWS, device).items()}
        assert time_profile(trainer, rows).rows == 20
        assert len(epsilon_curve(trainer, problem, rows).t) == 60
    if kind == "ndsm-cv":
        assert measure_costs(problem, ROWS, trainer, 1, seconds=0.0).use > 0


@pytest.mark.parametrize("mirrored", [False, True])
def test_one_field_for_components_trains_and_generates_there(mirrored, device):
    marginal = {"process.kind": "mixture-ou", "process.form": "marginal", "objective.mirrored": mirrored}
    problem = problem_of(**LINEAR, **marginal)
    with training_in_memory(problem, ROWS) as (_, records):
        assert [record.step for record in records] == [2]
    model = untrained(problem)
    assert np.isfinite(model.all_rows(3, 0, 4)).all()
    assert np.isfinite(model.log_density(ROWS[:3]).log_prob).all()


def untrained(problem):
    trainer, _ = start(problem, None)
    return TrainedModel(problem, trainer.ema.eval(), Scaling(np.zeros(3), np.ones(3)), TableSchema(()))


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_generate_there(sampler, device):
    made = 0
    for fields in ({}, LINEAR | {"process.kind": "ve"}, LINEAR | {"process.kind": "subvp"}):
        try:
            rows = untrained(problem_of(**fields)).all_rows(3, 0, 4, sampler)
        except InputError:
            continue
        assert np.isfinite(rows).all()
        made += 1
    assert made


class OwnPrior:
    """A normal law that knows no other device than the CPU."""

    center = torch.full((3,), 0.1)

    def sample(self, n, generator):
        return self.center + torch.randn(n, 3, generator=generator)

    def log_prob(self, y):
        return -0.5 * ((y - self.center) ** 2).sum(1)


def own_process(law, device):
    """A drift of one's own, and a prior on the CPU or on a device."""
    prior = GaussianMixture(torch.ones(1), torch.zeros(1, 3), torch.ones(1), device=device)
    return ndsm.Langevin(
        drift=lambda y, t: 0.5 * y, prior=OwnPrior() if law == "own prior" else prior, horizon=0.1
    )


@pytest.mark.parametrize("law", ["spherical", "diag", "tied", "full", "vp", "own drift", "own prior"])
def test_an_estimator_draws_completes_and_scores_there(law, device):
    linear, own = law == "vp", law.startswith("own")
    fields = {**SMALL, "data.path": "X", **(LINEAR | {"process.kind": "vp"} if linear else {})}
    if own:
        fields |= {"process.integrator": "euler-maruyama", "sample.sampler": "em"}
    model = ndsm.NDSM(
        2, covariance_type="spherical" if linear or own else law, config=load_config("table-langevin", fields), device="cuda",
        process=own_process(law, device) if own else None, objective="dsm" if linear else "ndsm", sample_steps=3,
        random_state=0,
    ).fit(ROWS, [0, 1] * 30)  # fmt: skip
    assert np.isfinite(model.sample(3, label=1, guidance=1.5)).all()
    if law not in ("diag", "tied"):
        way = {"full": {"probes": 2}, "vp": {"bound": 2}}.get(law, {})
        assert np.isfinite(model._model.log_density(ROWS[:3], **way).log_prob).all()
        assert np.isfinite(model.impute([[0.5, np.nan, np.nan]])).all()
    operator = Operator(torch.ones(1, 3).to(device))
    for method in ("projection",) if own else ("projection", "moment-matched"):
        assert np.isfinite(model.reconstruct(operator, [[0.5]], 0.1, method=method)).all()
    if not own:
        assert np.isfinite(model.denoise(ROWS[:3], 0.1, rank=1).std).all()
        model.fit_second_order(ROWS, rank=1, steps=2)
        assert np.isfinite(model.sample(3, final="draw")).all()


def test_rows_noised_by_components_are_reconstructed_there(device):
    model = untrained(problem_of(**LINEAR, **{"process.kind": "mixture-ou"}))
    for method in ("projection", "moment-matched"):
        found = model.reconstruct(
            Operator(torch.ones(1, 3).to(device)), np.array([[0.5], [2.0]]), 0.1, 2, 0, method=method
        )
        assert np.isfinite(found).all()


def test_a_symmetric_score_and_a_classifier_guide_there(device):
    problem = problem_of(**{"data.name": "images", "data.symmetry": "c2"})
    network = untrained(problem).network
    process = problem.process.to(device)
    # Its process may be anywhere.
    classifier = fit_classifier(process, ROWS, np.arange(60) % 2, steps=2, batch_rows=8, width=4, depth=1)
    guided = Classified(network, classifier.to(device), 1)
    (rows,) = generate(process, guided, problem.reverse_times, 3, 0, device, "exponential")
    assert bool(torch.isfinite(rows).all())


def test_a_pretrained_network_works_there(device):
    network = Autoencoder().to(device)
    found = Pretrained(network, {}).apply(network.encode, np.zeros((2, 784), np.float32))
    assert len(found) == 2


def test_a_studys_run_and_a_searchs_trial_work_there(device, tmp_path):
    config = load_config(
        "toy-arcs",
        {**SMALL, "data.n": 60, "reference.n_init": 1, "objective.kind": "ndsm", "evaluate.n": 20},
    )
    job = Job("row", {}, 0, config, ("swd2",), moments=1, moment_rows=5, prior=True)
    assert all(np.isfinite(row["swd2"]) for row in run_job(job, tmp_path)[0])
    run, dataset = Run(tmp_path / job.name), load(config.data, 0)
    problem = build_problem(config, run.mixture(), run.data()["fingerprint"])
    assert evaluate_checkpoint(run, problem, dataset)[0]["step"] == 2
    scorer = Scorer(search_split(dataset, 0.2, "swd2"), "swd2", 20, 0)
    setting = Setting(tmp_path / "search", problem, scorer, scale=1.0, pool_bytes=2**24)
    trial = setting.search.trial(0)
    trial.write(TrialRecord(0, {}))
    assert run_trial(setting, trial, config).status == "done", trial.read().reason


def test_commands_work_there(device, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NDSM_TRACEBACK", "1")
    pq.write_table(pa.table({f"x{i}": ROWS[:, i] for i in range(3)}), tmp_path / "rows.parquet")
    part = ROWS[:2].astype(np.float64)
    part[:, 1] = np.nan
    pq.write_table(pa.table({f"x{i}": part[:, i] for i in range(3)}), tmp_path / "part.parquet")
    monkeypatch.chdir(tmp_path)
    fields = {**SMALL, "data.path": "rows.parquet", "evaluate.n": 20}
    given = [word for name, value in fields.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    for words in (
        # With its evaluation and report.
        ["train", "table-langevin", "--local", "--out", ".", *given],
        ["sample", "table-langevin", "--n", "3", "--out", "folder", "--local"],
        ["sample", "table-langevin", "--n", "3", "--given", "x0=0.5", "--steps", "3"],
        ["impute", "table-langevin", "part.parquet", "--steps", "3"],
        ["score", "table-langevin", "rows.parquet"],
        ["bench", "variance", "table-langevin", "--n", "100", "--steps", "2", "--objectives", "path", *given],
    ):
        assert main(words) == 0, capsys.readouterr().err
