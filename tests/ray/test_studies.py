"""The independent runs of a study as Ray tasks."""

import shutil
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pytest

from ndsm.cli import main
from ndsm.config import build_config, merge
from ndsm.core.interrupt import Interrupted
from ndsm.data.mnist import load_mnist
from ndsm.errors import InputError, Unfinished
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


def test_a_node_without_the_images_of_a_study_is_sent_them(ray_cluster, mnist_root, tmp_path):
    from pipelines.reproduce import images_of

    root = shutil.copytree(mnist_root, tmp_path / "data")
    before = {file: file.read_bytes() for file in root.glob("MNIST/raw/*")}
    jobs = STUDIES["fig7"].jobs(0.01, {"data.root": root})
    images = images_of(jobs)
    # As on another node.
    shutil.rmtree(root)
    place = ray_cluster.remote(num_cpus=1)(lambda images: images.place())
    ray_cluster.get(place.remote(images))
    assert {file: file.read_bytes() for file in root.glob("MNIST/raw/*")} == before
    assert len(load_mnist(root, False).images) == 20
    # What is there is read as it is.
    changed = next(iter(before))
    changed.write_bytes(b"another")
    ray_cluster.get(place.remote(images))
    assert changed.read_bytes() == b"another"
    shutil.rmtree(root)
    root.write_text("no folder", encoding="utf-8")
    with pytest.raises(
        InputError, match=r"node .*: expected .*MNIST/raw/.* or a folder that it can be written to, found "
    ):
        ray_cluster.get(place.remote(images))
    assert images_of(STUDIES["fig2"].jobs(0.01)) is None


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
