"""A folder of generated files: the rows of one file, in parts, whoever makes them and when."""

import json
import shutil
from contextlib import nullcontext

import numpy as np
import pyarrow.parquet as pq
import pytest

from ndsm.cli import main
from ndsm.config import Sample
from ndsm.errors import InputError
from ndsm.runs import Run
from ndsm.samplers import CHUNK
from ndsm.workflows.sample_shards import SampleRequest, ShardFolder
from ndsm.workflows.trained_model import TrainedModel

N = 2 * CHUNK + 100
REQUEST = SampleRequest(N, seed=3, steps=10, sampler="exponential", chunks_per_file=1)


@pytest.fixture(scope="module")
def run(tmp_path_factory, train_arcs):
    settings = {
        "data.n": 300,
        "network.width": 8,
        "network.depth": 1,
        "train.steps": 10,
        "train.device": "cpu",
    }
    return train_arcs(Run(tmp_path_factory.mktemp("runs") / "mine"), settings).run


def columns(path):
    return np.stack([c.to_numpy() for c in pq.read_table(path).columns], 1)


def make_missing(folder):
    for part in reversed(folder.missing()):
        folder.make(TrainedModel.of(folder.run), part)


def test_the_parts_are_the_rows_of_one_file_in_any_order_of_making(run, tmp_path):
    folder = ShardFolder(tmp_path / "parts", run, REQUEST)
    assert [part.rows for part in folder.parts] == [CHUNK, CHUNK, 100]
    make_missing(folder)
    one = tmp_path / "one.parquet"
    options = ["--n", str(N), "--seed", "3", "--steps", "10", "--sampler", "exponential", "--out", str(one)]
    assert main(["sample", str(run.path), *options]) == 0
    np.testing.assert_array_equal(
        columns(tmp_path / "parts" / "part-00001.parquet"), columns(one)[CHUNK : 2 * CHUNK]
    )
    np.testing.assert_array_equal(columns(tmp_path / "parts"), columns(one))


def test_only_what_is_missing_is_made_and_comes_out_the_same(run, tmp_path):
    folder = ShardFolder(tmp_path, run, REQUEST)
    make_missing(folder)
    lost, kept = tmp_path / "part-00002.parquet", tmp_path / "part-00000.parquet"
    content, written = lost.read_bytes(), kept.stat().st_mtime_ns
    lost.unlink()
    again = ShardFolder(tmp_path, run, REQUEST)
    assert [part.file for part in again.missing()] == [lost.name]
    make_missing(again)
    assert lost.read_bytes() == content
    assert kept.stat().st_mtime_ns == written


def test_the_folder_says_what_its_rows_are(run, tmp_path):
    ShardFolder(tmp_path, run, REQUEST)
    found = json.loads((tmp_path / "_generation.json").read_text())
    assert (found["run"], found["n"], found["seed"], found["steps"], found["sampler"]) == (
        "mine", N, 3, 10, "exponential",
    )  # fmt: skip
    assert found["parts"][2] == {"file": "part-00002.parquet", "first_chunk": 2, "rows": 100, "seed": 3}


def test_another_request_or_another_folder_is_refused(run, tmp_path):
    ShardFolder(tmp_path / "parts", run, REQUEST)
    with pytest.raises(InputError, match=r"holds other rows: seed \(3 before, 4 now\); give another --out"):
        ShardFolder(tmp_path / "parts", run, SampleRequest(N, 4, 10, "exponential", 1))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("")
    with pytest.raises(InputError, match="expected a new or empty folder"):
        ShardFolder(tmp_path / "mine", run, REQUEST)
    # What a killed process was writing is no one else's.
    (tmp_path / "mine" / "notes.txt").rename(tmp_path / "mine" / "._generation.json.12345.partial")
    assert len(ShardFolder(tmp_path / "mine", run, REQUEST).missing()) == 3
    (tmp_path / "parts" / "_generation.json").write_text("[]")
    with pytest.raises(InputError, match=r"_generation\.json: expected what `ndsm sample` wrote"):
        ShardFolder(tmp_path / "parts", run, REQUEST)


