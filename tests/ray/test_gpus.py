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
from ndsm.errors import InputError
from ndsm.reproduce import Job
from ndsm.runs import Run
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


@pytest.mark.nightly
def test_scoring_workers_have_a_gpu_each_and_write_the_numbers_of_one_process(
    two_gpus, tmp_path, monkeypatch
):
    # Unix times, which float32 would round to multiples of 128 seconds.
    x = np.random.default_rng(0).normal([1.7e9, 3], 2, (300, 2))
    ndsm.NDSM(n_components=2, max_steps=20, batch_rows=32, random_state=0).fit(x).save(tmp_path / "run")
    table = pa.table({"x1": x[:, 1], "key": np.arange(300), "x0": x[:, 0]})
    data, out = tmp_path / "rows.parquet", tmp_path / "out"
    pq.write_table(table, data, row_group_size=100)
    there, found = tmp_path / "there", tmp_path / "found"
    there.mkdir()
    found.mkdir()

    class Worker(score._Worker):
        def __init__(self, *args):
            ids, visible = seen(there, str(os.getpid()))
            (found / f"{args[-1]['device']} {ids} {visible}").touch()
            super().__init__(*args)

    monkeypatch.setattr(score, "_Worker", Worker)
    run, settings = Run(tmp_path / "run"), {"end": None, "probes": 0, "seed": 0}
    mean = score.score_on_ray(run, data, out, 2, settings)
    assert sorted(path.name for path in found.iterdir()) == ["auto ['0'] 0", "auto ['1'] 1"]
    written = pq.read_table(out).sort_by("key")
    assert written.column_names == ["x1", "key", "x0", "log_prob", "bits_per_dim", "standard_error"]
    assert written["key"].to_pylist() == list(range(300))
    expected = ndsm.load(tmp_path / "run").score_samples(np.stack([written["x0"], written["x1"]], 1))
    np.testing.assert_allclose(written["log_prob"], expected, atol=5e-3)
    assert mean == pytest.approx(np.mean(written["log_prob"]))
    with pytest.raises(InputError, match="expected the name of a new folder"):
        score.score_on_ray(run, data, out, 2, settings)
