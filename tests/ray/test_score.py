"""Log-densities on a cluster: the same numbers as in one process, beside the rows' own columns."""

import numpy as np
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

import ndsm
from ndsm.errors import InputError
from ndsm.runs import Run
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


@pytest.mark.nightly
def test_workers_read_folders_whose_names_hold_a_column(folder, ray_cluster, tmp_path):
    run, settings = Run.open(folder / "run"), {"end": None, "probes": 0, "seed": 0}
    table = pq.read_table(folder / "rows.parquet")
    table = table.set_column(0, "x1", pa.array(np.rint(table["x1"]).astype(int)))
    data, out = tmp_path / "hive", tmp_path / "scored"
    pa.dataset.write_dataset(table, data, format="parquet", partitioning=["x1"], partitioning_flavor="hive")
    (data / "_SUCCESS").touch()
    score_on_ray(run, data.as_uri(), out, 1, settings)
    found = pq.read_table(out).sort_by("key")
    assert found["x1"].to_pylist() == table["x1"].to_pylist()
    expected = ndsm.load(folder / "run").score_samples(np.stack([table["x0"], table["x1"]], 1))
    np.testing.assert_allclose(found["log_prob"], expected, atol=5e-3)


def test_what_does_not_fit_is_one_sentence(folder):
    run = Run.open(folder / "run")
    with pytest.raises(
        InputError, match=r"expected a \.parquet file or a folder of them with a column per dimension"
    ):
        score_on_ray(run, folder / "rows.csv", folder / "new", 1, {})
    with pytest.raises(InputError, match="the cluster has 2 CPUs, but 2 workers and the reader need 3"):
        check_workers(Cluster(2, 0, 1e9), 2)
