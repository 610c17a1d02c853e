"""A node that does not see the folder that a command works in: over it lies an empty one, in the node's own mount namespace."""

import shutil
import subprocess

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ndsm
from ndsm.cli import main
from ndsm.errors import InputError, Unfinished
from ndsm.inference.likelihood import COLUMNS
from ndsm.reproduce import STUDIES
from ndsm.runs import Run
from ndsm.workflows.sample_shards import SampleRequest, ShardFolder
from ndsm.workflows.score_table import RowScorer
from ndsm.workflows.trained_model import TrainedModel
from tuning.folder import SearchFolder, TrialRecord

pytestmark = pytest.mark.ray

UNSHARE = ("unshare", "--mount", "--map-root-user", "--propagation", "private")
ARCS = ("--data.n", "200", "--reference.n-init", "1")


@pytest.fixture(scope="module")
def hidden(joined, tmp_path_factory):
    """A folder that one of the cluster's two nodes does not see."""
    folder = tmp_path_factory.mktemp("hidden")
    if shutil.which("unshare") is None or subprocess.run([*UNSHARE, "true"], check=False).returncode:
        pytest.skip("needs the right to make a mount namespace")
    with joined("--num-cpus=1", UNSHARE, f'mount -t tmpfs none "{folder}"'):
        yield folder


@pytest.fixture(scope="module")
def run(hidden):
    x = np.random.default_rng(0).normal(0, 1, (100, 2)).astype(np.float32)
    pq.write_table(pa.table({"x0": x[:, 0], "x1": x[:, 1]}), hidden / "rows.parquet")
    ndsm.NDSM(n_components=1, max_steps=2, batch_rows=8, random_state=0).fit(x).save(hidden / "run")
    return Run.open(hidden / "run")


def test_a_search_names_the_node_and_writes_nothing(hidden, capsys):
    assert main(["tune", "toy-arcs", "--out", str(hidden / "new" / "tune"), "--trials", "1", *ARCS]) == 2
    assert "does not see" in (said := capsys.readouterr().err)
    assert said.startswith("ndsm: node ")
    assert str(hidden / "new" / "tune" / "toy-arcs") in said
    assert not (hidden / "new").exists()


def test_a_study_names_the_node_and_writes_nothing(hidden):
    from pipelines.reproduce import run_on_ray

    with pytest.raises(InputError, match=f"node .* does not see {hidden}/study/runs"):
        run_on_ray(STUDIES["fig2"].jobs(0.01)[:1], hidden / "study" / "runs", lambda job, result: None)
    assert not (hidden / "study").exists()


def test_sampling_names_the_node_for_the_folder_and_for_the_run(hidden, run):
    """Only for the folder: the run, which the node does not see either, is sent."""
    from pipelines.generate import generate_on_ray

    with pytest.raises(InputError, match=f"node .* does not see {hidden}/rows:"):
        generate_on_ray(ShardFolder(hidden / "rows", run, SampleRequest(10)), lambda part: None)
    assert not (hidden / "rows").exists()


def test_scoring_names_the_node(hidden, run):
    """Only for the folder that is written: the run and the table are sent."""
    from pipelines.score import score_on_ray

    settings = {"end": None, "probes": 0, "seed": 0}
    with pytest.raises(InputError, match=f"node .* does not see {hidden}:"):
        score_on_ray(run, hidden / "rows.parquet", hidden / "scored", 1, settings)
    assert not (hidden / "scored").exists()


@pytest.mark.nightly
def test_a_run_and_rows_that_a_node_does_not_see_are_sent_to_it(hidden, run, tmp_path):
    """Files go to a URI, for which no node is asked."""
    from pipelines.generate import generate_on_ray
    from pipelines.score import score_on_ray

    request = SampleRequest(9000, steps=20, chunks_per_file=1)
    here = ShardFolder(tmp_path / "here", run, request)
    there = ShardFolder((tmp_path / "there").as_uri(), run, request)
    generate_on_ray(there, lambda part: None)
    assert there.missing() == []
    for part in here.parts:
        here.make(TrainedModel.of(run), part)
        assert there.place.read(part.file) == (here.path / part.file).read_bytes()
    data, settings = hidden / "rows.parquet", {"end": None, "probes": 0, "seed": 0}
    mean = score_on_ray(run, data, (tmp_path / "scored").as_uri(), 1, settings)
    expected = RowScorer(run, **settings)(np.stack([*pq.read_table(data).to_pydict().values()], 1))
    found, order = pq.read_table(tmp_path / "scored").sort_by("x0"), np.argsort(pq.read_table(data)["x0"])
    np.testing.assert_allclose(found[COLUMNS[0]].to_numpy(), expected[order, 0], rtol=1e-4)
    assert mean == pytest.approx(expected[:, 0].mean(), rel=1e-5)


def test_what_all_nodes_see_is_seen(hidden, tmp_path):
    """Also a folder that is not there yet, which is none afterwards."""
    from pipelines.shared_paths import check_seen

    (tmp_path / "file").write_text("here")
    check_seen(written=[tmp_path / "new" / "folder"], read=[tmp_path / "file", tmp_path])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_search_without_a_trained_trial_fails_with_a_sentence(ray_cluster, tmp_path, monkeypatch, capsys):
    """Its trials failed in an earlier sitting; the page and the numbers are written, and no best.yaml is spoken of."""
    args = ["tune", "toy-arcs", "--out", str(tmp_path), "--trials", "2", "--concurrent", "1", *ARCS]
    folder = SearchFolder(tmp_path / "toy-arcs")
    begin = SearchFolder.begin

    def begun(self: SearchFolder, settings: dict) -> None:
        begin(self, settings)
        for number in range(2):
            self.trial(number).write(
                TrialRecord(number, {}, status="failed", reason="OverflowError: too much")
            )

    monkeypatch.setattr(SearchFolder, "begin", begun)
    assert main(args) == 1
    out, err = capsys.readouterr()
    assert err.splitlines()[-1] == (
        "ndsm: no trial was trained to its end (2 failed); preset: OverflowError: too much"
    )
    assert "best.yaml" not in out
    assert {"summary.json", "tune-report.html"} <= {p.name for p in folder.path.iterdir()}


def test_a_search_refuses_a_storage_that_it_would_not_use(capsys, tmp_path):
    args = ["tune", "toy-arcs", "--out", str(tmp_path / "tune"), "--train.storage", "s3://bucket/runs"]
    assert main(args) == 2
    assert "train.storage: expected none for a search" in capsys.readouterr().err
    assert not (tmp_path / "tune").exists()


def test_a_lost_process_is_told_apart_from_an_error_of_the_trials_own(ray_cluster):
    from tuning.trial import machine_failed

    @ray_cluster.remote(num_cpus=0)
    class Worker:
        def die(self):
            import os

            os._exit(1)

        def fail(self):
            raise OverflowError("too much")

    found = []
    for name in ("die", "fail"):
        with pytest.raises(ray_cluster.exceptions.RayError) as caught:
            ray_cluster.get(getattr(Worker.remote(), name).remote())
        found.append(machine_failed(caught.value))
    assert found == [True, False]
    assert machine_failed(OSError("no answer"))
    assert machine_failed(Unfinished("no room"))
    assert not machine_failed(FloatingPointError("training diverged"))
