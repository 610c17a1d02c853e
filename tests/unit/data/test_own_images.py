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
from ndsm.workflows.setup import describe_data


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


def test_what_systems_and_tools_leave_in_a_folder_is_passed_over(tmp_path):
    """Jupyter's checkpoints, a Mac's resource forks and folders of archives are neither images nor classes."""
    fill(tmp_path, ["ape/1.png", "cat/1.PNG", ".ipynb_checkpoints/1-checkpoint.png", ".hidden.png"])
    for name in ("._1.png", ".DS_Store", "cat/._1.png", "__MACOSX/cat/._1.png", "__MACOSX/cat/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    images, labels, names, _ = load_images(tmp_path, None)
    np.testing.assert_array_equal(np.rint(255 * images[:, 0]), [0, 1])
    np.testing.assert_array_equal(labels, [0, 1])
    assert names == ("ape", "cat")


def test_an_image_beside_class_folders_and_an_empty_class_are_named(tmp_path):
    fill(tmp_path, ["ape/1.png", "cat/1.png", "overview.png"])
    with pytest.raises(
        InputError, match=r"in the classes' folders ape, cat, found 'overview\.png' beside them"
    ):
        load_images(tmp_path, None)
    (tmp_path / "overview.png").unlink()
    (tmp_path / "dog").mkdir()
    with pytest.raises(InputError, match=r"in each class's folder, found none in 'dog'"):
        load_images(tmp_path, None)
    # A folder without images is no class where there are none.
    fill(tmp_path / "ape", ["notes/a.txt.png"])
    (tmp_path / "ape" / "notes" / "a.txt.png").rename(tmp_path / "ape" / "notes" / "a.txt")
    assert load_images(tmp_path / "ape", None)[1] is None


@pytest.mark.parametrize("suffix", [".gif", ".pgm", ".jp2", ".HEIC"])
def test_an_image_of_a_format_that_is_not_read_is_not_left_out(tmp_path, suffix):
    for name in ("a.png", "b.png"):
        picture(1).save(tmp_path / name)
    (tmp_path / f"c{suffix}").write_bytes(b"x")
    with pytest.raises(
        InputError, match=rf"c{suffix}: expected images \(\.png.*found {suffix}; convert it or"
    ):
        load_images(tmp_path, None)


def test_images_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    fill(tmp_path / "own", ["a.png", "b.png", "c.png"])
    assert len(load(Data(name="images", path="~/own", standardize=False), seed=0).train) == 3


def test_linked_folders_are_read_once_and_circles_are_left(tmp_path):
    fill(tmp_path, ["store/1.png", "data/ape/1.png"])
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "back").symlink_to(tmp_path / "data")
    images, labels, names, _ = load_images(tmp_path / "data", None)
    assert names == ("ape", "cat")
    np.testing.assert_array_equal(labels, [0, 1])
    np.testing.assert_array_equal(np.rint(255 * images[:, 0]), [1, 0])


def test_grey_webp_is_read_and_coloured_is_not(tmp_path):
    picture(7).save(tmp_path / "a.webp", lossless=True)
    np.testing.assert_allclose(load_images(tmp_path, None)[0][0, :2] * 255, [7, 200])
    picture(7).save(tmp_path / "a.webp")
    np.testing.assert_allclose(load_images(tmp_path, None)[0][0, 1] * 255, 200, atol=8)
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[..., 0] = 200
    Image.fromarray(pixels).save(tmp_path / "a.webp", lossless=True)
    with pytest.raises(InputError, match=r"a\.webp: expected 8-bit grey .*found mode RGB"):
        load_images(tmp_path, None)


def test_an_image_is_read_as_it_was_held_and_several_in_a_file_are_refused(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3  # Turned by half a turn.
    picture(7).save(tmp_path / "a.png", exif=exif)
    image = load_images(tmp_path, None)[0][0]
    np.testing.assert_allclose(image[[0, -1]] * 255, [200, 7])
    (tmp_path / "a.png").unlink()
    picture(1).save(tmp_path / "a.tif", save_all=True, append_images=[picture(2)])
    with pytest.raises(InputError, match=r"a\.tif: expected one image, found 2 in the file"):
        load_images(tmp_path, None)


@pytest.mark.parametrize(
    ("make", "mode"),
    [
        (lambda image: image.convert("RGBA"), "RGBA"),
        (lambda image: image.convert("P"), "P"),
        (lambda image: image.convert("1"), "1"),
        (lambda image: Image.fromarray(np.asarray(image).astype(np.uint16) * 256), "I;16"),
    ],
)
def test_other_kinds_of_pixels_are_one_sentence(tmp_path, make, mode):
    make(picture(1)).save(tmp_path / "a.PNG")
    with pytest.raises(InputError, match=rf"a\.PNG: expected 8-bit grey .*found mode {mode}, 8x8"):
        load_images(tmp_path, None)
