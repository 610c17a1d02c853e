"""Log-densities on a cluster: the same numbers as in one process, beside the rows' own columns."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ndsm
from ndsm.errors import InputError
from ndsm.run import Run
from pipelines.resources import Cluster
from pipelines.score import check_workers, score_on_ray

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a briefly trained run, and a table with its columns and another."""
    folder = tmp_path_factory.mktemp("score")
    # Unix times, which float32 would round to multiples of 128 seconds.
    x = np.random.default_rng(0).normal([1.7e9, 3], 2, (300, 2))
    ndsm.NDSM(n_components=2, max_steps=20, batch_rows=32, random_state=0).fit(x).save(folder / "run")
    table = pa.table({"x1": x[:, 1], "key": np.arange(300), "x0": x[:, 0]})
    pq.write_table(table, folder / "rows.parquet", row_group_size=100)
    return folder


def test_workers_write_the_numbers_of_one_process(folder, ray_cluster):
    run, out = Run.open(folder / "run"), folder / "scored"
    settings = {"end": None, "probes": 0, "seed": 0}
    mean = score_on_ray(run, folder / "rows.parquet", out, 1, settings)
    found = pq.read_table(out).sort_by("key")
    assert found.column_names == ["x1", "key", "x0", "log_prob", "bits_per_dim", "standard_error"]
    assert found["key"].to_pylist() == list(range(300))
    rows = np.stack([found["x0"], found["x1"]], 1)
    expected = ndsm.load(folder / "run").score_samples(rows)
    np.testing.assert_allclose(found["log_prob"], expected, atol=5e-3)
    assert mean == pytest.approx(np.mean(found["log_prob"]))
    with pytest.raises(InputError, match="expected the name of a new folder"):
        score_on_ray(run, folder / "rows.parquet", out, 1, settings)


def test_what_does_not_fit_is_one_sentence(folder):
    run = Run.open(folder / "run")
    with pytest.raises(InputError, match=r"expected a \.parquet file with a column per dimension"):
        score_on_ray(run, folder / "rows.csv", folder / "new", 1, {})
    with pytest.raises(InputError, match="the cluster has 2 CPUs, but 2 workers and the reader need 3"):
        check_workers(Cluster(2, 0, 1e9), 2)
