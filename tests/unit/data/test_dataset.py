"""Loading keeps every row once, standardises exactly and can be undone."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from quick_estimator import quick_estimator

from ndsm import NDSM
from ndsm.config import Config, Data, load_config
from ndsm.data import Scaling, load
from ndsm.data.dequantising import check_steps, quantised
from ndsm.data.scaling import Moments
from ndsm.errors import InputError
from ndsm.runs import Run
from ndsm.workflows.setup import prepare


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
    monkeypatch.setattr("ndsm.data.table_reader.BATCH_VALUES", 7)
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
    assert scaled.scaling.invert(scaled.train).dtype == np.float64
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
    assert there.invert(there.apply(x)) == pytest.approx(x.astype(np.float64), rel=1e-8)


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


def seconds(n=3000):
    """Whole seconds of one day of 2023, sorted as a log has them: float32 holds multiples of 128 there."""
    return np.sort(1_700_000_000 + np.random.default_rng(3).integers(0, 86_400, n))


@pytest.mark.parametrize("whiten", ["none", "within-mode"])
@pytest.mark.parametrize("suffix", ["parquet", "csv", "npy"])
def test_unix_seconds_come_back_to_the_second(tmp_path, suffix, whiten):
    path, when = tmp_path / f"t.{suffix}", seconds()
    table = pa.table({"when": when, "b": np.random.default_rng(4).normal(size=len(when))})
    if suffix == "parquet":
        pq.write_table(table, path)
    elif suffix == "csv":
        pa.csv.write_csv(table, path)
    else:
        np.save(path, np.column_stack([table["when"], table["b"]]))
    data = load(Data(name="vectors", path=path, whiten=whiten), seed=0)
    assert data.train.dtype == np.float32
    rows = np.concatenate([data.train, data.validation])
    found = data.scaling.invert(rows)[:, 0]
    np.testing.assert_allclose(np.sort(found), when, atol=0.1)
    assert data.scaling.mean[0] == pytest.approx(np.rint(data.scaling.invert(data.train)[:, 0]).mean(), abs=1)
    np.testing.assert_allclose(data.scaling.apply(data.scaling.invert(rows)), rows, atol=1e-5)


def test_noise_for_whole_numbers_does_not_round_them(tmp_path):
    when = seconds()
    pq.write_table(pa.table({"when": when, "b": np.arange(len(when)) % 7}), tmp_path / "t.parquet")
    data = load(Data(name="vectors", path=tmp_path / "t.parquet", dequantize=1.0, validation_fraction=0.0), 0)
    noisy = np.sort(data.scaling.invert(data.train)[:, 0])
    # Half of a second's share is left of the noise, whose mean is 0.5.
    np.testing.assert_allclose(noisy, when + 0.5, atol=1.1)
    assert abs((noisy - when).mean() - 0.5) < 0.05


def test_the_second_pass_changes_nothing_where_float32_holds_the_numbers(tmp_path):
    """float64 columns of numbers that float32 holds give the same bits as float32 columns."""
    x = np.random.default_rng(5).normal(7, 3, (2000, 3)).astype(np.float32)
    for kind in (np.float32, np.float64):
        np.save(tmp_path / f"{np.dtype(kind)}.npy", x.astype(kind))
    narrow, wide = (
        load(Data(name="vectors", path=tmp_path / f"{kind}.npy"), 1) for kind in ("float32", "float64")
    )
    np.testing.assert_array_equal(narrow.train, wide.train)
    assert narrow.stamp == wide.stamp
    assert narrow.scaling.to_json() == wide.scaling.to_json()


def test_known_scaling_gives_the_same_bits_and_an_older_runs_the_older_ones(table):
    """A run of before rows were centred in float64 goes on with the rows that it was begun with."""
    config = Data(name="vectors", path=table)
    first = load(config, 0)
    again = load(config, 0, Scaling.from_json(first.scaling.to_json()))
    assert again.stamp == first.stamp
    older = {key: value for key, value in first.scaling.to_json().items() if key != "precision"}
    rounded = load(config, 0, Scaling.from_json(older))
    plain = load(config.model_copy(update={"standardize": False}), 0).train.astype(np.float64)
    expected = ((plain - first.scaling.mean) / first.scaling.scale).astype(np.float32)
    np.testing.assert_array_equal(rounded.train, expected)
    assert rounded.stamp != first.stamp
    assert rounded.scaling.to_json() == older


def test_moments_of_batches_are_those_of_all_rows():
    x = np.random.default_rng(6).normal([1.7e9, 1e-30, 1e100], [3e3, 1e-31, 1e98], (5000, 3))
    moments = Moments()
    for start in range(0, len(x), 700):
        moments.add(x[start : start + 700])
    assert moments.n == len(x)
    np.testing.assert_allclose(moments.mean, x.mean(0), rtol=1e-12)
    np.testing.assert_allclose(np.sqrt(moments.variance), x.std(0), rtol=1e-9)
    assert moments.varies.all()


def test_what_no_precision_can_resolve_is_named(tmp_path):
    path, rng = tmp_path / "t.parquet", np.random.default_rng(0)
    cases = {
        # Of seconds that are stored as float32.
        r"column 'b' lies around 1\.7e\+09 .*float32's steps of 128": (1.7e9 + 40 * np.arange(50)).astype(
            np.float32
        ),
        r"column 'b' lies around 1e\+15 .*float64's steps of 0\.125": 1e15 + rng.normal(size=50),
        r"column 'b' has numbers as large as .*, whose variance no float64 holds": 1e300
        * rng.normal(size=50),
    }
    for sentence, numbers in cases.items():
        pq.write_table(pa.table({"a": np.arange(50, dtype=np.float32), "b": numbers}), path)
        with pytest.raises(InputError, match=sentence):
            load(Data(name="vectors", path=path), seed=0)
    pq.write_table(pa.table({"a": np.arange(50.0), "b": 1.7e9 + 40 * np.arange(50)}), path)
    with pytest.raises(InputError, match=r"float32's steps of 128 .*set data\.standardize to true"):
        load(Data(name="vectors", path=path, standardize=False), seed=0)
    pq.write_table(pa.table({"a": [1.0, 1e39, 2.0]}), path)
    with pytest.raises(InputError, match=r"column 'a', row 2 .*finite in float32, found 1e\+39"):
        load(Data(name="vectors", path=path, standardize=False), seed=0)


def test_what_float32_or_a_variance_has_no_room_for_is_named(tmp_path):
    path, rng = tmp_path / "t.parquet", np.random.default_rng(0)
    cases = [
        # Rounded to float32, these would be constants.
        (
            1e-60 * rng.normal(size=50),
            False,
            r"around .*float32's steps of 1\.4e-45 .*set data\.standardize to true",
        ),
        (7 + 1e-9 * rng.normal(size=50), False, r"around 7 .*float32's steps of 4\.77e-07"),
        (
            2**63 + np.arange(50, dtype=np.uint64),
            True,
            r"'b' is constant .*in float64, whose steps there are 2048\)",
        ),
        (
            1e-200 * rng.normal(size=50),
            True,
            r"'b' has numbers around .*variance is too small .*multiply them",
        ),
    ]
    for numbers, standardize, sentence in cases:
        pq.write_table(pa.table({"a": np.arange(50.0), "b": numbers}), path)
        with pytest.raises(InputError, match=sentence):
            load(Data(name="vectors", path=path, standardize=standardize), seed=0)
    with pytest.raises(InputError, match=r"X: column 'x1' lies around .*float32's steps of 1\.4e-45"):
        NDSM(2, config=Config(data=Data(standardize=False))).fit(
            np.c_[np.arange(50.0), 1e-60 * rng.normal(size=50)]
        )
    # A constant has nothing to lose by rounding, though the mean's own rounding gives it a variance.
    pq.write_table(pa.table({"a": np.arange(50.0), "b": np.full(50, 0.1)}), path)
    assert (
        load(Data(name="vectors", path=path, standardize=False), seed=0).train[:, 1] == np.float32(0.1)
    ).all()


def test_true_false_and_dates_of_a_file_are_learned_as_numbers(tmp_path):
    days = np.arange(40) % 7
    flags = np.arange(40) % 3 == 0
    pq.write_table(
        pa.table({"flag": flags, "day": pa.array((18262 + days).tolist(), pa.date32())}),
        tmp_path / "t.parquet",
    )
    found = load(Data(name="vectors", path=tmp_path / "t.parquet", validation_fraction=0), seed=0)
    assert found.schema.columns == (("flag", "bool"), ("day", "date32[day]"))
    rows = np.rint(found.scaling.invert(found.train))
    assert sorted(map(tuple, rows)) == sorted(zip(flags.astype(float), 18262.0 + days, strict=True))


def test_columns_that_outliers_squeeze_are_named(tmp_path):
    """Of 300 rows 2 are at 1e5: beside a standard deviation of 8,138 the counts from 0 to 12 lie within .0015 of it."""
    rng = np.random.default_rng(0)
    counts = np.arange(300) % 13
    counts[[5, 250]] = 100_000
    frame = pa.table({"rate": rng.normal(size=300), "count": counts, "rare": np.arange(300) == 7})
    pq.write_table(frame, tmp_path / "t.parquet")
    sentence = r"in column 'count' lie within 0\.0015 of its standard deviation, .* up to 12\.2 of them from"
    fields = {"data.path": tmp_path / "t.parquet", "data.validation_fraction": 0.0}
    (notice,) = prepare(load_config("table-langevin", fields), Run(tmp_path / "run")).notices
    assert re.search(sentence, notice)
    for harmless in ({"data.columns": ("rate", "rare")}, {"data.standardize": False}):
        assert prepare(load_config("table-langevin", fields | harmless), Run(tmp_path / "run")).notices == []
    with pytest.warns(UserWarning, match=sentence):
        quick_estimator().fit(frame)


def test_too_few_training_rows_is_an_input_error(table):
    with pytest.raises(InputError, match="at least 2 training rows, found 1 of 2"):
        load(Data(name="vectors", path=table, n=2, validation_fraction=0.5), seed=0)


def test_labels_are_a_column_that_is_not_learned(tmp_path):
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"x": [[0.0, 1.0], [2.0, 3.0]], "lab": [4, 5]}), path)
    data = load(Data(name="vectors", path=path, labels="lab", validation_fraction=0, standardize=False), 0)
    assert data.train.shape == (2, 2)
    assert [data.labels.values[k] for k in data.train_labels] == (data.train[:, 0] / 2 + 4).tolist()
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
