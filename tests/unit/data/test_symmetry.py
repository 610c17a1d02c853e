"""Exact symmetry: the wrapper of scores, and what `data.symmetry` makes of scaling, mixture and score."""

from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from ndsm.cli import main
from ndsm.config import build_config, flatten, load_config, merge
from ndsm.core.symmetry import GROUPS, identity
from ndsm.data import load
from ndsm.errors import InputError
from ndsm.networks import Equivariant
from ndsm.reproduce import STUDIES, run_job
from ndsm.runs import Run
from ndsm.simulation import rollout
from ndsm.training import fit_mixture
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import build_problem, describe_data, prepare
from ndsm.workflows.trained_model import TrainedModel


def rotation(quarters):
    def turn(x):
        a = torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=x.dtype)
        return x @ torch.linalg.matrix_power(a, quarters)

    return turn


C4 = [rotation(k) for k in range(4)]


def crooked(y, t):
    """A score with no symmetry."""
    return torch.sin(y) * t[:, None] + y.roll(1, 1) ** 2


def test_the_mean_over_a_group_is_equivariant_and_leaves_equivariant_scores():
    model = torch.Generator().manual_seed(0)
    y, t = (
        torch.randn(9, 2, generator=model, dtype=torch.float64),
        torch.rand(9, generator=model).double(),
    )
    s = Equivariant(crooked, C4)
    for g in C4:
        torch.testing.assert_close(s(g(y), t), g(s(y, t)), rtol=0, atol=1e-14)
    assert not torch.allclose(crooked(C4[1](y), t), C4[1](crooked(y, t)))

    def radial(y, t):
        return y * torch.exp(-(y**2).sum(1, keepdim=True))

    torch.testing.assert_close(Equivariant(radial, C4)(y, t), radial(y, t))


@pytest.mark.parametrize(
    ("group", "message"),
    [
        (
            (identity, rotation(1)),
            "product of any two of the functions among them, found that number 1 after number 1",
        ),
        ((identity, lambda x: 2 * x), "keep distances, found that number 1 does not"),
    ],
)
def test_what_is_no_group_of_isometries_is_refused(group, message):
    with pytest.raises(InputError, match=message):
        Equivariant(crooked, group)(torch.randn(3, 2), torch.ones(3))


@pytest.fixture(scope="module", name="problems")
def _problems():
    """Digits with the symmetry built in, by a Langevin and by a linear process."""

    def problem(**fields):
        config = load_config(
            "digits",
            {
                "data.symmetry": "c2",
                "reference.n_components": 3,
                "network.width": 16,
                "train.block_mb": 0.1,
                "sample.steps": 20,
                **fields,
            },
        )
        dataset = load(config.data, 0)
        return build_problem(config, fit_mixture(config, dataset.train), dataset.stamp), dataset

    linear = {
        "process.kind": "vp",
        "process.horizon": 1.0,
        "process.integrator": "euler-maruyama",
        "objective.kind": "dsm",
        "objective.epsilon": {},
        "sample.sampler": "em",
    }
    return problem(**{"reference.covariance_type": "tied", "process.integrator": "exponential", "sample.sampler": "exponential",
                      "reference.reg_covar": 0.05}), problem(**linear)  # fmt: skip


@pytest.mark.parametrize("which", [0, 1])
def test_a_trained_score_is_equivariant_in_the_datas_own_units(problems, which):
    problem, dataset = problems[which]
    trainer, _ = start(problem, None)
    for index in range(5):
        rows = torch.from_numpy(rollout(problem.spec, dataset.train, index))
        trainer.step(rows[:64])
    scaling = dataset.scaling
    images = dataset.scaling.invert(dataset.train[:50])
    turned = np.ascontiguousarray(images[:, ::-1])
    y, gy = (torch.from_numpy(scaling.apply(x)) for x in (images, turned))
    t = torch.linspace(0.01, 1.0, 50)
    with torch.no_grad():
        s, gs = trainer.model(y, t), trainer.model(gy, t)
    scale = float(s.abs().max())
    assert float((gs.flip(1) - s).abs().max()) < 2e-5 * scale
    # The wrapped model alone is not.
    with torch.no_grad():
        inner, turned_inner = trainer.model.score.learned(y, t), trainer.model.score.learned(gy, t)
    assert float((turned_inner.flip(1) - inner).abs().max()) > 1e-3 * float(inner.abs().max())


def test_mixture_and_scaling_are_their_own_image(problems):
    for problem, dataset in problems:
        mixture = problem.process.mixture.to(dtype=torch.float64)
        y = mixture.sample(40, torch.Generator().manual_seed(1))
        torch.testing.assert_close(mixture.log_prob(y.flip(1)), mixture.log_prob(y), rtol=0, atol=1e-9)
        assert (dataset.scaling.mean == dataset.scaling.mean[::-1]).all()


