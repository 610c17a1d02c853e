"""Log-densities and samplers as a user meets them: the estimator, `ndsm score` and `ndsm sample --sampler`."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ndsm
from ndsm.cli import main
from ndsm.config import SamplerName
from ndsm.data.dataset import dequantised
from ndsm.samplers import SAMPLERS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a briefly trained run of two columns in different units, and rows of its data."""
    folder = tmp_path_factory.mktemp("score")
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, (400, 2)), rng.normal(4, 0.5, (200, 2))]) * [1.0, 30.0] + [
        0.0,
        500.0,
    ]
    model = ndsm.NDSM(n_components=3, max_steps=60, batch_rows=64, random_state=0).fit(x)
    model.save(folder / "run")
    np.save(folder / "rows.npy", x[:5].astype(np.float32))
    pq.write_table(pa.table({"x1": x[:5, 1], "note": ["a"] * 5, "x0": x[:5, 0]}), folder / "rows.parquet")
    return folder


def test_a_trained_density_integrates_to_one(folder):
    """By quadrature over a box that holds all of it; within 0.02, in the units of the data."""
    model = ndsm.load(folder / "run")
    x0, x1 = np.linspace(-7, 9, 41), np.linspace(250, 800, 41)
    grid = np.stack(np.meshgrid(x0, x1, indexing="ij"), -1).reshape(-1, 2)
    density = np.exp(model.score_samples(grid)).reshape(41, 41)
    assert np.trapezoid(np.trapezoid(density, x1), x0) == pytest.approx(1.0, abs=0.02)
    assert density[[0, -1]].max() < 1e-4 * density.max()


def test_the_command_writes_what_the_estimator_says(folder, capsys):
    expected = ndsm.load(folder / "run").score_samples(np.load(folder / "rows.npy"))
    for name in ("rows.npy", "rows.parquet"):
        out = folder / f"{name}.logp.parquet"
        assert main(["score", str(folder / "run"), str(folder / name), "--out", str(out)]) == 0
        table = pq.read_table(out)
        assert table.column_names == ["log_prob", "bits_per_dim", "standard_error"]
        np.testing.assert_allclose(table["log_prob"], expected, atol=1e-3)
        np.testing.assert_allclose(table["bits_per_dim"], -np.array(table["log_prob"]) / 2 / np.log(2))
        assert set(np.array(table["standard_error"])) == {0.0}
    said = capsys.readouterr().out.split("mean log-density ")[1].split()[0]
    assert float(said) == pytest.approx(expected.mean(), abs=1e-3)


def test_score_is_the_mean_of_the_rows(folder):
    model, rows = ndsm.load(folder / "run"), np.load(folder / "rows.npy")
    assert model.score(rows) == pytest.approx(model.score_samples(rows).mean())
    with pytest.raises(ValueError, match="expected 2 columns, found 3"):
        model.score_samples(np.zeros((4, 3)))


def test_random_directions_agree_with_the_exact_divergence_within_their_error(folder):
    run, out = str(folder / "run"), str(folder / "probes.parquet")
    assert main(["score", run, str(folder / "rows.npy"), "--out", out, "--probes", "32"]) == 0
    table, exact = pq.read_table(out), ndsm.load(folder / "run").score_samples(np.load(folder / "rows.npy"))
    error = np.array(table["standard_error"])
    assert (error > 0).all()
    # Student's t of 31 degrees of freedom: 5 rows beyond 4.5 by chance in 2,000 runs.
    assert (np.abs(np.array(table["log_prob"]) - exact) < 4.5 * error + 1e-3).all()


@pytest.mark.parametrize(
    "sampler", ["flow", "flow2", "pc", "ode", "ode-adaptive", "ancestral", "exponential"]
)
def test_every_sampler_of_the_process_writes_rows(folder, sampler):
    out = folder / f"{sampler}.npy"
    args = [
        "sample",
        str(folder / "run"),
        "--n",
        "50",
        "--steps",
        "300",
        "--sampler",
        sampler,
        "--out",
        str(out),
    ]
    assert main(args) == 0
    rows = np.load(out)
    assert rows.shape == (50, 2)
    assert np.isfinite(rows).all()


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["sample", "--steps", "0"], "--steps: expected at least 2, found 0"),
        (["sample", "--sampler", "ddim"], "'ddim': expected a process whose transition law is known"),
        (
            ["sample", "--sampler", "annealed"],
            "'annealed': expected a process of noise scales (ve), found Langevin",
        ),
        (["sample", "--given", "x0=1", "--label", "2"], "--given: expected none of --label, --guidance and"),
        (
            ["sample", "--given", "x0=1", "--guidance", "2"],
            "--given: expected none of --label, --guidance and",
        ),
        (
            ["sample", "--given", "x0=1", "--sampler", "em"],
            "--given: expected none of --label, --guidance and",
        ),
        (
            ["sample", "--guidance", "2"],
            "--guidance: expected a --label for rows to lean towards, found none",
        ),
        (["score", "rows.npy", "--end", "0"], "expected an end time between 0 and T"),
        (["score", "rows.npy", "--probes", "-1"], "--probes: expected 0 or more, found -1"),
        (["score", "rows.npy", "--bound", "1"], "--bound: expected at least 2 draws, found 1"),
        (["score", "rows.npy", "--bound", "8"], "expected a linear process, whose transition law is known"),
        (["score", "absent.npy"], "absent.npy does not exist"),
        (["score", "wide.npy"], "expected rows of dimension 2 as the data of run, found 3"),
    ],
)
def test_bad_input_is_one_sentence_and_nothing_is_written(folder, monkeypatch, capsys, args, sentence):
    monkeypatch.chdir(folder)
    np.save("wide.npy", np.zeros((4, 3), dtype=np.float32))
    command, *rest = args
    assert main([command, "run", *rest, "--out", "refused.parquet"]) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (folder / "refused.parquet").exists()


def test_all_names_of_the_configuration_are_samplers():
    assert set(SAMPLERS) == set(SamplerName.__args__)


def test_dequantising_noise_is_uniform_and_a_rows_own(mean_within):
    rows = np.arange(4000, dtype=np.float32).reshape(2000, 2)
    noisy = dequantised(rows, 0.5, seed=1)
    noise = noisy - rows
    assert noise.min() >= 0
    assert noise.max() <= 0.5
    mean_within(noise, 0.25)
    np.testing.assert_array_equal(dequantised(rows[7:9], 0.5, seed=1), noisy[7:9])
    assert (dequantised(rows[7:9], 0.5, seed=2) != noisy[7:9]).all()
