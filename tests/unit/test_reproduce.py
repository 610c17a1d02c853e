"""The paper's experiments: their protocol, their bookkeeping, and one short run."""

import json

import numpy as np
import pytest

from ndsm.config import build_config, flatten, merge
from ndsm.errors import InputError
from ndsm.reproduce import RUNS, STUDIES, Folder, Job, run_job, summarise


def row(name, seed, mode_std, **setting):
    metrics = {"mode_std": mode_std, "swd2": 0.1, "off_support": 0.0, "train_seconds": 1.0}
    return {"row": name, "seed": seed, "setting": setting, **metrics}


@pytest.mark.parametrize("name", STUDIES)
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
    first, second = summarise(rows)
    assert (first.seed, first.median["mode_std"], first.spread, first.runs) == (4, 3.0, (1.0, 5.0), 5)
    assert (second.label, second.runs) == ("a last_dt 0.001", 1)


def test_a_run_gives_its_row_the_mixtures_and_its_points(tmp_path):
    (job,) = [j for j in STUDIES["fig2"].jobs(0.01) if (j.row, j.seed) == ("ndsm-eps0", 1)]
    short = merge(
        job.config.model_dump(mode="json"), {"sample.steps": 40, "train.steps": 20, "train.block_mb": 0.1}
    )
    job = Job(job.row, job.setting, job.seed, build_config(short, "short"))
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
    folder = Folder(tmp_path / "fig2", "fig2", 0.5)
    jobs = folder.missing()
    assert len(jobs) == 20
    for job in (jobs[3], jobs[0]):
        folder.add(job, ([{**row(job.row, job.seed, 1.0)}], np.zeros((3, 2), np.float32)))
    again = Folder(tmp_path / "fig2", "fig2", 0.5)
    assert {j.name for j in jobs} - {j.name for j in again.missing()} == {jobs[0].name, jobs[3].name}
    assert [r["row"] for r in again.results["rows"]] == ["ou-dsm", "ndsm-cv"]
    assert np.load(tmp_path / "fig2" / "samples" / f"{jobs[0].name}.npy", allow_pickle=False).shape == (3, 2)


def test_results_of_another_scale_are_refused(tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"scale": 1.0, "rows": []}), encoding="utf-8")
    with pytest.raises(InputError, match=r"holds results at --scale 1, expected 0\.1"):
        Folder(tmp_path, "fig2", 0.1)


@pytest.mark.parametrize("content", ["not json", "[1, 2]", "{}"])
def test_something_else_in_the_place_of_results_is_refused(tmp_path, content):
    (tmp_path / "results.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="expected the results of `ndsm reproduce`, found another file"):
        Folder(tmp_path, "fig2", 1.0)
