"""MNIST and its approximately symmetric variant (section 5.1 of the paper), as rows of 784 pixels in [0, 1]."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ndsm.config import Data
from ndsm.core.rng import numpy_stream
from ndsm.data.dataset import Dataset
from ndsm.data.dequantising import check_steps, dequantised
from ndsm.data.images import ImageView, pixel_schema
from ndsm.data.scaling import Scaling
from ndsm.data.shuffling import place, shuffled_positions
from ndsm.data.standardising import scale_
from ndsm.data.table_schema import TableSchema
from ndsm.errors import InputError

SIDE = 28
_KINDS = ("images-idx3", "labels-idx1")
MNIST_SCHEMA = pixel_schema(SIDE)


class LabelledImages(NamedTuple):
    """Images (n, d) float32 in [0, 1] and labels (n,) int64."""

    images: np.ndarray
    labels: np.ndarray


def load_mnist_pixels(config: Data, seed: int, scaling: Scaling | None) -> Dataset:
    """Load `mnist` or `c2-mnist`; the labels are the digits, plus 10 for images that were turned and halved."""
    symmetric = config.name == "c2-mnist"

    def change(split: str, source: LabelledImages) -> LabelledImages:
        images, changed = halve_and_turn(source.images, numpy_stream(seed, f"c2 {split}"))
        return LabelledImages(images, source.labels + 10 * changed)

    return dataset_of_splits(
        config,
        seed,
        scaling,
        mnist_splits(config.root),
        ImageView(config.root, symmetric),
        MNIST_SCHEMA,
        change if symmetric else None,
    )


def mnist_splits(root: Path) -> dict[str, LabelledImages]:
    """MNIST's training and test images, by "train" and "test"; errors as of `load_mnist`."""
    return {split: load_mnist(root, split == "train") for split in ("train", "test")}


def dataset_of_splits(
    config: Data,
    seed: int,
    scaling: Scaling | None,
    splits: Mapping[str, LabelledImages],
    view: ImageView,
    schema: TableSchema,
    change: Callable[[str, LabelledImages], LabelledImages] | None = None,
) -> Dataset:
    """The data set with MNIST's own splits, each shuffled.

    Args:
        config, seed, scaling: as of `ndsm.data.load`.
        splits: images by "train" and "test".
        view: how the rows are seen as images.
        schema: columns of the rows; pixels get one scale, others one each.
        change: what makes the rows of a split, given its name; they are the images if None.
    """
    rows, labels = {}, {}
    for split, source in splits.items():
        values, digits = source if change is None else change(split, source)
        n = config.n if split == "train" else None
        position = shuffled_positions(len(values), n, config.name, seed)
        rows[split], labels[split] = place(values, position, n), place(digits, position, n)
        if config.dequantize is not None:
            check_steps(rows[split], config.dequantize, schema.dimension_names, config.name)
            noise = numpy_stream(seed, f"dequantize {split}")
            rows[split] = dequantised(rows[split], config.dequantize, noise)
    train, test = rows["train"], rows["test"]
    scaling, stamp = scale_(
        config, train, test, schema.dimension_names, config.name, seed, schema is MNIST_SCHEMA, scaling
    )
    return Dataset(train, test, scaling, schema, stamp, labels["train"], labels["test"], toy=None, view=view)


def load_mnist(root: Path, train: bool) -> LabelledImages:
    """Images (n, 784) and digits of MNIST's training or test split.

    Args:
        root: folder that holds `MNIST/raw`; the files are downloaded into it if they are missing.

    Raises:
        InputError: they are missing and cannot be downloaded, or damaged.
    """
    # Imported here because it is slow to import and only images need it.
    from torchvision.datasets import MNIST

    folder = root / "MNIST" / "raw"
    advice = "point data.root at a folder that has them, or let them be downloaded there"
    try:
        split = MNIST(str(root), train=train, download=not _has_files(folder))
        images, digits = split.data.numpy(), split.targets.numpy()
    # torchvision's reader checks a file's header by assertions.
    except (OSError, RuntimeError, ValueError, AssertionError) as error:
        files = "damaged ones; delete them" if _has_files(folder) else "none"
        reason = " ".join(str(error).split())[:200] or "not an IDX file"
        raise InputError(
            f"data.root: expected MNIST's files in {folder}, found {files}: {advice} ({reason})"
        ) from None
    rows = images.reshape(len(images), SIDE * SIDE).astype(np.float32)
    rows /= 255.0
    return LabelledImages(rows, digits.astype(np.int64))


def mnist_files(root: Path) -> list[Path]:
    """Paths of the files that `load_mnist` reads, which are downloaded if they are missing; errors as of `load_mnist`."""
    folder = root / "MNIST" / "raw"
    if not _has_files(folder):
        load_mnist(root, True)
    return _files(folder)


def _files(folder: Path) -> list[Path]:
    return [folder / f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in _KINDS]


def _has_files(folder: Path) -> bool:
    return all(file.is_file() for file in _files(folder))


def turned(images: np.ndarray) -> np.ndarray:
    """Images (n, 784) turned by 180°."""
    return images[:, ::-1]


def halved(images: np.ndarray) -> np.ndarray:
    """Images (n, 784) at half their size, in the middle."""
    half, margin = SIDE // 2, SIDE // 4
    out = np.zeros((len(images), SIDE, SIDE), dtype=np.float32)
    out[:, margin : margin + half, margin : margin + half] = images.reshape(-1, half, 2, half, 2).mean((2, 4))
    return out.reshape(-1, SIDE * SIDE)


def halve_and_turn(images: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Approx.-C2-MNIST: each image, with probability 1/2, turned by 180° and resized to half its size in the middle.

    Args:
        images: (n, 784), left as they are.
        generator: decides which.

    Returns:
        The images, (n, 784), and which of them were changed, (n,) int64 of 0 and 1.
    """
    changed = generator.random(len(images)) < 0.5
    out = images.copy()
    out[changed] = halved(turned(images[changed]))
    return out, changed.astype(np.int64)
