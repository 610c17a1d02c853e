"""The independent runs of a study as Ray tasks."""

from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest

from ndsm.cli import main
from ndsm.config import build_config, merge
from ndsm.core.interrupt import Interrupted
from ndsm.errors import Unfinished
from ndsm.reproduce import STUDIES, run_job, stop_file

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TINY = {"sample.steps": 40, "train.steps": 20, "train.block_mb": 0.1, "data.n": 200, "reference.n_init": 1}


def tiny(job):
    return replace(job, config=build_config(merge(job.config.model_dump(mode="json"), TINY), "tiny"))


def test_tasks_give_the_rows_and_points_of_this_process(ray_cluster, tmp_path):
    from pipelines.reproduce import run_on_ray

    jobs = [tiny(job) for job in STUDIES["fig2"].jobs(0.01) if job.seed == 0][2:3]
    found = {}
    run_on_ray(jobs, tmp_path / "ray", lambda job, result: found.update({job.name: result}))
    for job in jobs:
        rows, samples = run_job(job, tmp_path / "here")
        for a, b in zip(found[job.name][0], rows, strict=True):
            assert {**a, "train_seconds": 0} == {**b, "train_seconds": 0}
        np.testing.assert_array_equal(found[job.name][1], samples)


def test_doctor_says_what_the_cluster_has(ray_cluster, capsys):
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert f"torch {version('torch')}" in out
    assert "Ray answers: 4 CPUs" in out


def test_a_failing_run_leaves_the_others_and_ends_with_its_own_error(ray_cluster, tmp_path):
    from pipelines.reproduce import run_on_ray

    good, bad = [tiny(j) for j in STUDIES["fig2"].jobs(0.01) if j.row == "ndsm-eps0"][:2]
    (tmp_path / bad.name).mkdir()
    (tmp_path / bad.name / "notes.txt").write_text("not a run", encoding="utf-8")
    done = []
    expected = r"1 of 2 runs failed, the first one by InputError: .*expected a new or a run's folder, found .*: notes\.txt"
    with pytest.raises(Unfinished, match=expected):
        run_on_ray([bad, good], tmp_path, lambda job, result: done.append(job.name))
    assert done == [good.name]
    stop_file(tmp_path).touch()
    with pytest.raises(Interrupted):
        run_on_ray([good], tmp_path, lambda job, result: done.append(job.name))
    assert done == [good.name]
