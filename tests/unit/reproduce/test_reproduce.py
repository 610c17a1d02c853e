"""The paper's experiments: their protocol, their bookkeeping, and one short run."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ndsm.cli.console import print_study
from ndsm.config import build_config, flatten, merge
from ndsm.errors import InputError
from ndsm.reproduce import STUDIES, Folder, run_here, run_job, summarise
from ndsm.reproduce.ablation import ABLATIONS
from ndsm.reproduce.images import METHODS
from ndsm.reproduce.toys import RUNS, TOY_STUDIES


def row(name, seed, mode_std, **setting):
    metrics = {"mode_std": mode_std, "swd2": 0.1, "off_support": 0.0, "train_seconds": 1.0}
    return {"row": name, "seed": seed, "setting": setting, **metrics}


@pytest.mark.parametrize("name", TOY_STUDIES)
def test_every_run_follows_the_papers_protocol(name):
    jobs = STUDIES[name].jobs(1.0)
    assert len(jobs) == RUNS * len(STUDIES[name].rows) == len({job.name for job in jobs})
    assert {job.seed for job in jobs} == {job.config.train.seed for job in jobs} == set(range(RUNS))
    for job in jobs:
        c = job.config
        assert (c.data.n, c.data.validation_fraction) == (10_000, 0.0)
        assert (c.network.kind, c.network.depth, c.network.width, c.network.residual) == ("mlp", 7, 32, False)
        assert (c.train.steps, c.train.batch_rows, c.train.lr) == (50_000, 250, 1e-3)
        assert (c.sample.steps, c.evaluate.n) == (1000, 10_000)
        if job.row != "ou-dsm":
            assert (c.train.times_per_path, c.process.grid.steps) == (5, 50)
            assert c.process.horizon / c.process.grid.steps == pytest.approx(0.00998)
            assert c.process.last_dt == job.setting.get("last_dt", 1e-3)


@pytest.mark.parametrize(
    ("name", "n", "steps", "batch"),
    [("table1", None, 93_750, 64), ("table2", 14_000, 21_875, 64), ("table3", None, 24_000, 250)],
)
def test_tables_follow_the_papers_protocol(name, n, steps, batch):
    study = STUDIES[name]
    jobs = study.jobs(1.0, {"data.root": Path("here")})
    assert {job.row for job in jobs} == METHODS.keys()
    assert len(jobs) == study.runs * len(METHODS)
    for job in jobs:
        c = job.config
        assert (c.data.n, c.data.root, c.train.batch_rows) == (n, Path("here"), batch)
        # The latent linear row goes on, to be compared at equal time.
        assert c.train.steps == steps * (1.5 if (name, job.row) == ("table3", "ou-dsm") else 1)
        if job.row == "ou-dsm":
            assert (c.process.kind, c.process.beta_min, c.process.beta_max, c.process.horizon) == (
                "vp",
                0.1,
                20,
                1,
            )
        else:
            assert (c.process.kind, c.process.horizon) == ("langevin", 2.0)
            assert (c.reference.n_components, c.reference.covariance_type) == (10, "spherical")
        if name == "table3":
            assert (c.network.kind, c.network.depth, c.network.width) == ("mlp", 7, 32)
            assert (c.reference.fit_samples, c.sample.steps) == (1000, 1000)
        else:
            assert (c.network.kind, c.network.depth, c.network.width) == ("unet", 4, 32)


def test_a_table_is_run_to_its_figure_and_taken_up_again(mnist_root, tmp_path):
    study = replace(STUDIES["table3"], runs=1, rows=(("ou-dsm", {}), ("ndsm-eps0", {})), moments=2)
    tiny = {"data.root": mnist_root, "sample.steps": 60, "train.block_mb": 0.1, "reference.n_components": 2}
    # A record as often as there can be one: a training this short may take less than the usual half second.
    tiny["train.report_seconds"] = 1e-9
    folder = Folder(tmp_path, "table3", study, 0.001, tiny)
    run_here(folder.missing(), tmp_path / "runs", folder.add)
    assert not Folder(tmp_path, "table3", study, 0.001, tiny).missing()
    folder.finish()
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert [row["row"] for row in results["rows"]] == ["prior", "ou-dsm", "ndsm-eps0"]
    prior, *trained = results["rows"]
    for row in trained:
        assert row["curve"][-1]["step"] == row["steps"] == 100
        assert 0 < row["curve"][0]["cpu_seconds"] < row["cpu_seconds"] == row["curve"][-1]["cpu_seconds"]
        assert row["equal_time"]["cpu_seconds"] == min(r["cpu_seconds"] for r in trained)
        assert row["fid"] > 0
    assert prior["fid"] > 0
    assert results["floor"].keys() == {"fid", "is", "nearest", "fid_images"}
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    # Evaluations that were made before a run was killed are not made again, nor does it mind half a line.
    curve = tmp_path / "runs" / "ou-dsm-0" / "curve.jsonl"
    lines = curve.read_text(encoding="utf-8")
    curve.write_text(lines + '{"step": 1', encoding="utf-8")
    again, _ = run_job(folder.jobs[0], tmp_path / "runs")
    assert again[0]["curve"] == trained[0]["curve"]
    lost = lines.splitlines(keepends=True)
    curve.write_text(lost[0] + lost[1][:20], encoding="utf-8")
    again, _ = run_job(folder.jobs[0], tmp_path / "runs")
    assert [line["step"] for line in again[0]["curve"]] == [line["step"] for line in trained[0]["curve"]]
    assert len(curve.read_text(encoding="utf-8").splitlines()) == 2


def test_the_rows_of_figure_2_differ_in_their_objective_alone():
    jobs = {job.row: job for job in STUDIES["fig2"].jobs(1.0) if job.seed == 0}
    base = flatten(jobs["ndsm-eps0"].config)
    for name in ("ndsm-eps1", "ndsm-cv"):
        other = flatten(jobs[name].config)
        assert all(key.startswith("objective.") for key in base if base[key] != other[key])


def test_scale_shortens_training_and_generation():
    (first, *_) = STUDIES["fig2"].jobs(0.01)
    assert (first.config.train.steps, first.config.evaluate.n) == (500, 100)


def test_the_median_run_is_the_one_shown():
    rows = [row("a", seed, value) for seed, value in enumerate([5.0, 1.0, 4.0, 2.0, 3.0])]
    rows.append(row("a", 0, 9.0, last_dt=1e-3))
    first, second = summarise(rows, ("mode_std", "swd2"))
    assert (first.seed, first.median["mode_std"], first.spread, first.runs) == (4, 3.0, (1.0, 5.0), 5)
    assert (second.label, second.runs) == ("a last_dt 0.001", 1)


def test_runs_without_a_finite_row_are_summed_up_too(tmp_path, capsys):
    """Their metrics are None; the medians are the others', or NaN if there are none."""
    study = STUDIES["fig2"]
    folder = Folder(tmp_path, "fig2", study, 0.01, methods=("ou-dsm", "ndsm-eps0"))
    for job in folder.missing():
        lost = job.row == "ou-dsm" or job.seed > 2
        curve = [{"cpu_seconds": 1.0, "swd2": 0.2}, {"cpu_seconds": 2.0, "swd2": 0.1}]
        made = {**row(job.row, job.seed, None if lost else job.seed), "cpu_seconds": 2.0, "curve": curve}
        folder.add(job, ([made], np.full((50, 2), np.nan if lost else 0.0, dtype=np.float32)))
    folder.finish()
    assert (tmp_path / "figure.png").is_file()
    results = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert results["rows"][0]["equal_time"] == {"cpu_seconds": 2.0, "swd2": 0.1}
    first, second = folder.groups()
    assert np.isnan([first.median["mode_std"], *first.spread]).all()
    assert (second.seed, second.median["mode_std"], second.spread, second.runs) == (1, 1.0, (0.0, 2.0), 5)
    print_study(study.title, study.shown, folder.groups(), {})
    assert "nan" in capsys.readouterr().out


