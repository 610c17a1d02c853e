"""Data sources by name. A new one is a loader in a file of its own and a line in `SOURCES`."""

from collections.abc import Callable

import numpy as np

from ndsm.config import Data
from ndsm.core.rng import numpy_stream
from ndsm.core.uris import at_home
from ndsm.data.dataset import Dataset
from ndsm.data.dequantising import check_steps, dequantised
from ndsm.data.images import load_images, pixel_schema
from ndsm.data.mnist import load_mnist_pixels
from ndsm.data.scaling import Scaling
from ndsm.data.shuffling import place, shuffled_positions, training_rows
from ndsm.data.standardising import scale_
from ndsm.data.table_schema import TableSchema
from ndsm.data.table_source import load_table
from ndsm.data.toys import TOYS, Toy, make_toy
from ndsm.errors import InputError

Loader = Callable[[Data, int, Scaling | None], Dataset]
"""Loads the rows of a source; the arguments are those of `load`."""

TOY_ROWS = 10_000
"""Points drawn from a toy if data.n is not given."""


def load_digits(config: Data, seed: int, scaling: Scaling | None) -> Dataset:
    """Load scikit-learn's handwritten digits of 8x8 pixels."""
    from sklearn.datasets import load_digits as sklearn_digits  # slow to import, and only digits need it

    digits = sklearn_digits()
    return _shuffled(config, seed, scaling, "digits", digits.data, digits.target, pixel_schema(8), True)


def load_own_images(config: Data, seed: int, scaling: Scaling | None) -> Dataset:
    """Load the images in the folder or file at `data.path`; the labels are the sub-folders."""
    if config.path is None:
        raise InputError("data.path is missing: data.name 'images' needs a folder or a .parquet file")
    images, classes, names, schema = load_images(at_home(config.path, "data.path"), config.columns)
    return _shuffled(config, seed, scaling, config.path, images, classes, schema, True, class_names=names)


def load_toy(config: Data, seed: int, scaling: Scaling | None) -> Dataset:
    """Draw points from a two-dimensional toy; the labels are its modes."""
    toy = make_toy(config.name)
    points, modes = toy.sample(config.n or TOY_ROWS, numpy_stream(seed, "toy"))
    schema = TableSchema((("x0", "float"), ("x1", "float")))
    return _shuffled(config, seed, scaling, config.name, points, modes, schema, False, toy=toy)


SOURCES: dict[str, Loader] = {
    "vectors": load_table,
    "images": load_own_images,
    "digits": load_digits,
    "mnist": load_mnist_pixels,
    "c2-mnist": load_mnist_pixels,
    **dict.fromkeys(TOYS, load_toy),
}
"""Loaders by `data.name`; packages above add theirs by `register`."""


def register(name: str, loader: Loader) -> None:
    """Add a data source that needs more than this package has, such as a trained network."""
    SOURCES[name] = loader


def load(config: Data, seed: int, scaling: Scaling | None = None) -> Dataset:
    """Load the data set of a configuration, shuffled and split by the seed; the scaling is fitted on `train`.

    The shuffle comes before data.n and the split, so that neither depends on the order of the file. A table takes
    n * d * 4 bytes for its rows, whatever its numbers' type, 4 bytes per row of the file for the shuffle and up to
    about 100 MB for the batch in flight (pages of a mapped Arrow file come on top, but the system can drop them).
    Images get one scale for all pixels, see `Scaling.fit`.

    Args:
        config: the `data` section.
        seed: of the shuffle, a toy's points and the whitening.
        scaling: the scaling of a run that was begun with these rows, in place of a new fit: another machine's fit
            may differ in the last bits.

    Raises:
        InputError: the file is missing, unreadable or holds something else than finite numbers; there are
            fewer rows than data.n; a dimension is constant and data.standardize is true; the rows do not suit
            data.whiten, see `fit_whitening`.
    """
    if config.name not in SOURCES:
        raise InputError(
            f"data.name: expected a registered source ({', '.join(SOURCES)}), found {config.name!r}; "
            "ndsm.vision registers mnist-latent when it is imported"
        )
    return SOURCES[config.name](config, seed, scaling)


def _shuffled(
    config: Data,
    seed: int,
    scaling: Scaling | None,
    source: str,
    values: np.ndarray,
    labels: np.ndarray | None,
    schema: TableSchema,
    one_scale: bool,
    toy: Toy | None = None,
    class_names: tuple[str, ...] | None = None,
) -> Dataset:
    """The data set of rows (n, d) and labels (n,) in memory."""
    position = shuffled_positions(len(values), config.n, source, seed)
    rows = place(values, position, config.n)
    labels = None if labels is None else place(labels, position, config.n)
    if config.dequantize is not None:
        check_steps(rows, config.dequantize, schema.dimension_names, source)
        rows = dequantised(rows, config.dequantize, numpy_stream(seed, "dequantize"))
    cut = training_rows(config, len(rows), source)
    train, validation = rows[:cut], rows[cut:]
    scaling, stamp = scale_(
        config, train, validation, schema.dimension_names, source, seed, one_scale, scaling
    )
    return Dataset(
        train=train,
        validation=validation,
        scaling=scaling,
        schema=schema,
        stamp=stamp,
        train_labels=None if labels is None else labels[:cut],
        validation_labels=None if labels is None else labels[cut:],
        toy=toy,
        class_names=class_names,
    )
