"""Log-densities and samplers as a user meets them: the estimator, `ndsm score` and `ndsm sample --sampler`."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import ndsm
from ndsm.cli import main
from ndsm.config import SamplerName
from ndsm.core.rng import numpy_stream
from ndsm.data import TableSchema, TableWriter, load
from ndsm.data.dequantising import dequantised
from ndsm.data.table_reader import open_table
from ndsm.data.table_schema import ListColumn
from ndsm.errors import InputError
from ndsm.inference.likelihood import LogDensity, log_density
from ndsm.runs import Run
from ndsm.samplers import SAMPLERS
from ndsm.workflows.score_table import RowScorer, open_rows, score_table
from ndsm.workflows.trained_model import TrainedModel
from pipelines.score import _Worker, score_on_ray


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a briefly trained run of two columns in different units, and rows of its data."""
    folder = tmp_path_factory.mktemp("score")
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(0, 1, (400, 2)), rng.normal(4, 0.5, (200, 2))]) * [1.0, 30.0] + [
        0.0,
        500.0,
    ]
    model = ndsm.NDSM(n_components=3, objective="ndsm", max_steps=60, batch_rows=64, random_state=0).fit(x)
    model.save(folder / "run")
    np.save(folder / "rows.npy", x[:5].astype(np.float32))
    pq.write_table(pa.table({"x1": x[:5, 1], "note": ["a"] * 5, "x0": x[:5, 0]}), folder / "rows.parquet")
    return folder


def test_a_trained_density_on_thin_arcs_integrates_to_one(train_arcs, tmp_path):
    """By quadrature over a box that holds all of it; within 0.02, in model units."""
    run = Run(tmp_path / "arcs")
    small = {"network.width": 32, "network.depth": 2, "data.n": 2000, "train.block_mb": 0.2}
    train_arcs(run, {"train.steps": 250, "reference.n_init": 1, **small})
    model, x = TrainedModel.of(run), torch.linspace(-3.2, 3.2, 41)
    grid, process = torch.cartesian_prod(x, x), model.problem.process
    found, _ = log_density(process, model.network, grid, 0.02, tolerance=1e-3)
    density = found.exp().reshape(41, 41)
    assert float(torch.trapezoid(torch.trapezoid(density, x), x)) == pytest.approx(1.0, abs=0.02)
    assert max(density[[0, -1]].max(), density[:, [0, -1]].max()) < 1e-3 * density.max()
    # It is not that of the mixture it was begun with.
    prior = process.prior.log_prob(grid).exp().reshape(41, 41)
    assert (density / density.max() - prior / prior.max()).abs().max() > 0.1


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
    with pytest.raises(ValueError, match="3 features, but NDSM is expecting 2"):
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


def test_noise_is_reached_from_the_command_line(folder):
    """0 is the sampler's own, 1 another law's rows; a folder of rows made with one noise is not filled with another's."""
    run, rows = str(folder / "run"), {}
    for noise in (None, "0", "0.5"):
        out = str(folder / f"noise-{noise}.npy")
        extra = [] if noise is None else ["--noise", noise]
        args = ["sample", run, "--n", "40", "--steps", "12", "--sampler", "flow", "--out", out]
        assert main([*args, *extra]) == 0
        rows[noise] = np.load(out)
    np.testing.assert_array_equal(rows[None], rows["0"])
    assert not np.isclose(rows["0.5"], rows["0"], rtol=1e-3).all(1).any()
    args = [
        "sample",
        run,
        "--n",
        "40",
        "--steps",
        "12",
        "--sampler",
        "flow",
        "--local",
        "--out",
        str(folder / "many"),
    ]
    assert main([*args, "--noise", "0.5"]) == 0
    np.testing.assert_array_equal(pq.read_table(folder / "many")["x0"], rows["0.5"][:, 0])
    assert main(args) == 2


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        (["sample", "--noise", "1.5"], "--noise: expected a number from 0 to 1, found 1.5"),
        (
            ["sample", "--noise", "0.5"],
            "sample.noise: expected one of the samplers ancestral, flow, flow2, ddim",
        ),
        (["sample", "--steps", "0"], "--steps: expected at least 2, found 0"),
        (["sample", "--sampler", "ddim"], "'ddim': expected a process whose transition law is known"),
        (
            ["sample", "--sampler", "annealed"],
            "'annealed': expected a process of noise scales (ve), found Langevin",
        ),
        (
            ["sample", "--given", "x0=1", "--label", "2"],
            "--given: expected none of --label, --guidance, --sampler and",
        ),
        (
            ["sample", "--given", "x0=1", "--guidance", "2"],
            "--given: expected none of --label, --guidance, --sampler and",
        ),
        (
            ["sample", "--given", "x0=1", "--sampler", "em"],
            "--given: expected none of --label, --guidance, --sampler and",
        ),
        (
            ["sample", "--guidance", "2"],
            "--guidance: expected a --label for rows to lean towards, found none",
        ),
        (["score", "rows.npy", "--end", "0"], "expected an end time between 0 and T"),
        (["score", "rows.npy", "--probes", "-1"], "--probes: expected 0 or more, found -1"),
        (["score", "rows.npy", "--bound", "1"], "--bound: expected at least 2 draws, found 1"),
        (["score", "rows.npy", "--bound", "8"], "expected a process whose transition law is known"),
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