def test_a_run_gives_its_row_the_mixtures_and_its_points(tmp_path):
    (job,) = [j for j in STUDIES["fig2"].jobs(0.01) if (j.row, j.seed) == ("ndsm-eps0", 1)]
    short = merge(
        job.config.model_dump(mode="json"), {"sample.steps": 40, "train.steps": 20, "train.block_mb": 0.1}
    )
    job = replace(job, config=build_config(short, "short"))
    (own, prior), samples = run_job(job, tmp_path)
    assert (own["row"], own["seed"], own["steps"], own["n"]) == ("ndsm-eps0", 1, 20, 100)
    assert (prior["row"], prior["seed"], prior["steps"]) == ("prior", 1, 0)
    assert {
        "mode_std",
        "class_share_std",
        "swd2",
        "off_support",
        "train_seconds",
    } <= own.keys() & prior.keys()
    assert samples.shape == (100, 2)
    # In the data's units: the mixture's points lie on the circle of radius 4.
    assert prior["off_support"] < 0.05
    # Again: the weights are there, nothing is trained.
    again, same = run_job(job, tmp_path)
    assert (again, same.tobytes()) == ([own, prior], samples.tobytes())


def test_results_are_taken_up_again_and_only_the_rest_is_missing(tmp_path):
    folder = Folder(tmp_path / "fig2", "fig2", STUDIES["fig2"], 0.5)
    jobs = folder.missing()
    assert len(jobs) == 20
    for job in (jobs[3], jobs[0]):
        folder.add(job, ([{**row(job.row, job.seed, 1.0)}], np.zeros((3, 2), np.float32)))
    again = Folder(tmp_path / "fig2", "fig2", STUDIES["fig2"], 0.5)
    assert {j.name for j in jobs} - {j.name for j in again.missing()} == {jobs[0].name, jobs[3].name}
    assert [r["row"] for r in again.results["rows"]] == ["ou-dsm", "ndsm-cv"]
    assert np.load(tmp_path / "fig2" / "samples" / f"{jobs[0].name}.npy", allow_pickle=False).shape == (3, 2)


