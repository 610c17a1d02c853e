"""Processes on a cluster with GPUs: each has one of its own, or is told to use its CPU. Ray hands GPUs out by number, there or not."""

import os
import sys
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ndsm
from ndsm.config import load_config
from ndsm.reproduce import Job
from ndsm.run import Run
from pipelines import reproduce, score

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def two_gpus(ray_cluster, joined):
    # Its processes do not find the tests' modules.
    ray_cluster.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with joined("--num-cpus=2 --num-gpus=2") as node:
        yield node
    ray_cluster.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


def seen(folder, name):
    """The GPUs of this process by Ray and as CUDA counts them, once there are two of them at once."""
    import ray

    ids = ray.get_runtime_context().get_accelerator_ids()["GPU"]
    if not ids:
        return ids, None
    (folder / name).touch()
    while len(list(folder.iterdir())) < 2:
        time.sleep(0.05)
    return ids, os.environ["CUDA_VISIBLE_DEVICES"]


def test_a_studys_runs_have_a_gpu_each_or_none(two_gpus, tmp_path, monkeypatch):
    configs = [load_config("toy-arcs", {"train.device": device}) for device in ("auto", "auto", "cpu")]
    jobs = [Job("row", {}, seed, config, ()) for seed, config in enumerate(configs)]
    monkeypatch.setattr(reproduce, "run_job", lambda job, runs: seen(runs, job.name))
    found = []
    reproduce.run_on_ray(jobs, tmp_path, lambda job, result: found.append(result))
    assert sorted(found) == [([], None), (["0"], "0"), (["1"], "1")]


def test_scoring_workers_have_a_gpu_each(two_gpus, tmp_path, monkeypatch):
    x = np.random.default_rng(0).normal(size=(60, 2))
    model = ndsm.NDSM(2, max_steps=2, random_state=0, config=load_config("vectors", {"data.path": "X"}))
    model.fit(x).save(tmp_path / "run")
    pq.write_table(pa.table({"x0": x[:, 0], "x1": x[:, 1]}), tmp_path / "rows.parquet", row_group_size=10)
    there, found = tmp_path / "there", tmp_path / "found"
    there.mkdir()
    found.mkdir()

    class Worker(score._Worker):
        def __init__(self, path, names, settings):
            ids, visible = seen(there, str(os.getpid()))
            (found / f"{settings['device']} {ids} {visible} {os.getpid()}").touch()
            super().__init__(path, names, settings)

    monkeypatch.setattr(score, "_Worker", Worker)
    score.score_on_ray(Run(tmp_path / "run"), tmp_path / "rows.parquet", tmp_path / "out", 2, {"probes": 1})
    names = sorted(path.name.rpartition(" ")[0] for path in found.iterdir())
    assert names == ["auto ['0'] 0", "auto ['1'] 1"]
