"""Component-wise noising in use: files, commands and the Python interface."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import ndsm
from ndsm.cli import main
from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.mixture.selection import KINDS, select
from ndsm.objectives import DSM

TINY = [
    "--train.steps=30", "--train.batch-rows=64", "--train.block-mb=0.1", "--network.width=16", "--network.depth=1",
    "--sample.steps=10", "--evaluate.n=200", "--reference.n-components=3", "--reference.covariance-type=full",
]  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    """Three kinds of rows, far apart, in shares 1/8, 1/8 and 3/4; (800, 3)."""
    rng = np.random.default_rng(0)
    parts = [rng.normal(m, 0.4, (n, 3)) for m, n in ((-6, 100), (0, 100), (6, 600))]
    return rng.permutation(np.concatenate(parts))


@pytest.fixture(scope="module")
def run(rows, tmp_path_factory):
    """A run of the preset `table`."""
    folder = tmp_path_factory.mktemp("table")
    path = folder / "rows.csv"
    np.savetxt(path, rows, delimiter=",", header="a,b,c", comments="")
    assert (
        main(
            ["train", "table", "--local", "--out", str(folder), "--name", "run", f"--data.path={path}", *TINY]
        )
        == 0
    )
    return folder / "run"


def written(path):
    return np.stack([np.asarray(column) for column in pq.read_table(path).columns], 1)


def test_rows_have_the_shares_that_are_asked_for(run, tmp_path):
    weights = [0.0, 0.0, 0.0]
    means = ndsm.load(run).mixture_.means.numpy()[:, 0]
    weights[int(means.argmin())] = 2.0
    out = tmp_path / "rows.parquet"
    text = ",".join(map(str, weights))
    assert main(["sample", str(run), "--n", "60", "--mode-weights", text, "--out", str(out)]) == 0
    assert (written(out)[:, 0] < -3).all()
    again = ndsm.load(run).sample(60, random_state=0, mode_weights=weights)
    np.testing.assert_array_equal(again, written(out))


@pytest.mark.parametrize("weights", ["0.5,0.5", "1,-1,1", "0,0,0", "1,2,x", "1,inf,1"])
def test_weights_that_are_none_are_one_sentence(run, tmp_path, capsys, weights):
    out = tmp_path / "rows.parquet"
    assert main(["sample", str(run), "--n", "5", "--mode-weights", weights, "--out", str(out)]) == 2
    assert "expected" in capsys.readouterr().err
    assert not out.exists()


def test_the_first_rows_do_not_depend_on_how_many_are_asked_for(run):
    model = ndsm.load(run)
    few, many = model.sample(50, random_state=3), model.sample(5000, random_state=3)
    # Products of other numbers of rows round otherwise.
    np.testing.assert_allclose(many[:50], few, atol=1e-4)


def test_known_numbers_choose_the_component(run, rows):
    """The kinds are far apart: what is missing lies where the row's own kind is."""
    holes = rows[:40].copy()
    holes[:, 1] = np.nan
    drawn = ndsm.load(run).impute(holes, 3, random_state=0)
    assert drawn.shape == (3, 40, 3)
    np.testing.assert_array_equal(drawn[:, :, [0, 2]], np.broadcast_to(rows[:40][:, [0, 2]], (3, 40, 2)))
    assert np.abs(drawn[:, :, 1] - rows[:40, 1]).max() < 4


def test_what_a_known_kernel_of_rows_is_needed_for_is_refused_in_one_sentence(run, rows):
    model = ndsm.load(run)
    with pytest.raises(
        InputError,
        match=r"denoising: expected a process whose states are the rows themselves \(.*\), found MixtureOU",
    ):
        model.denoise(rows[:3], 0.1)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective.kind": "path"}, "expected objective.kind 'dsm', found 'path'"),
        ({"process.kind": "langevin", "objective.kind": "ndsm"}, "network.output_scale 'velocity' needs a linear process"),
        ({"data.name": "digits", "data.path": None, "data.symmetry": "c2"}, "data.symmetry 'c2'"),
        ({"process.kind": "vp", "objective.kind": "ndsm", "objective.mirrored": True}, "objective.mirrored goes with"),
    ],
)  # fmt: skip
def test_fields_that_do_not_agree_are_one_sentence(fields, message):
    with pytest.raises(InputError, match=message):
        ndsm.load_config("table", {"data.path": "x.csv", **fields})


def test_mirrored_noise_is_the_mean_of_the_losses_of_both_signs():
    generator = torch.Generator().manual_seed(0)
    rows = {"mean": torch.randn(9, 2, generator=generator), "noise": torch.randn(9, 2, generator=generator)}
    rows |= {"t": torch.rand(9, generator=generator) + 0.1, "std": torch.rand(9, generator=generator) + 0.1}

    def score(y, t):
        return torch.sin(y) * t[:, None]

    one, other = (DSM()(score, rows | {"noise": sign * rows["noise"]}).base for sign in (1, -1))
    torch.testing.assert_close(DSM(mirrored=True)(score, rows).base, (one + other) / 2)


def test_the_size_and_shape_of_the_mixture_follow_from_the_rows():
    """Rows of three narrow round components, and rows of one long one that lies across the axes."""
    rng = np.random.default_rng(1)

    def fit(x, count, kind):
        return GaussianMixture.fit(x, count, covariance_type=kind, seed=0)

    modes = np.concatenate([rng.normal(m, 0.3, (300, 2)) for m in (-4, 0, 4)])
    assert select(modes, (1, 2, 3, 5, 8), KINDS, fit, 0)[0] == 3
    long = rng.normal(size=(900, 1)) + 0.05 * rng.normal(size=(900, 2))
    count, kind = select(long, (1, 2, 3), ("spherical", "diag", "full"), fit, 0)
    assert (count, kind) == (1, "full")