def test_dequantising_noise_is_uniform_and_spreads_equal_rows(mean_within):
    """A table of equal rows, whose noise has mean ½ and is independent from row to row; its first rows do not depend on
    how many follow."""
    rows = np.full((6000, 2), 3.0, dtype=np.float32)
    noise = dequantised(rows, 0.5, numpy_stream(1, "noise")) - rows
    assert noise.min() >= 0
    assert noise.max() <= 0.5
    mean_within(noise, 0.25)
    mean_within((noise[1:] - 0.25) * (noise[:-1] - 0.25), 0.0)
    mean_within(noise.prod(1), 0.25**2)
    few = dequantised(rows[:9], 0.5, numpy_stream(1, "noise"))
    np.testing.assert_array_equal(few - rows[:9], noise[:9])


@pytest.fixture(scope="module", name="whole_numbers")
def _whole_numbers(tmp_path_factory):
    """A run on a table of whole numbers, most of whose rows are equal, with noise of one level added; and the table."""
    folder = tmp_path_factory.mktemp("whole")
    counts = np.stack([np.arange(60) % 3 // 2, np.arange(60) % 2], 1)
    pq.write_table(pa.table({"a": counts[:, 0], "b": counts[:, 1]}), folder / "counts.parquet")
    options = ["--name", "run", "--out", str(folder), "--local", "--quiet", "--train.steps", "5"]
    small = [
        "--train.block-mb",
        "0.05",
        "--evaluate.n",
        "20",
        "--sample.steps",
        "60",
        "--reference.n-components",
        "2",
    ]
    data = ["--data.path", str(folder / "counts.parquet"), "--data.dequantize", "1"]
    assert main(["train", "table-langevin", *data, *options, *small]) == 0
    return folder


@pytest.fixture(name="scored")
def _scored(monkeypatch):
    """The rows whose log-density is asked for, which is then 0 at once."""
    seen = []

    def zero(process, score, rows, *_, **__):
        seen.append(rows)
        return LogDensity(np.zeros(len(rows)), np.zeros(len(rows)))

    monkeypatch.setattr("ndsm.workflows.trained_model.log_density_of_rows", zero)
    return seen


def test_training_rows_are_not_scored_at_the_points_that_were_trained_on(whole_numbers, scored):
    run = Run.open(whole_numbers / "run")
    data = load(run.config().data, run.config().train.seed, run.scaling())
    trained = run.scaling().invert(np.concatenate([data.train, data.validation]))
    assert len(np.unique(trained.round(4), axis=0)) == 60
    scorer, table = RowScorer(run), open_rows(run, whole_numbers / "counts.parquet")
    score_table(scorer, table, whole_numbers / "a.parquet")
    score_table(scorer, table, whole_numbers / "b.parquet")
    (first, again), counts = scored, np.concatenate(list(table.batches()))
    np.testing.assert_array_equal(first, again)
    assert len(np.unique(first, axis=0)) == 60
    np.testing.assert_array_equal(np.floor(first), counts)
    # No point that is scored is one that was trained on.
    assert np.abs(first[:, None] - trained).max(2).min() > 1e-4


def test_bits_of_whole_numbers_come_with_a_warning(whole_numbers, folder, scored, capsys):
    """Where their density is not that of rows with noise added, and nowhere else."""
    np.save(folder / "whole.npy", np.array([[0.0, 500.0], [1.0, 530.5]], dtype=np.float32))
    cases = {
        ("run", "rows.npy"): False,
        ("run", "whole.npy"): True,
    }
    for (run, rows), warned in cases.items():
        out = str(folder / "warned.parquet")
        assert main(["score", str(folder / run), str(folder / rows), "--out", out]) == 0
        said = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
        assert len(said) == warned
        assert all("bits_per_dim is of a continuous density at whole numbers" in line for line in said)
    args = ["score", str(whole_numbers / "run"), str(whole_numbers / "counts.parquet")]
    assert main([*args, "--out", str(folder / "counted.parquet")]) == 0
    assert "warning" not in capsys.readouterr().err


def test_a_list_columns_csv_one_row_and_capital_letters_are_scored(folder, tmp_path, scored):
    shutil.copytree(folder / "run", tmp_path / "run")
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    lists = TableSchema(list_column=ListColumn("x", 2, "float", "list"))
    (tmp_path / "run" / "data.json").write_text(json.dumps({**data, "schema": lists.to_json()}))
    with TableWriter(tmp_path / "sampled.csv", lists) as out:
        out.write(np.array([[1.5, 500.0]]))
    np.save(tmp_path / "rows.npy", np.array([[1.5, 500.0]]))
    (tmp_path / "rows.npy").rename(tmp_path / "ROWS.NPY")
    for rows in ("sampled.csv", "ROWS.NPY"):
        out = str(tmp_path / "out.parquet")
        assert main(["score", str(tmp_path / "run"), str(tmp_path / rows), "--out", out]) == 0
        np.testing.assert_array_equal(scored.pop(), [[1.5, 500.0]])


def test_a_row_that_cannot_be_scored_is_named_before_workers_are_started(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("pipelines.score.cluster", lambda: pytest.fail("started"))
    table = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"x0": [1.5] * 3, "x1": [500.5, None, 501.5]}), table)
    command = ["score", str(folder / "run"), str(table), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main(command) == 2
    said = "rows.parquet: column 'x1', row 2 (the first is row 1): expected a number that is finite"
    assert said in capsys.readouterr().err
    with pytest.raises(InputError, match="row 2"):
        score_on_ray(Run(folder / "run"), table, tmp_path / "out", 1, {})


def test_what_is_drawn_of_whole_numbers_is_the_numbers_without_the_noise(
    whole_numbers, tmp_path, monkeypatch
):
    run = Run.open(whole_numbers / "run")
    rows = load(run.config().data, run.config().train.seed, run.scaling()).train
    counts = np.floor(run.scaling().invert(rows))
    monkeypatch.setattr(TrainedModel, "rows", lambda *args, **settings: iter([rows]))
    for out in ("s.parquet", "folder"):
        assert main(["sample", str(run.path), "--n", "54", "--out", str(tmp_path / out), "--local"]) == 0
        found = pq.read_table(tmp_path / out)
        np.testing.assert_array_equal(np.stack([found["a"], found["b"]], 1), counts)
    np.testing.assert_array_equal(ndsm.load(run.path).sample(54), counts)
    seen = []

    def half_way(process, model, rows, draws, *settings):
        seen.append(run.scaling().invert(rows))
        # Both drawn numbers are 0.75 after the noise.
        return run.scaling().apply(np.full((draws * len(rows), 2), 0.75, dtype=np.float32))[None]

    monkeypatch.setattr("ndsm.workflows.trained_model.impute", half_way)
    pq.write_table(pa.table({"a": pa.array([1, None]), "b": pa.array([None, 0])}), tmp_path / "in.parquet")
    assert (
        main(["impute", str(run.path), str(tmp_path / "in.parquet"), "--out", str(tmp_path / "out.npy")]) == 0
    )
    np.testing.assert_allclose(seen[0], [[1.5, np.nan], [np.nan, 0.5]])
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), [[0, 1, 0], [0, 0, 0]])


def test_workers_count_times_in_the_units_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "pipelines.score.RowScorer", lambda run: lambda rows: np.column_stack([rows, rows[:, 0]])
    )
    model = TableSchema((("at", "timestamp[ms]"), ("flag", "bool")))
    sent = SimpleNamespace(here=lambda: "run")
    at, flag = pa.array([5_000, 86_400_000], pa.timestamp("ms")), pa.array([True, False])
    for unit in ("s", "ms", "us"):
        found = pa.table({"at": at.cast(pa.timestamp(unit)), "flag": flag})
        pq.write_table(found, tmp_path / "t.parquet")
        units = list(open_table(tmp_path / "t.parquet").counted_as(model).units)
        rows = _Worker(sent, ["at", "flag"], units, {})(found)
        assert rows["log_prob"].to_pylist() == [5_000, 86_400_000]
        assert rows["bits_per_dim"].to_pylist() == [1, 0]
