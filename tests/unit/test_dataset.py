"""Loading keeps every row once, standardises exactly and can be undone."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ndsm.config import Data
from ndsm.data import Scaling, load
from ndsm.data.dataset import check_steps, quantised
from ndsm.errors import InputError


@pytest.fixture
def table(tmp_path):
    """A parquet file of 1,000 rows whose first column counts them."""
    rng = np.random.default_rng(0)
    columns = {"i": np.arange(1000.0), "a": 50 + 3 * rng.standard_normal(1000), "b": rng.uniform(size=1000)}
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet", row_group_size=170)
    return tmp_path / "rows.parquet"


def numbers(path, **more):
    data = load(Data(name="vectors", path=path, standardize=False, **more), seed=more.pop("seed", 0))
    return data.train[:, 0].astype(int), data.validation[:, 0].astype(int)


def test_split_is_disjoint_and_covers_all_rows(table):
    train, validation = numbers(table, validation_fraction=0.25)
    assert (len(train), len(validation)) == (750, 250)
    assert sorted([*train, *validation]) == list(range(1000))
    assert (np.diff(train) != 1).any()


def test_rows_stay_whole(table):
    source = pq.read_table(table).to_pydict()
    data = load(Data(name="vectors", path=table, standardize=False), seed=3)
    where = data.train[:, 0].astype(int)
    assert (data.train[:, 1] == np.array(source["a"], dtype=np.float32)[where]).all()


def test_same_seed_same_rows_and_another_seed_others(table):
    config = Data(name="vectors", path=table)
    first, again, other = load(config, 1), load(config, 1), load(config, 2)
    assert (first.train == again.train).all()
    assert (first.validation == again.validation).all()
    assert (first.train != other.train).any()


def test_the_first_n_do_not_depend_on_n_or_batches(table, monkeypatch):
    few, _ = numbers(table, n=100, validation_fraction=0.0)
    monkeypatch.setattr("ndsm.data.tables.BATCH_VALUES", 7)
    every, _ = numbers(table, validation_fraction=0.0)
    assert (few == every[:100]).all()


@pytest.mark.parametrize("name", ["vectors", "arcs", "rings", "checkerboard", "gaussians"])
def test_standardised_training_rows_have_mean_0_and_variance_1(name, table):
    data = load(Data(name=name, path=table if name == "vectors" else None), seed=0)
    assert data.train.dtype == np.float32
    assert data.train.flags.c_contiguous
    assert data.validation.flags.c_contiguous
    assert data.train.mean(axis=0, dtype=np.float64) == pytest.approx(0.0, abs=1e-6)
    assert data.train.var(axis=0, dtype=np.float64) == pytest.approx(1.0, rel=1e-5)


def test_train_and_validation_share_one_array(table):
    data = load(Data(name="vectors", path=table), seed=0)
    assert data.train.base is data.validation.base
    assert data.train.base is not None


def test_scaling_is_undone(table):
    plain = load(Data(name="vectors", path=table, standardize=False), seed=0)
    scaled = load(Data(name="vectors", path=table), seed=0)
    assert np.allclose(scaled.scaling.invert(scaled.train), plain.train, rtol=1e-5, atol=1e-4)
    assert np.allclose(scaled.scaling.invert(scaled.validation), plain.validation, rtol=1e-5, atol=1e-4)
    assert scaled.scaling.invert(scaled.train).dtype == np.float32
    assert (plain.scaling.invert(plain.train) == plain.train).all()


def test_scaling_in_chunks_equals_scaling_at_once(monkeypatch):
    x = np.random.default_rng(1).normal(1e3, 2.0, size=(1001, 3)).astype(np.float32)
    monkeypatch.setattr("ndsm.data.scaling.CHUNK_VALUES", 30)
    scaling = Scaling.fit(x)
    assert scaling.mean == pytest.approx(x.mean(axis=0, dtype=np.float64), rel=1e-12)
    assert scaling.scale == pytest.approx(x.std(axis=0, dtype=np.float64), rel=1e-9)
    there = Scaling.from_json(scaling.to_json())
    assert (there.mean == scaling.mean).all()
    assert (there.scale == scaling.scale).all()
    wide = x.astype(np.float64)
    assert there.invert(there.apply_(wide.copy())) == pytest.approx(wide, rel=1e-12)


def test_digits_have_one_scale_and_keep_constant_pixels():
    data = load(Data(name="digits"), seed=0)
    assert data.train.shape == (1618, 64)
    assert data.validation.shape == (179, 64)
    assert len(np.unique(data.scaling.scale)) == 1
    assert (data.train[:, 0] == 0).all()
    assert data.train.var(axis=0, dtype=np.float64).mean() == pytest.approx(1.0, rel=1e-5)
    pixels = data.scaling.invert(data.train)
    assert pixels == pytest.approx(np.rint(pixels), abs=1e-4)
    assert set(data.train_labels) == set(range(10))
    assert data.schema.dimension_names[-1] == "pixel_7_7"


def test_toy_labels_go_with_their_rows():
    data = load(Data(name="arcs", n=2000), seed=0)
    assert (len(data.train), len(data.validation)) == (1800, 200)
    assert (data.toy.mode_of(data.scaling.invert(data.train)) == data.train_labels).all()
    assert (data.toy.mode_of(data.scaling.invert(data.validation)) == data.validation_labels).all()


def test_more_rows_than_there_are_is_an_input_error(table):
    with pytest.raises(InputError, match=r"data\.n is 1001, but .*rows\.parquet has 1000 rows"):
        load(Data(name="vectors", path=table, n=1001), seed=0)
    with pytest.raises(InputError, match=r"data\.n is 2000, but digits has 1797 rows"):
        load(Data(name="digits", n=2000), seed=0)


def test_a_constant_column_is_named(tmp_path):
    pq.write_table(pa.table({"a": [1.0, 2.0, 4.0], "b": [0.1, 0.1, 0.1]}), tmp_path / "c.parquet")
    with pytest.raises(InputError, match=r"c\.parquet: column 'b' is constant \(0\.1 in all 3"):
        load(Data(name="vectors", path=tmp_path / "c.parquet"), seed=0)
    config = Data(name="vectors", path=tmp_path / "c.parquet", standardize=False)
    assert (load(config, seed=0).train[:, 1] == np.float32(0.1)).all()


def test_a_column_that_float32_cannot_resolve_is_named(tmp_path):
    times = 1.7e9 + np.arange(1000.0)
    pq.write_table(pa.table({"a": np.arange(1000.0), "b": times}), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"column 'b' lies around 1\.7e\+09 .*float32's steps of 128"):
        load(Data(name="vectors", path=tmp_path / "t.parquet"), seed=0)


def test_too_few_training_rows_is_an_input_error(table):
    with pytest.raises(InputError, match="at least 2 training rows, found 1 of 2"):
        load(Data(name="vectors", path=table, n=2, validation_fraction=0.5), seed=0)


def test_labels_are_a_column_that_is_not_learned(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": [[0.0, 1.0], [2.0, 3.0]], "lab": [4, 5]}), path)
    data = load(Data(name="vectors", path=path, labels="lab", validation_fraction=0, standardize=False), 0)
    assert data.train.shape == (2, 2)
    np.testing.assert_array_equal(data.train_labels, data.train[:, 0] / 2 + 4)
    with pytest.raises(
        InputError, match=r"no column 'labb' of data\.labels, found 'x', 'lab'; perhaps you meant"
    ):
        load(Data(name="vectors", path=path, labels="labb"), 0)
    np.save(tmp_path / "t.npy", np.zeros((3, 2)))
    with pytest.raises(InputError, match=r"data\.labels is given, but a \.npy file has no named columns"):
        load(Data(name="vectors", path=tmp_path / "t.npy", labels="lab"), 0)


def test_numbers_that_are_no_steps_are_not_dequantised(tmp_path):
    """What is generated comes back as multiples of the step: other numbers would be lost without a word."""
    path = tmp_path / "prices.csv"
    prices = np.column_stack([np.arange(40) % 7, np.arange(40) * 0.25])
    np.savetxt(path, prices, delimiter=",", header="count,price", comments="")
    with pytest.raises(
        InputError, match=r"data\.dequantize: expected multiples of 1 in .*, found \d\.\d+ in column 'price'"
    ):
        load(Data(name="vectors", path=path, dequantize=1.0), seed=0)
    found = load(Data(name="vectors", path=path, dequantize=0.25), seed=0)
    rows = quantised(found.scaling.invert(found.train), 0.25)
    assert set(map(tuple, rows)) <= set(map(tuple, prices.astype(np.float32)))


def test_grey_levels_of_a_rounded_width_are_steps():
    levels = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
    check_steps(levels, 0.0039215686, ["pixel"], "images")


def test_columns_are_not_chosen_from_a_folder_of_images(tmp_path):
    with pytest.raises(InputError, match=r"data\.columns: expected none for the folder of images"):
        load(Data(name="images", path=tmp_path, columns=("a",)), seed=0)
