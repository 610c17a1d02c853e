"""One velocity field for rows noised by components: files, commands and the Python interface."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import ndsm
from ndsm.cli import main
from ndsm.core.rng import torch_stream
from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.processes import MarginalMixtureOU
from ndsm.samplers import CHUNK, generate
from ndsm.samplers.base import draw_prior
from ndsm.training import make_problem

TINY = [
    "--process.form=marginal", "--train.steps=30", "--train.batch-rows=64", "--train.block-mb=0.1", "--network.width=16",
    "--network.depth=1", "--sample.steps=10", "--evaluate.n=200", "--reference.n-components=3", "--data.labels=kind",
    "--network.classes=auto",
]  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of the preset `table` on rows of three kinds, far apart, in shares 1/8, 1/8 and 3/4."""
    folder, rng = tmp_path_factory.mktemp("marginal"), np.random.default_rng(0)
    parts = [np.c_[rng.normal(6 * m, 0.4, (n, 2)), np.full(n, m)] for m, n in ((-1, 100), (0, 100), (1, 600))]
    path = folder / "rows.csv"
    rows = rng.permutation(np.concatenate(parts))
    np.savetxt(path, rows, delimiter=",", header="a,b,kind", comments="", fmt=["%.9g", "%.9g", "%d"])
    command = [
        "train",
        "table",
        "--local",
        "--out",
        str(folder),
        "--name",
        "run",
        f"--data.path={path}",
        *TINY,
    ]
    assert main(command) == 0
    return folder / "run"


@pytest.mark.parametrize("sampler", ["ode", "ode-adaptive", "ddim", "dpmpp-2m"])
def test_rows_of_a_label_are_where_its_training_rows_are(run, tmp_path, sampler):
    out = tmp_path / "rows.parquet"
    assert main(["sample", str(run), "--n", "40", "--label=-1", "--sampler", sampler, "--out", str(out)]) == 0
    assert (np.asarray(pq.read_table(out)["a"]) < -3).all()


@pytest.mark.parametrize(
    "sampler", ["em", "exponential", "reverse-diffusion", "ancestral", "pc", "annealed", "flow", "flow2"]
)
def test_samplers_that_need_a_score_or_another_process_are_refused(run, tmp_path, capsys, sampler):
    out = tmp_path / "rows.parquet"
    assert main(["sample", str(run), "--n", "5", "--sampler", sampler, "--out", str(out)]) == 2
    assert f"sample.sampler '{sampler}'" in capsys.readouterr().err
    assert not out.exists()


def test_noise_in_a_step_needs_the_score(run, tmp_path, capsys):
    out = tmp_path / "rows.parquet"
    command = ["sample", str(run), "--n", "5", "--sampler", "ddim", "--noise", "0.5", "--out", str(out)]
    assert main(command) == 2
    assert "expected a process whose score is learned" in capsys.readouterr().err


def test_shares_of_modes_and_what_needs_the_score_are_refused_in_one_sentence(run):
    model, rows = ndsm.load(run), np.array([[6.0, np.nan]])
    with pytest.raises(InputError, match="mode weights: expected a process with components"):
        model.sample(5, mode_weights=[1, 0, 0])
    with pytest.raises(InputError, match="imputation: expected a process whose score is learned"):
        model.impute(rows, 2)
    with pytest.raises(InputError, match="denoising: expected a process whose score is learned"):
        model.denoise(np.ones((1, 2)), 0.1)
    with pytest.raises(InputError, match="reconstruction: expected a process whose score is learned"):
        model.reconstruct(np.eye(2)[:1], np.ones((1, 1)))


def test_the_form_goes_with_component_noising_alone():
    with pytest.raises(
        InputError, match=r"process\.form 'marginal' goes with process\.kind 'mixture-ou', not 'vp'"
    ):
        ndsm.load_config("table", {"data.path": "x.csv", "process.kind": "vp", "process.form": "marginal"})


@pytest.mark.parametrize("kind", ["spherical", "tied", "diag", "full"])
def test_a_network_of_zero_generates_the_mixture(kind):
    """Before training the network returns 0, and rows stay what was drawn from the mixture."""
    x = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    mixture = GaussianMixture.fit(x, 2, covariance_type=kind, seed=0)
    config = ndsm.load_config("table", {"data.path": "x.csv", "process.form": "marginal", "network.width": 8})
    problem = make_problem(config, MarginalMixtureOU(mixture), 3)
    model = problem.model(torch.device("cpu"))
    (rows,) = generate(problem.process, model, problem.reverse_times, 20, 0, sampler="dpmpp-2m")
    torch.testing.assert_close(rows, draw_prior(problem.process, CHUNK, torch_stream(0, "sample", 0))[:20])


def test_coordinates_are_a_components_where_it_is_alone():
    """Far from the others u = L⁻¹ (y - μ) and L u is a velocity of rows, whichever way the sums over components are taken."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(2, 70, 70, generator=generator).tril() / 70 + torch.eye(70)
    means = torch.zeros(2, 70)
    means[1, 0] = 500.0
    full = GaussianMixture(torch.ones(2) / 2, means, root @ root.mT, "full")
    for d in (3, 70):
        mixture = GaussianMixture(torch.ones(2) / 2, means[:, :d], full.covariances[:, :d, :d], "full")
        process, k = MarginalMixtureOU(mixture), torch.tensor([0, 1, 1])
        u = torch.randn(3, d, generator=generator)
        found, shares = process.coordinates(process._components.leave(u, k))
        torch.testing.assert_close(found, u, atol=2e-3, rtol=0)
        torch.testing.assert_close(process.spread(u, shares), process._components.spread(u, k))