@pytest.mark.parametrize("covariance_type", ["spherical", "diag", "tied", "full"])
def test_a_symmetrised_mixture_is_the_mean_of_its_images(random_mixture, covariance_type):
    """p_G(y) = (p(y) + p(g y))/2, but for tied covariances, which are averaged themselves."""
    mixture = random_mixture(covariance_type, 3, 4)
    both = mixture.symmetrised(GROUPS["c2"])
    y = both.sample(30, torch.Generator().manual_seed(0))
    torch.testing.assert_close(both.log_prob(y.flip(1)), both.log_prob(y))
    if covariance_type != "tied":
        mean = (mixture.log_prob(y).exp() + mixture.log_prob(y.flip(1)).exp()) / 2
        torch.testing.assert_close(both.log_prob(y).exp(), mean)


def test_per_sample_gradients_see_the_symmetrised_score(problems):
    """<g, g> summed over rows by the layered way equals those of automatic differentiation, row by row."""
    problem, dataset = problems[0]
    trainer, _ = start(problem, None)
    rows = torch.from_numpy(rollout(problem.spec, dataset.train, 0))[:12]
    trainer.step(rows)
    named = problem.spec.layout.split(rows)
    moments = trainer.gradient_moments(named)
    for i in range(len(rows)):
        row = {k: v[i : i + 1] for k, v in named.items()}
        trainer.model.zero_grad()
        loss = problem.objective(trainer.model, row).base * problem.process.variance(row["t"])
        loss.sum().backward()
        square = sum(float((p.grad.double() ** 2).sum()) for p in trainer.model.parameters())
        assert float(moments.base_base[i]) == pytest.approx(square, rel=1e-3)


def test_a_run_with_symmetry_is_written_and_read(problems, tmp_path):
    problem, dataset = problems[1]
    trainer, _ = start(problem, None)
    run = Run(tmp_path / "run")
    run.begin(problem.config, describe_data(dataset, dataset.stamp), problem.process.mixture)
    run.save_weights(trainer.ema, trainer.model)
    rows = TrainedModel.of(run).all_rows(30, 0)
    assert rows.shape == (30, 64)
    assert np.isfinite(rows).all()
    # The density has the symmetry too; its exact divergence maps the model over directions.
    images = dataset.scaling.invert(dataset.validation[:1])
    np.save(tmp_path / "images.npy", np.concatenate([images, images[:, ::-1]]).astype(np.float32))
    out = tmp_path / "logp.parquet"
    assert (
        main(["score", str(run.path), str(tmp_path / "images.npy"), "--end", "0.1", "--out", str(out)]) == 0
    )
    found = np.array(pq.read_table(out)["log_prob"])
    assert found[0] == pytest.approx(found[1], abs=0.05)


def test_whitening_beside_symmetry_is_refused():
    with pytest.raises(
        InputError, match=r"data\.whiten mixes the dimensions: expected 'none' beside data.symmetry"
    ):
        build_config({"data": {"name": "digits", "whiten": "within-mode", "symmetry": "c2"}}, "test")


def test_figure_7_has_an_equivariant_row_that_runs(mnist_root, tmp_path):
    jobs = {job.name: job for job in STUDIES["fig7"].jobs(1.0, {"data.root": mnist_root})}
    assert list(jobs) == ["ou-dsm-0", "ou-dsm-symmetry-c2-0", "mixture-dsm-0", "ndsm-cv-0", "path-0"]
    plain, job, *_ = jobs.values()
    a, b = flatten(plain.config), flatten(job.config)
    assert {key: b[key] for key in a if a[key] != b[key]} == {"data.symmetry": "c2"}
    for each in jobs.values():
        # The steps of generation suit the mixture, whose components have variances of at least 0.2 on all images.
        fields = merge(each.config.model_dump(mode="json"), {"reference.reg_covar": 0.2})
        prepare(build_config(fields, each.name), Run(tmp_path / each.name))
    short = {"train.steps": 3, "train.block_mb": 0.1, "sample.steps": 4, "evaluate.n": 12, "network.width": 8}
    config = build_config(merge(job.config.model_dump(mode="json"), short), "short")
    ((row,), images) = run_job(replace(job, config=config, moments=0), tmp_path)
    assert (row["row"], row["setting"], images.shape) == ("ou-dsm", {"symmetry": "c2"}, (12, 784))
    assert row["fake_share"] == pytest.approx(sum(row["class_share"][1:3]))
