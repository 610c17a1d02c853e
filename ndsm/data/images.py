"""Rows as images, and images read from files: a folder of them, or a Parquet column of encoded ones, in grey levels in [0, 1]."""

import io
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ndsm.data.table_formats import readable, unreadable
from ndsm.data.table_schema import TableSchema
from ndsm.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
OTHER_SUFFIXES = (
    ".gif", ".heic", ".heif", ".avif", ".jfif", ".jp2", ".j2k", ".jxl", ".pbm", ".pgm", ".ppm", ".pnm", ".tga", ".ico", ".psd",
    ".dcm", ".exr", ".hdr", ".pcx", ".sgi", ".dds", ".svg",
)  # fmt: skip
"""Extensions of image formats that are not read; a file with one is an error."""
GREY = "L"
"""Pillow's mode name for 8-bit grey."""


def pixel_schema(side: int) -> TableSchema:
    """Columns of square images, pixel row by pixel row."""
    return TableSchema(tuple((f"pixel_{i}_{j}", "float") for i in range(side) for j in range(side)))


@dataclass(frozen=True, eq=False)
class ImageView:
    """How rows of a data set are seen as images of MNIST; these rows are the pixels."""

    root: Path
    """Folder that holds `MNIST/raw`."""
    symmetric: bool = False
    """Whether the labels tell turned and halved images (plus 10) from the others."""

    @property
    def real(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Training and held-out images, (N, 784) and (M, 784), where rows are something else than images."""
        return None

    def images(self, rows: np.ndarray) -> np.ndarray:
        """Rows in original units (n, d) as images, (n, 784) float32 in [0, 1]."""
        return np.asarray(rows, dtype=np.float32).clip(0.0, 1.0)


def load_images(
    path: Path, columns: tuple[str, ...] | None
) -> tuple[np.ndarray, np.ndarray | None, tuple[str, ...] | None, TableSchema]:
    """Images (n, side²) float32 in [0, 1], their classes (n,) int64 and the classes' names if there are any, and their columns.

    Args:
        path: a folder, whose images are read in the order of their names; if they lie in sub-folders, these are
            their classes, in the order of their names, or of the numbers that all of these are. Hidden files and folders and
            those of archives made on a Mac (`__MACOSX`) are passed over. Or a .parquet file with a column of encoded
            images: bytes, or a struct with `bytes`.
        columns: name of that column; not needed if there is only one.

    Raises:
        InputError: there are none, one is of another format, they are not all square, 8-bit grey and of one size, some lie beside the classes' folders,
            or a class has none.
    """
    labels: np.ndarray | None = None
    names: tuple[str, ...] | None = None
    if path.is_dir():
        if columns is not None:
            raise InputError(
                f"data.columns: expected none for the folder of images {path}, found {', '.join(columns)}"
            )
        files = _image_files(path)
        classes = [child.name for child in _visible(path) if child.is_dir()]
        if any(file.parent != path for file in files):
            _check_classes(path, files, classes)
            names = tuple(sorted(classes, key=int) if all(name.isdecimal() for name in classes) else classes)
            numbers = {name: number for number, name in enumerate(names)}
            labels = np.array([numbers[file.relative_to(path).parts[0]] for file in files], dtype=np.int64)
        images = _stacked(((str(file), file) for file in files), path)
    elif path.suffix.lower() == ".parquet" and path.is_file():
        images = _stacked(_encoded(path, columns), path)
    else:
        raise InputError(f"data.path: expected a folder of images or a .parquet file, found {path}")
    return images, labels, names, pixel_schema(math.isqrt(images.shape[1]))


def _visible(folder: Path) -> list[Path]:
    """Entries of a folder sorted by name, without hidden ones and `__MACOSX`, which archives made on a Mac hold."""
    return sorted(child for child in folder.iterdir() if child.name[0] != "." and child.name != "__MACOSX")


def _image_files(folder: Path, above: frozenset[Path] = frozenset()) -> list[Path]:
    """The image files in a folder and its sub-folders; links are followed, but into no folder that is `above`.

    Raises:
        InputError: an image is of a format that is not read: leaving it out would change the law of the data.
    """
    files: list[Path] = []
    above |= {folder.resolve()}
    for child in _visible(folder):
        if child.is_dir():
            if child.resolve() not in above:
                files += _image_files(child, above)
        elif child.suffix.lower() in SUFFIXES:
            files.append(child)
        elif child.suffix.lower() in OTHER_SUFFIXES:
            raise InputError(
                f"{child}: expected images ({', '.join(SUFFIXES)}), found {child.suffix}; convert it or move it elsewhere"
            )
    return sorted(files)


def _check_classes(path: Path, files: list[Path], classes: list[str]) -> None:
    """Raise InputError if images lie beside the classes' folders, or a class has none."""
    if stray := [file.name for file in files if file.parent == path]:
        raise InputError(
            f"{path}: expected all images in the classes' folders {', '.join(classes[:5])}, found "
            f"{', '.join(map(repr, stray[:5]))} beside them; move {'it' if len(stray) == 1 else 'them'} elsewhere"
        )
    filled = {file.relative_to(path).parts[0] for file in files}
    if empty := [name for name in classes if name not in filled]:
        raise InputError(
            f"{path}: expected images ({', '.join(SUFFIXES)}) in each class's folder, found none in {empty[0]!r}"
        )


def _encoded(path: Path, columns: tuple[str, ...] | None) -> Iterator[tuple[str, io.BytesIO]]:
    """Name and content of each image of a Parquet file."""
    with readable(partial(unreadable, path, "Parquet")):
        file = pq.ParquetFile(path)
        schema = file.schema_arrow

    def holds_images(kind: pa.DataType) -> bool:
        if pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0:
            kind = kind.field("bytes").type
        return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)

    image_columns = [field.name for field in schema if holds_images(field.type)]
    chosen = [name for name in image_columns if columns is None or name in columns]
    if len(chosen) != 1 or (columns is not None and len(columns) != 1):
        raise InputError(
            f"{path}: expected one column of encoded images (data.columns names it), found "
            f"{', '.join(columns or image_columns) or 'none'}"
        )
    number = 0
    with readable(partial(unreadable, path, "Parquet")):
        for batch in file.iter_batches(columns=chosen):
            for value in batch.column(0).to_pylist():
                content = value["bytes"] if isinstance(value, dict) else value
                if content is None:
                    raise InputError(
                        f"{path}: expected an image in row {number} of column {chosen[0]!r}, found none"
                    )
                yield f"{path}, row {number}", io.BytesIO(content)
                number += 1


