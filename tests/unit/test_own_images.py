"""A user's own images, from a folder and from Parquet, and what is refused."""

import contextlib
import io
import warnings

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ndsm.config import Data
from ndsm.data import load
from ndsm.data.images import load_images
from ndsm.errors import InputError
from ndsm.experiment import describe_data


def picture(k, side=8, mode="L"):
    """An image that tells its number: pixel (0, 0) is k."""
    pixels = np.full((side, side), 200, np.uint8)
    pixels[0, 0] = k
    return Image.fromarray(pixels).convert(mode)


def encoded(image):
    stream = io.BytesIO()
    image.save(stream, "png")
    return stream.getvalue()


def fill(folder, names):
    for k, name in enumerate(names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        picture(k).save(path)


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    fill(tmp_path, ["b.png", "a.PNG", "c.bmp"])
    (tmp_path / "notes.txt").write_text("no image", encoding="utf-8")
    images, labels, _, schema = load_images(tmp_path, None)
    assert images.dtype == np.float32
    np.testing.assert_array_equal(np.rint(255 * images[:, 0]), [1, 0, 2])
    assert images[0, 1] == pytest.approx(200 / 255)
    assert labels is None
    assert schema.dimension_names[8] == "pixel_1_0"


def test_sub_folders_are_classes(tmp_path):
    fill(tmp_path, ["cat/1.png", "ape/1.png", "cat/2.png"])
    images, labels, names, _ = load_images(tmp_path, None)
    np.testing.assert_array_equal(labels, [0, 1, 1])
    np.testing.assert_array_equal(np.rint(255 * images[:, 0]), [1, 0, 2])
    assert names == ("ape", "cat")


def test_sub_folders_that_are_numbers_are_classes_in_their_order(tmp_path):
    fill(tmp_path, [f"{k}/1.png" for k in range(12)])
    data = load(Data(name="images", path=tmp_path, validation_fraction=0.0), 0)
    numbers = np.rint(255 * data.scaling.invert(data.train)[:, 0])
    np.testing.assert_array_equal(data.train_labels, numbers)
    assert describe_data(data, "")["class_names"] == [str(k) for k in range(12)]


@pytest.mark.parametrize(
    "wrap", [lambda x: x, lambda x: {"bytes": x, "path": "p"}, lambda x: pa.scalar(x, pa.large_binary())]
)
def test_a_parquet_column_of_bytes_or_of_structs_is_read(tmp_path, wrap):
    path = tmp_path / "images.parquet"
    pq.write_table(pa.table({"n": [0, 1], "image": [wrap(encoded(picture(k))) for k in (5, 6)]}), path)
    for columns in (None, ("image",)):
        images, labels, *_ = load_images(path, columns)
        np.testing.assert_array_equal(np.rint(255 * images[:, 0]), [5, 6])
        assert labels is None


def test_images_are_split_and_scaled_like_digits(tmp_path):
    fill(tmp_path, [f"{k % 2}/{k}.png" for k in range(20)])
    data = load(Data(name="images", path=tmp_path, validation_fraction=0.2), 0)
    assert (data.train.shape, data.validation.shape) == ((16, 64), (4, 64))
    numbers = np.rint(255 * data.scaling.invert(data.train)[:, 0]).astype(int)
    np.testing.assert_array_equal(data.train_labels, numbers % 2)
    assert data.train.var(0).mean() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (picture(1, side=9), "found mode L, 9x9"),
        (picture(1, mode="RGB"), "found mode RGB, 8x8"),
        (picture(1).resize((8, 4)), "found mode L, 8x4"),
    ],
)
def test_images_of_another_size_or_mode_are_refused(tmp_path, other, found):
    fill(tmp_path, ["a.png"])
    other.save(tmp_path / "b.png")
    with pytest.raises(InputError, match=rf"b\.png: expected 8-bit grey .* 8x8; {found}"):
        load_images(tmp_path, None)


def test_a_damaged_image_is_one_sentence_whatever_its_reader_meets(tmp_path):
    """Among what Pillow raises are OSError, ValueError, SyntaxError and more."""
    rng = np.random.default_rng(0)
    for kind in ("png", "tiff"):
        whole = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (8, 8)).astype(np.uint8)).save(whole, kind)
        for _ in range(200):
            content = bytearray(whole.getvalue())
            content[rng.integers(len(content))] = rng.integers(256)
            (tmp_path / "a.png").write_bytes(content)
            with contextlib.suppress(InputError), warnings.catch_warnings(action="ignore"):
                load_images(tmp_path, None)


def test_what_holds_no_images_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"expected images \(\.png, .*found none"):
        load_images(tmp_path, None)
    with pytest.raises(
        InputError, match=r"data\.path: expected a folder of images or a \.parquet file, found .*x\.csv"
    ):
        load_images(tmp_path / "x.csv", None)
    (tmp_path / "a.png").write_bytes(b"not one")
    with pytest.raises(InputError, match=r"a\.png: expected an image, found"):
        load_images(tmp_path, None)
    table = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a": [b"x"], "b": [b"y"]}), table)
    with pytest.raises(InputError, match=r"expected one column of encoded images .*, found a, b"):
        load_images(table, None)
    pq.write_table(pa.table({"a": [encoded(picture(1)), None]}), table)
    with pytest.raises(InputError, match=r"expected an image in row 1 of column 'a', found none"):
        load_images(table, None)
    pq.write_table(pa.table({"image": [{"bytes": "text"}]}), table)
    with pytest.raises(InputError, match=r"expected one column of encoded images .*, found none"):
        load_images(table, None)
    # Noise, which is stored as it is, with the pages' headers lost.
    noise = np.random.default_rng(0).bytes(1000)
    pq.write_table(pa.table({"image": [noise] * 50}), table, use_dictionary=False)
    table.write_bytes(table.read_bytes()[:4] + bytes(50) + table.read_bytes()[54:])
    with pytest.raises(InputError, match="is not readable as Parquet"):
        load_images(table, None)
    table.write_bytes(b"no table")
    with pytest.raises(InputError, match="is not readable as Parquet"):
        load_images(table, None)
    with pytest.raises(InputError, match=r"data\.path is missing: data\.name 'images' needs"):
        load(Data(name="images"), 0)