def test_some_rows_are_run_and_the_results_of_others_stay(tmp_path):
    points = np.zeros((3, 2), np.float32)
    linear = Folder(tmp_path, "fig2", STUDIES["fig2"], 0.5, methods=["ou-dsm"])
    assert {job.row for job in linear.jobs} == {"ou-dsm"}
    for job in linear.missing():
        linear.add(job, ([row(job.row, job.seed, 1.0)], points))
    nonlinear = Folder(tmp_path, "fig2", STUDIES["fig2"], 0.5, methods=["ndsm-cv", "ou-dsm"])
    missing = nonlinear.missing()
    assert {job.row for job in missing} == {"ndsm-cv"}
    for job in missing[1:]:
        nonlinear.add(job, ([row(job.row, job.seed, 2.0)], points))
    nonlinear.finish()
    assert [(group.row, group.runs) for group in nonlinear.groups()] == [("ou-dsm", 5), ("ndsm-cv", 4)]
    assert (tmp_path / "figure.png").is_file()
    with pytest.raises(InputError, match=r"expected rows of fig2: ou-dsm, .*; found 'vp'"):
        Folder(tmp_path, "fig2", STUDIES["fig2"], 0.5, methods=["vp"])


def test_results_of_another_scale_are_refused(tmp_path):
    (tmp_path / "results.json").write_text(
        json.dumps({"name": "fig2", "scale": 1.0, "rows": [], "floor": {}}), encoding="utf-8"
    )
    with pytest.raises(InputError, match=r"holds results at --scale 1, expected 0\.1"):
        Folder(tmp_path, "fig2", STUDIES["fig2"], 0.1)