def _stacked(sources: Iterable[tuple[str, Path | io.BytesIO]], where: Path) -> np.ndarray:
    """The images of all sources, each with its name, (n, side²)."""
    # Imported here because it is slow to import and only images need it.
    from PIL import Image, ImageOps, UnidentifiedImageError

    pixels: list[np.ndarray] = []
    side = 0
    for name, source in sources:
        try:
            with Image.open(source) as image:
                frames = getattr(image, "n_frames", 1)
                # Apply the camera's orientation tag, as image viewers do.
                upright = ImageOps.exif_transpose(image)
                mode, size = upright.mode, upright.size
                grey = upright if mode == GREY else _grey_webp(image.format, upright)
                pixels.append(np.empty(0, np.uint8) if grey is None else np.asarray(grey, dtype=np.uint8))
        # Pillow raises many different types for damaged files.
        except Exception as error:
            # For an image in memory, Pillow's own message names the Python object.
            unknown = isinstance(error, UnidentifiedImageError)
            reason = "none that Pillow knows" if unknown else " ".join(str(error).split())[:200]
            raise InputError(f"{name}: expected an image, found {reason}") from None
        side = side or size[0]
        if frames > 1:
            raise InputError(f"{name}: expected one image, found {frames} in the file")
        if not pixels[-1].size or size != (side, side):
            raise InputError(
                f"{name}: expected 8-bit grey (mode {GREY}), square and as large as the first image, {side}x{side}; "
                f"found mode {mode}, {size[0]}x{size[1]}"
            )
    if not pixels:
        raise InputError(f"{where}: expected images ({', '.join(SUFFIXES)}), found none")
    return np.stack(pixels).reshape(len(pixels), side * side).astype(np.float32) / 255.0


def _grey_webp(format: str | None, image: Any) -> Any:
    """Grey image of a WebP file whose three channels are equal (WebP has no grey mode), None for other images."""
    if format != "WEBP" or image.mode != "RGB":
        return None
    red, green, blue = image.split()
    return red if red.tobytes() == green.tobytes() == blue.tobytes() else None