@pytest.mark.parametrize(
    ("sampler", "field", "before", "now"),
    [
        ("flow", "power", None, 5.0),
        ("flow", "signal", None, 0.1),
        ("flow", "end", None, 0.02),
        ("flow", "noise", None, 0.5),
        ("flow", "noise", 0.25, 0.5),
        ("em", "steps", 100, 101),
    ],
)
def test_a_setting_of_the_run_that_decides_rows_makes_another_request(
    run, tmp_path, sampler, field, before, now
):
    mine = Run(tmp_path / "mine")
    shutil.copytree(run.path, mine.path)

    def set_sample(**settings):
        config = mine.config()
        mine.update(config.model_copy(update={"sample": Sample(sampler=sampler, **settings)}))

    set_sample(**{field: before})
    ShardFolder(tmp_path / "parts", mine, SampleRequest(50))
    set_sample(**{field: now})
    with pytest.raises(InputError, match=rf"holds other rows: {field} \({before} before, {now} now\)"):
        ShardFolder(tmp_path / "parts", mine, SampleRequest(50))
    # The run's settings of its own sampler do not go with another one.
    asked = SampleRequest(50, steps=10, sampler="exponential")
    ShardFolder(tmp_path / "others", mine, asked)
    set_sample(**{field: before})
    ShardFolder(tmp_path / "others", mine, asked)


def test_a_folder_of_an_earlier_version_is_gone_on_with(run, tmp_path):
    """Its description has fewer settings; those it does not have are at their defaults."""
    ShardFolder(tmp_path, run, REQUEST)
    file = tmp_path / "_generation.json"
    description = json.loads(file.read_text())
    for later in ("training", "noise", "power", "signal", "end"):
        del description[later]
    file.write_text(json.dumps(description))
    assert len(ShardFolder(tmp_path, run, REQUEST).missing()) == 3
    description["weights"] = "others"
    file.write_text(json.dumps(description))
    with pytest.raises(InputError, match=r"holds other rows: weights \(others before"):
        ShardFolder(tmp_path, run, REQUEST)


def test_the_command_fills_a_folder(run, tmp_path, capsys):
    command = [
        "sample",
        str(run.path),
        "--n",
        "50",
        "--steps",
        "100",
        "--out",
        str(tmp_path / "folder"),
        "--local",
    ]
    assert main(command) == 0
    assert "1/1 part-00000.parquet: 50 rows" in capsys.readouterr().out
    assert main(command) == 0
    assert "1 of 1 files are there already" in capsys.readouterr().out
    assert len(columns(tmp_path / "folder")) == 50


def test_a_head_without_work_is_one_sentence(run, tmp_path, monkeypatch):
    from pipelines import generate
    from pipelines.resources import Cluster

    monkeypatch.setattr(generate, "cluster", lambda: nullcontext(Cluster(0, 0, 2**30)))
    with pytest.raises(
        InputError, match="the cluster has 0 CPUs, but sampling needs at least 1; add nodes, or"
    ):
        generate.generate_on_ray(ShardFolder(tmp_path / "mine", run, REQUEST), lambda part: None)


@pytest.mark.parametrize(
    "wrong", [["--sampler", "ddim"], ["--sampler", "em", "--noise", "0.5"], ["--steps", "3"]]
)
def test_what_the_run_cannot_do_is_said_before_there_is_a_folder(run, tmp_path, capsys, wrong):
    command = ["sample", str(run.path), "--out", str(tmp_path / "folder"), "--local", *wrong]
    assert main(command) == 2
    assert "expected" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("n", "hinted"), [(10_000_000, True), (10_000, False)])
def test_many_rows_for_one_file_are_told_of_the_folder(run, tmp_path, monkeypatch, capsys, n, hinted):
    monkeypatch.setattr(TrainedModel, "rows", lambda *args, **settings: iter(()))
    assert main(["sample", str(run.path), "--n", str(n), "--out", str(tmp_path / "new.parquet")]) == 0
    told = f"a folder as --out, such as {tmp_path / 'new'}, is filled by all nodes"
    assert (told in capsys.readouterr().err) == hinted