@pytest.mark.parametrize("content", ["not json", "[1, 2]", "{}"])
def test_something_else_in_the_place_of_results_is_refused(tmp_path, content):
    (tmp_path / "results.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="expected the results of `ndsm reproduce`, found another file"):
        Folder(tmp_path, "fig2", STUDIES["fig2"], 1.0)


def test_starting_over_removes_results_and_nothing_else(tmp_path):
    place = tmp_path / "fig2"
    place.mkdir()
    (place / "results.json").write_text(
        json.dumps({"name": "fig2", "scale": 1.0, "rows": [], "floor": {}}), encoding="utf-8"
    )
    (place / "thesis.tex").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=r"expected a new folder or one of `ndsm reproduce`.*thesis\.tex"):
        Folder(place, "fig2", STUDIES["fig2"], 0.1, fresh=True)
    assert (place / "results.json").is_file()
    (place / "thesis.tex").unlink()
    # What a killed process was writing is no one else's.
    (place / ".results.json.12345.partial").write_text("half", encoding="utf-8")
    assert Folder(place, "fig2", STUDIES["fig2"], 1.0).missing()
    assert Folder(place, "fig2", STUDIES["fig2"], 0.1, fresh=True).results["rows"] == []
    assert [p.name for p in place.iterdir()] == ["owner.json"]


@pytest.mark.parametrize(
    "name",
    ["thesis.tex", "samples/mine.npy", "runs/mine/data.json", "runs/ou-dsm-0/thesis.tex", "figure.png"],
)
def test_starting_over_leaves_a_folder_with_other_files_whole(tmp_path, name):
    results = json.dumps({"name": "fig2", "scale": 1.0, "rows": [], "floor": {}})
    if name != "figure.png":
        # Without its results a picture of this name is not known to be the command's.
        (tmp_path / "results.json").write_text(results, encoding="utf-8")
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match=rf"found one with other files in it: .*{Path(name).name}"):
        Folder(tmp_path, "fig2", STUDIES["fig2"], 0.1, fresh=True)
    assert (tmp_path / name).read_text() == "mine"
    assert (tmp_path / "results.json").exists() == (name != "figure.png")


@pytest.mark.parametrize("name", ABLATIONS)
def test_ablations_change_one_choice_at_a_time_and_measure_enough_rows_at_any_scale(name):
    jobs = [job for job in STUDIES[name].jobs(0.1) if job.seed == 0]
    choices = [job.config.reference.model_dump() for job in jobs]
    rest = [job.config.model_dump(exclude={"reference"}) for job in jobs]
    assert all(other == rest[0] for other in rest)
    assert all(job.config.evaluate.n == 5000 for job in jobs)
    changed = [{key for key, value in choice.items() if value != choices[0][key]} for choice in choices]
    assert changed[0] == set()
    # Bayesian inference of K is given more than it needs.
    assert all(len(keys) == 1 or keys == {"n_components", "bayesian"} for keys in changed[1:])
    assert set.union(*changed) == {
        "n_components", "covariance_type", "fit_samples", "bayesian", "init_params", "n_init"
    }  # fmt: skip


def test_the_ablation_measures_each_mixture_alone_and_pictures_digits(tmp_path):
    study = STUDIES["ablation-mixture-digits"]
    short = {"train.steps": 40, "evaluate.n": 100, "network.width": 8, "network.depth": 1, "sample.steps": 40}
    rows = (("path", {"K": 5}), ("path", {"K": 40, "bayesian": True}))
    study = replace(study, runs=1, rows=rows, fields={**study.fields, **short}, least_rows=100)
    folder = Folder(tmp_path / "ablation", "ablation-mixture-digits", study, 1.0)
    run_here(folder.jobs, tmp_path / "runs", folder.add)
    folder.finish()
    found = [(row["row"], row["setting"]) for row in folder.results["rows"]]
    assert sorted(map(str, found)) == sorted(str((name, s)) for _, s in rows for name in ("path", "prior"))
    assert folder.results["floor"]["swd2"] > 0
    assert (tmp_path / "ablation" / "figure.png").is_file()
    assert np.load(tmp_path / "ablation" / "samples" / f"{folder.jobs[0].name}.npy").shape == (64, 64)
