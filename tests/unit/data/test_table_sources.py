"""Folders of Parquet files and URIs are tables: the same rows in the same order as from one local file."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.dataset as ds
import pyarrow.fs
import pyarrow.parquet as pq
import pytest
from pyarrow import feather
from quick_estimator import quick_run

from ndsm.cli import main
from ndsm.config import Data, load_config
from ndsm.data import load
from ndsm.data.table_reader import open_table
from ndsm.errors import InputError
from ndsm.report.numbers import find_data
from ndsm.runs import Run
from ndsm.runs.identity import training_hash
from ndsm.workflows.score_table import open_rows

X = np.random.default_rng(0).normal(size=(1000, 2)).astype(np.float32)
TABLE = pa.table({"a": X[:, 0], "b": X[:, 1]})
SMALL = [
    "--local",
    "--quiet",
    "--train.steps",
    "5",
    "--network.width",
    "8",
    "--network.depth",
    "1",
    "--evaluate.n",
    "50",
    "--sample.steps",
    "20",
]


def rows(path, columns=None):
    return np.concatenate(list(open_table(path, columns).batches()))


def write_parts(folder, cuts=(0, 100, 100, 700, 1000)):
    """TABLE in files, one of them empty, with what Spark puts beside them."""
    folder.mkdir(parents=True)
    for k, (begin, end) in enumerate(pairwise(cuts)):
        pq.write_table(TABLE[begin:end], folder / f"part-{k:05d}-7f.c000.snappy.parquet", row_group_size=64)
    (folder / "_SUCCESS").touch()
    (folder / ".part-00000-7f.c000.snappy.parquet.crc").write_bytes(b"crc")
    (folder / "_temporary").mkdir()
    (folder / "_temporary" / "part-00009.parquet").write_bytes(b"half")
    return folder


def test_a_folder_is_its_files_one_after_the_other_in_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("ndsm.data.table_reader.BATCH_VALUES", 300)
    folder = write_parts(tmp_path / "spark.parquet")
    table = open_table(folder)
    assert table.rows == 1000
    # Of the same sizes as from one file: what is drawn for a batch does not depend on the files.
    assert [len(batch) for batch in table.batches()] == [150] * 6 + [100]
    assert (rows(folder) == X).all()
    assert (rows(folder, ["b"]) == X[:, 1:]).all()


def test_the_hash_of_the_rows_does_not_depend_on_the_files(tmp_path):
    pq.write_table(TABLE, tmp_path / "one.parquet")
    stamps = {
        load(load_config("table-langevin", {"data.path": str(path)}).data, 0).stamp
        for path in (tmp_path / "one.parquet", write_parts(tmp_path / "many"), (tmp_path / "many").as_uri())
    }
    assert len(stamps) == 1


def test_folders_named_by_key_and_value_give_columns(tmp_path):
    k, city = np.repeat([10, 2, -1], [300, 300, 400]), np.repeat(["x", "a/b"], 500)
    table = TABLE.append_column("k", pa.array(k)).append_column("city", pa.array(city))
    ds.write_dataset(
        table, tmp_path / "hive", format="parquet", partitioning=["k", "city"], partitioning_flavor="hive"
    )
    found = open_table(tmp_path / "hive", ["a", "k"])
    assert found.schema.columns == (("a", "float"), ("k", "int64"))
    # Rows of a file stay in order, files are in the order of their paths.
    expected = [[a, v] for v in (-1, 10, 2) for c in ("a/b", "x") for a in X[(k == v) & (city == c), 0]]
    assert rows(tmp_path / "hive", ["a", "k"]) == pytest.approx(np.array(expected))
    assert sorted(rows(tmp_path / "hive", ["k"]).ravel()) == sorted(k)
    with pytest.raises(
        InputError, match=r"dates or times in column 'city', found type string; data\.columns can"
    ):
        open_table(tmp_path / "hive")


def test_labels_may_be_the_folders_names(tmp_path):
    k = np.repeat([0, 1], 500)
    table = TABLE.append_column("_kind", pa.array(k))
    ds.write_dataset(
        table, tmp_path / "hive", format="parquet", partitioning=["_kind"], partitioning_flavor="hive"
    )
    config = load_config("table-langevin", {"data.path": str(tmp_path / "hive"), "data.labels": "_kind"})
    dataset = load(config.data, 0)
    assert dataset.schema.dimension_names == ["a", "b"]
    assert sorted([*dataset.train_labels, *dataset.validation_labels]) == sorted(k)


def other_type(folder):
    pq.write_table(
        TABLE.cast(pa.schema([("a", pa.float32()), ("b", pa.float64())])), folder / "part-00007.parquet"
    )


def fewer_columns(folder):
    pq.write_table(TABLE.select(["a"]), folder / "sub" / "part-00007.parquet")


def more_columns(folder):
    pq.write_table(TABLE.append_column("c", TABLE["a"]), folder / "part-00007.parquet")


def stray_file(folder):
    (folder / "notes.txt").write_text("hello")


def damaged_file(folder):
    (folder / "part-00007.parquet").write_bytes(b"PAR1 damaged")


def other_keys(folder):
    (folder / "k=1").mkdir()
    pq.write_table(TABLE, folder / "k=1" / "part-00007.parquet")


def missing_number(folder):
    pq.write_table(
        pa.table({"a": pa.array([1, None, 2], pa.float32()), "b": X[:3, 0]}), folder / "part-00007.parquet"
    )


BAD_FOLDERS = {
    other_type: r"bad: part-00007\.parquet: expected column 'b' of type float, as in part-00000.*, found double",
    fewer_columns: r"bad: sub/part-00007\.parquet: expected column 'b' of type float, .* found no such column",
    more_columns: r"bad: part-00007\.parquet: expected the columns of part-00000.*, found column 'c' beside them",
    stray_file: r"bad: expected nothing but \.parquet files in a folder of data, found notes\.txt",
    damaged_file: r"bad: part-00007\.parquet is not readable as Parquet",
    other_keys: r"bad: part-00000.*: expected a file in folders KEY=VALUE with the keys of the first file's, k, found none",
    missing_number: r"bad: column 'a', row 2 of part-00007\.parquet .*found a missing value",
}


@pytest.mark.parametrize("spoil", BAD_FOLDERS, ids=lambda spoil: spoil.__name__)
def test_a_folder_that_is_no_table_is_one_sentence_with_the_file(tmp_path, spoil):
    folder = write_parts(tmp_path / "bad")
    (folder / "sub").mkdir()
    spoil(folder)
    with pytest.raises(InputError, match=BAD_FOLDERS[spoil]) as caught:
        rows(folder)
    assert "\n" not in str(caught.value)


def test_chosen_columns_may_lie_among_others_that_differ(tmp_path):
    folder = write_parts(tmp_path / "good")
    more_columns(folder)
    assert len(rows(folder, ["a", "b"])) == 2000


def test_what_sample_writes_to_a_folder_is_data_of_every_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pq.write_table(TABLE, "one.parquet")
    quick_run("runs/one", {"data.path": "one.parquet"})
    monkeypatch.setattr("ndsm.samplers.CHUNK", 50)
    assert main(["sample", "runs/one", "--n", "120", "--local", "--quiet", "--out", "new"]) == 0
    assert (tmp_path / "new" / "_generation.json").is_file()
    assert quick_run("runs/two", {"data.path": "new"}).data()["rows"] == 108
    assert main(["score", "runs/one", "new", "--out", "logp.npy", "--quiet"]) == 0
    assert np.load("logp.npy").shape == (120, 3)
    assert main(["impute", "runs/one", "new", "--out", "full.npy", "--quiet"]) == 0
    assert (np.load("full.npy")[:, 1:] == rows("new")).all()


def test_a_folder_that_sample_has_not_filled_yet_is_refused(tmp_path):
    folder = write_parts(tmp_path / "new")
    parts = [{"file": p.name} for p in sorted(folder.glob("part-*"))] + [{"file": "part-00004.parquet"}]
    (folder / "_generation.json").write_text(json.dumps({"parts": parts}))
    with pytest.raises(
        InputError, match=r"the 5 files .* found 1 missing, such as part-00004\.parquet; the same"
    ):
        open_table(folder)


@pytest.fixture
def put(s3, tmp_path):
    """Copies a local file or folder to S3; its URI."""

    def copy(path):
        uri = s3.replace("/all?", f"/{tmp_path.name}/{path.name}?")
        filesystem, root = pa.fs.FileSystem.from_uri(uri)
        files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
        for file in files:
            inner = file.relative_to(path)
            target = root if path.is_file() else f"{root}/{inner}"
            with filesystem.open_output_stream(target, compression=None) as out:
                out.write(file.read_bytes())
        return uri

    return copy


def save(path):
    if path.suffix == ".npy":
        # Columns first is how numpy keeps a transposed array.
        np.save(path, np.asfortranarray(X))
    elif path.suffix == ".arrow":
        with pa.ipc.new_file(str(path), TABLE.schema) as sink:
            sink.write_table(TABLE, max_chunksize=300)
    elif path.suffix == ".parquet":
        pq.write_table(TABLE, path)
    else:
        with pa.CompressedOutputStream(str(path), "gzip") as sink:
            pa.csv.write_csv(TABLE, sink)
    return path


@pytest.mark.parametrize("name", ["t.npy", "t.csv.gz", "t.parquet", "t.arrow", "folder"])
def test_a_uri_is_read_like_a_file(tmp_path, put, name, monkeypatch):
    monkeypatch.setattr("ndsm.data.table_reader.BATCH_VALUES", 600)
    path = write_parts(tmp_path / name) if name == "folder" else save(tmp_path / name)
    for uri in (path.as_uri(), put(path)):
        assert rows(uri, None if name == "t.npy" else ["a", "b"]) == pytest.approx(X, rel=1e-6)


def test_a_run_on_a_uri_is_trained_read_again_and_scored(tmp_path, put, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = put(save(tmp_path / "t.parquet"))
    run = quick_run("runs/mine", {"data.path": uri})
    assert run.config().data.path == uri
    assert find_data(run, run.config())[1] is None
    pq.write_table(TABLE.slice(0, 20), "few.parquet")
    for name, path in (("far", put(Path("few.parquet").resolve())), ("near", "few.parquet")):
        assert main(["score", "runs/mine", path, "--out", f"{name}.npy", "--quiet"]) == 0
    assert (np.load("far.npy") == np.load("near.npy")).all()


def test_paths_keep_their_text_and_a_run_its_hash():
    for path, expected in (
        (Path("a") / "t.csv", "a/t.csv"),
        ("./a//t.csv", "a/t.csv"),
        ("s3://b/x/", "s3://b/x/"),
    ):
        config = load_config("table-langevin", {"data.path": path})
        assert config.data.path == expected
    # As they were hashed when they were kept as `pathlib.Path`.
    assert training_hash(load_config("table-langevin", {"data.path": "a/t.csv"})) == training_hash(
        load_config("table-langevin", {"data.path": Path("./a/t.csv")})
    )


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("s3://key:secret@bucket/t.parquet", "expected a URI without a key"),
        ("https://example.org/t.csv", r"data\.path: expected a path or a URI such as s3://"),
        (
            "s3://bucket/t.parquet?scheme=http&endpoint_override=127.0.0.1%3A9&region=us-east-1",
            "storage to answer",
        ),
        ("file:///nowhere/t.csv", "does not exist"),
        ("file:///nowhere/t.txt", "found '.txt'"),
    ],
)
def test_a_wrong_uri_is_one_sentence_that_holds_no_key(uri, sentence):
    with pytest.raises(InputError, match=sentence) as caught:
        open_table(uri)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_home_folder_of_nobody_and_an_empty_path_are_one_sentence():
    with pytest.raises(
        InputError, match=r"home folder of a user of this machine, found '~no_such_user/t\.csv'"
    ):
        open_table("~no_such_user/t.csv")
    with pytest.raises(InputError, match="expected a path or a URI, found ''"):
        Data(name="vectors", path="")


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "t.parquet")
    assert (rows("~/t.parquet") == X).all()


def frame():
    return pd.DataFrame({"a": X[:, 0], "b": X[:, 1]})


INDICES = {
    "of a filtered frame": (lambda f: f[f.a > 0], ("__index_level_0__",)),
    "with a name": (lambda f: f.set_index(pd.Index(np.arange(1000) * 7 % 1000, name="id")), ("id",)),
    "of text": (lambda f: f.set_index(pd.Index([f"id{i}" for i in range(1000)], name="id")), ("id",)),
    "of two levels": (
        lambda f: f.set_index([pd.Index(np.arange(1000) % 7, name="u"), f.a > 0]),
        ("u", "__index_level_1__"),
    ),
    "that counts rows": (lambda f: f[::2], ()),
}


@pytest.mark.parametrize("kind", ["parquet", "feather", "folder"])
@pytest.mark.parametrize(("change", "index"), INDICES.values(), ids=INDICES)
def test_the_index_of_a_data_frame_is_left_out(tmp_path, kind, change, index):
    changed = change(frame())
    changed.index.names = [None if name == "a" else name for name in changed.index.names]
    path = tmp_path / f"t.{kind}"
    if kind == "folder":
        path.mkdir()
    if kind == "feather":
        feather.write_feather(pa.Table.from_pandas(changed), path)
    else:
        changed.to_parquet(path / "part-0.parquet" if kind == "folder" else path)
    table = open_table(path)
    assert (table.schema.dimension_names, table.left_out) == (["a", "b"], index)
    assert (np.concatenate(list(table.batches())) == changed.to_numpy()).all()


def test_a_nameless_index_is_left_out_where_its_metadata_are_lost(tmp_path):
    table = pa.Table.from_pandas(frame()[::-1].sample(frac=0.5, random_state=0))
    pq.write_table(table.replace_schema_metadata({"pandas": "of another program"}), tmp_path / "t.parquet")
    assert open_table(tmp_path / "t.parquet").left_out == ("__index_level_0__",)


def test_an_index_that_went_through_a_file_of_text_is_left_out(tmp_path):
    frame = pd.DataFrame({"a": [1.5, 2.5, 3.5], "b": [1, 2, 4]}, index=[7, 3, 5])
    frame.to_csv(tmp_path / "first.csv")
    again = pd.read_csv(tmp_path / "first.csv")
    assert list(again.columns) == ["Unnamed: 0", "a", "b"]
    again.to_csv(tmp_path / "again.csv", index=False)
    again.to_parquet(tmp_path / "again.parquet", index=False)
    for name in ("again.csv", "again.parquet"):
        table = open_table(tmp_path / name)
        assert table.names == ("a", "b")
        assert table.left_out == ("Unnamed: 0",)


def test_nothing_but_an_index_is_one_sentence(tmp_path):
    pd.DataFrame({"a": [1, 2, 3], "b": [1, 2, 4]}).set_index(["a", "b"]).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(
        InputError, match=r"beside the index of a pandas data frame, found only that: 'a', 'b'; data"
    ):
        open_table(tmp_path / "t.parquet")


def test_an_index_that_is_asked_for_is_learned_or_is_the_label(tmp_path):
    frame().set_index(pd.Index(np.arange(1000) % 3, name="id")).to_parquet(tmp_path / "t.parquet")
    table = open_table(tmp_path / "t.parquet", ["id", "b"])
    assert (table.schema.dimension_names, table.left_out) == (["id", "b"], ())
    fields = {"data.path": str(tmp_path / "t.parquet"), "data.labels": "id"}
    dataset = load(load_config("table-langevin", fields).data, 0)
    assert (dataset.schema.dimension_names, dataset.left_out) == (["a", "b"], ())


def test_training_says_once_that_an_index_is_left_out(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    frame().sample(frac=0.5, random_state=0).to_parquet("t.parquet")
    assert main(["train", "table-langevin", "--data.path", "t.parquet", "--name", "mine", *SMALL]) == 0
    assert capsys.readouterr().err.count("'__index_level_0__'") == 1
    # Rows with and without an index can be scored by it.
    for index in (True, False):
        frame()[::2].sample(frac=1, random_state=0).to_parquet("new.parquet", index=index)
        assert open_rows(Run(Path("runs/mine")), "new.parquet").schema.dimension_names == ["a", "b"]
