"""The rows a model learns from: shuffled, split, scaled and perhaps whitened, with one copy in memory.

A table is streamed into its final array: each record batch is scattered to its rows' shuffled positions, the
training and validation rows are slices of that array. Numbers that float32 has no room for are standardised in their
batches, in float64 and in a second pass; others in place. The shuffle comes first so that neither data.n nor the split
depends on the order of the file.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow as pa

from ndsm.config import Data
from ndsm.core.hashing import fingerprint
from ndsm.core.rng import numpy_stream
from ndsm.core.symmetry import GROUPS
from ndsm.core.uris import at_home
from ndsm.data.images import load_images, pixel_schema
from ndsm.data.labels import Labels
from ndsm.data.mnist import (
    LATENT_SCHEMA,
    MNIST_SCHEMA,
    ImageView,
    halve_and_turn,
    latent_view,
    load_mnist,
)
from ndsm.data.scaling import Moments, Scaling, check_resolution, mean_and_variance, varying
from ndsm.data.standardising import Read, standardised_rows
from ndsm.data.tables import Table, TableSchema, open_table, read_labels
from ndsm.data.toys import Toy, make_toy
from ndsm.data.whitening import fit_whitening
from ndsm.errors import InputError
from ndsm.vision.pretrained import LabelledImages

TOY_ROWS = 10_000
"""Points drawn from a toy if data.n is not given."""

PLACED_ROWS = 5_000
"""Rows that are moved to their places at once."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and validation rows in model units, and the way back to the source's units and columns."""

    train: np.ndarray
    """(N, d) float32, C-contiguous."""
    validation: np.ndarray
    """(M, d) float32, C-contiguous; M may be 0."""
    scaling: Scaling
    """From model units to the source's."""
    schema: TableSchema
    """The source's columns."""
    stamp: str
    """Hash of all rows in standardised units: a whitened row's last bit may depend on the machine."""
    train_labels: np.ndarray | None
    """(N,) int64: the digit or the toy's mode."""
    validation_labels: np.ndarray | None
    """(M,) int64, as train_labels."""
    toy: Toy | None
    """The true law of a toy, in original units."""
    view: ImageView | None = None
    """How MNIST's rows are seen as images."""
    class_names: tuple[str, ...] | None = None
    """Names of the labels: a folder's sub-folders."""
    labels: Labels | None = None
    """What the labels of a table are, by their numbers."""
    left_out: tuple[str, ...] = ()
    """Columns of the table that are the index of a data frame, and not learned."""

    @property
    def label_count(self) -> int:
        """Different labels, 0 if there are none."""
        if self.labels is not None or self.class_names is not None:
            return len(self.labels.values if self.labels is not None else self.class_names or ())
        parts = [
            part for part in (self.train_labels, self.validation_labels) if part is not None and len(part)
        ]
        return max((int(part.max()) + 1 for part in parts), default=0)

    @property
    def notice(self) -> str | None:
        """What has to be said of columns that are not learned though nobody asked for it."""
        if not self.left_out:
            return None
        names = ", ".join(map(repr, self.left_out))
        return (
            f"not learned, since it is the index of a pandas data frame: {names}; data.columns can take it in"
        )


def load(config: Data, seed: int, scaling: Scaling | None = None) -> Dataset:
    """The data set of a configuration, shuffled and split by the seed; the scaling is fitted on `train`.

    A table takes n * d * 4 bytes for its rows, whatever its numbers' type, 4 bytes per row of the file for the shuffle and up to about
    100 MB for the batch in flight (pages of a mapped Arrow file come on top, but the system can drop them).
    Digits are images and get one scale for all pixels, see `Scaling.fit`.

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
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None
    toy: Toy | None = None
    if config.name in ("mnist", "mnist-latent", "c2-mnist"):
        return _load_mnist(config, seed, scaling)
    if config.name == "vectors":
        return _load_table(config, seed, scaling)
    if config.name == "digits":
        from sklearn.datasets import load_digits  # slow to import, and only digits need it

        digits = load_digits()
        position = _shuffled_positions(len(digits.data), config.n, "digits", seed)
        schema = pixel_schema(8)
        rows, labels = _place(digits.data, position, config.n), _place(digits.target, position, config.n)
        source = "digits"
    elif config.name == "images":
        if config.path is None:
            raise InputError("data.path is missing: data.name 'images' needs a folder or a .parquet file")
        images, classes, class_names, schema = load_images(at_home(config.path, "data.path"), config.columns)
        position, source = _shuffled_positions(len(images), config.n, "images", seed), config.path
        rows = _place(images, position, config.n)
        labels = None if classes is None else _place(classes, position, config.n)
    else:
        toy = make_toy(config.name)
        points, modes = toy.sample(config.n or TOY_ROWS, numpy_stream(seed, "toy"))
        position = _shuffled_positions(len(points), config.n, config.name, seed)
        schema = TableSchema((("x0", "float"), ("x1", "float")))
        rows, labels = _place(points, position, config.n), _place(modes, position, config.n)
        source = config.name

    if config.dequantize is not None:
        check_steps(rows, config.dequantize, schema.dimension_names, source)
        rows = dequantised(rows, config.dequantize, numpy_stream(seed, "dequantize"))
    cut = _training_rows(config, len(rows), source)
    train, validation = rows[:cut], rows[cut:]
    scaling, stamp = scale_(
        config,
        train,
        validation,
        schema.dimension_names,
        source,
        seed,
        config.name in ("digits", "images"),
        scaling,
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


def check_steps(rows: np.ndarray, width: float, names: Sequence[str], source: str) -> None:
    """Raise InputError unless all numbers of rows (n, d) are multiples of the width: other ones would come back as such."""
    for begin in range(0, len(rows), PLACED_ROWS):
        steps = rows[begin : begin + PLACED_ROWS].astype(np.float64) / width
        # A grey level k / 255 and the width 1 / 255 are both rounded.
        rounding = 1e-12 if rows.dtype == np.float64 else 1e-6
        wrong = np.abs(steps - np.rint(steps)) > 1e-3 + rounding * np.abs(steps)
        if wrong.any():
            row, column = (int(i) for i in np.argwhere(wrong)[0])
            raise InputError(
                f"data.dequantize: expected multiples of {width:g} in {source}, found "
                f"{rows[begin + row, column]:g} in column {names[column]!r}"
            )


def _training_rows(config: Data, rows: int, source: str) -> int:
    """How many of the shuffled rows are training rows.

    Raises:
        InputError: fewer than two.
    """
    cut = rows - int(rows * config.validation_fraction)
    if cut < 2:
        raise InputError(
            f"{source}: expected at least 2 training rows, found {cut} of {rows} rows beside "
            f"data.validation_fraction {config.validation_fraction}"
        )
    return cut


def dequantised(rows: np.ndarray, width: float, noise: np.random.Generator) -> np.ndarray:
    """Rows (n, d) with uniform noise in [0, width) added to every number; float64 if they are, else float32.

    Row after row takes the next numbers of `noise`: equal rows get different ones.
    """
    return _add_noise(rows.astype(np.float64 if rows.dtype == np.float64 else np.float32), width, noise)


def _add_noise(out: np.ndarray, width: float, noise: np.random.Generator) -> np.ndarray:
    """The same array (n, d), with the noise of `dequantised` added."""
    for begin in range(0, len(out), PLACED_ROWS):
        part = out[begin : begin + PLACED_ROWS]
        part += noise.uniform(0.0, width, part.shape)
    return out


def quantised(rows: np.ndarray, width: float) -> np.ndarray:
    """What the multiples of `width` were that `dequantised` made rows (n, d) of, in the rows' precision."""
    return (np.floor(rows.astype(np.float64) / width) * width).astype(rows.dtype)


def scale_(
    config: Data,
    train: np.ndarray,
    validation: np.ndarray,
    names: Sequence[str],
    source: str,
    seed: int,
    one_scale: bool = False,
    known: Scaling | None = None,
) -> tuple[Scaling, str]:
    """Brings rows from original to model units in place; the scaling, and the hash of the standardised rows.

    Args:
        config: the `data` section; how rows are scaled.
        train: (N, d) rows, which the scaling is fitted on.
        validation: (M, d) rows.
        names: the d dimensions' names, for error messages.
        source: where the rows come from, for error messages.
        seed: of the whitening.
        one_scale: one scale for all dimensions, see `Scaling.fit`.
        known: the scaling to use in place of a new fit.

    Raises:
        InputError: the rows do not suit config.standardize or config.whiten, or `known` has another dimension.
    """
    if known is not None:
        scaling = _checked(known, train.shape[1], source)
    elif config.standardize:
        scaling = _symmetrised(config, Scaling.fit(train, names, source, one_scale=one_scale))
    else:
        check_resolution(*mean_and_variance(train), varying(train), names, source)
        scaling = Scaling.identity(train.shape[1])
    if known is not None or config.standardize:
        for part in (train, validation):
            scaling.standardise_(part)
    return whiten_(config, train, validation, names, source, seed, scaling, known is None)


def scaled_batches(
    config: Data,
    read: Read,
    position: np.ndarray,
    shape: tuple[int, int],
    cut: int,
    names: list[str],
    source: str,
    seed: int,
    known: Scaling | None = None,
) -> tuple[np.ndarray, Scaling, str]:
    """Rows in model units of rows that are read in float64 batches; with the scaling and the hash of `scale_`.

    Args:
        config: the `data` section, with `standardize` or `known`.
        read: one pass over the rows.
        position: place of each row, see `standardised_rows`.
        shape: (n, d) of what is returned; its first `cut` rows are the training rows.
        names, source, seed, known: as for `scale_`.

    Raises:
        InputError: as `scale_`.
    """
    out, width = np.zeros(shape, dtype=np.float32), config.dequantize
    if width is not None:
        for batch in read():
            check_steps(batch, width, names, source)
        _add_noise(out, width, numpy_stream(seed, "dequantize"))
    if known is not None:
        _checked(known, shape[1], source)
    scaling = standardised_rows(
        read, position, cut, out, names, source, known, width is not None, partial(_symmetrised, config)
    )
    scaling, stamp = whiten_(config, out[:cut], out[cut:], names, source, seed, scaling, known is None)
    return out, scaling, stamp


def whiten_(
    config: Data,
    train: np.ndarray,
    validation: np.ndarray,
    names: Sequence[str],
    source: str,
    seed: int,
    scaling: Scaling,
    fit: bool,
) -> tuple[Scaling, str]:
    """Brings rows from standardised to model units in place; as `scale_` but for a scaling of standardised rows.

    Args:
        fit: whether a whitening has to be fitted; `scaling` has the one of config.whiten otherwise.
    """
    parts = (train, validation)
    stamp = fingerprint(*parts)
    if fit and config.whiten == "within-mode":
        whitening = fit_whitening(train, config.whiten_components, config.whiten_samples, names, source, seed)
        scaling = replace(scaling, whitening=whitening)
    if scaling.whitening is not None:
        for part in parts:
            scaling.whitening.apply_(part)
    return scaling, stamp


def _symmetrised(config: Data, scaling: Scaling) -> Scaling:
    """The scaling that commutes with the symmetry of the configuration."""
    return scaling if config.symmetry == "none" else scaling.symmetrised(GROUPS[config.symmetry])


def _checked(known: Scaling, dimensions: int, source: str) -> Scaling:
    """The scaling of a run, if it has the rows' dimension."""
    if known.dimensions != dimensions:
        raise InputError(
            f"{source}: expected {known.dimensions} columns as when the run was begun, found {dimensions}"
        )
    return known


def _load_mnist(config: Data, seed: int, scaling: Scaling | None) -> Dataset:
    """MNIST's own splits; the labels are the digits, plus 10 for images that were turned and halved."""
    latent, symmetric = config.name == "mnist-latent", config.name == "c2-mnist"
    splits = {
        split: LabelledImages(*load_mnist(config.root, split == "train")) for split in ("train", "test")
    }
    view = ImageView(config.root, symmetric=symmetric)
    if latent:
        view = latent_view(config.root, splits["train"], splits["test"])
    rows, labels = {}, {}
    for split, source in splits.items():
        images, digits = source.images, source.labels
        if symmetric:
            images, changed = halve_and_turn(images, numpy_stream(seed, f"c2 {split}"))
            digits = digits + 10 * changed
        if latent:
            images = view.codes(images)
        n = config.n if split == "train" else None
        position = _shuffled_positions(len(images), n, config.name, seed)
        rows[split], labels[split] = _place(images, position, n), _place(digits, position, n)
        if config.dequantize is not None:
            check_steps(rows[split], config.dequantize, MNIST_SCHEMA.dimension_names, config.name)
            noise = numpy_stream(seed, f"dequantize {split}")
            rows[split] = dequantised(rows[split], config.dequantize, noise)
    schema = LATENT_SCHEMA if latent else MNIST_SCHEMA
    train, test = rows["train"], rows["test"]
    scaling, stamp = scale_(
        config, train, test, schema.dimension_names, config.name, seed, not latent, scaling
    )
    return Dataset(train, test, scaling, schema, stamp, labels["train"], labels["test"], toy=None, view=view)


def _load_table(config: Data, seed: int, known: Scaling | None) -> Dataset:
    """The shuffled rows of the table at config.path."""
    if config.path is None:
        raise InputError("data.path is missing: data.name 'vectors' needs the table's file")
    # First: they say what is wrong with their name.
    kinds, every = (
        (None, None) if config.labels is None else read_labels(config.path, config.labels, config.csv)
    )
    table = open_table(config.path, config.columns, without=config.labels, csv=config.csv)
    source = table.path
    position = _shuffled_positions(table.rows, config.n, source, seed)
    names, shape = table.schema.dimension_names, (config.n or table.rows, table.schema.dimensions)
    cut = _training_rows(config, shape[0], source)
    rounded = not config.standardize or (known is not None and known.rounded)
    if rounded or table.schema.precision is np.float32:
        rows, start = np.empty(shape, dtype=np.float32), 0
        for batch in table.batches(np.float32):
            _scatter(rows, position[start : start + len(batch)], batch)
            start += len(batch)
        if known is None and table.schema.precision is not np.float32:
            _check_rounded(table, position, cut)
        if config.dequantize is not None:
            check_steps(rows, config.dequantize, names, source)
            _add_noise(rows, config.dequantize, numpy_stream(seed, "dequantize"))
        scaling, stamp = scale_(config, rows[:cut], rows[cut:], names, source, seed, known=known)
    else:
        rows, scaling, stamp = scaled_batches(
            config, table.batches, position, shape, cut, names, source, seed, known
        )
    # Arrow's pool keeps the memory of its largest batch otherwise, beside the model for hours.
    pa.default_memory_pool().release_unused()
    labels = None if every is None else _place(every, position, config.n)
    return Dataset(
        train=rows[:cut],
        validation=rows[cut:],
        scaling=scaling,
        schema=table.schema,
        stamp=stamp,
        train_labels=None if labels is None else labels[:cut],
        validation_labels=None if labels is None else labels[cut:],
        toy=None,
        labels=kinds,
        left_out=table.left_out,
    )


def _check_rounded(table: Table, position: np.ndarray, cut: int) -> None:
    """Raise InputError if float32 has no room for what varies in the training rows of a table: nothing of it may be left
    once they are rounded."""
    moments, start = Moments(), 0
    for batch in table.batches():
        moments.add(batch[position[start : start + len(batch)] < cut])
        start += len(batch)
    names = table.schema.dimension_names
    check_resolution(moments.mean, moments.variance, moments.varies, names, table.path)


def _shuffled_positions(rows: int, n: int | None, source: str, seed: int) -> np.ndarray:
    """New position (rows,) of each row; positions from n on are not used."""
    if n is not None and n > rows:
        raise InputError(f"data.n is {n}, but {source} has {rows} rows: expected at most as many")
    # Half the memory of the default int64, which for narrow tables is as large as the rows themselves.
    position = np.arange(rows, dtype=np.int32 if rows < 2**31 else np.int64)
    numpy_stream(seed, "shuffle").shuffle(position)
    return position


def _scatter(out: np.ndarray, position: np.ndarray, batch: np.ndarray) -> None:
    used = position < len(out)
    out[position[used]] = batch[used]


def _place(source: np.ndarray, position: np.ndarray, n: int | None) -> np.ndarray:
    """The shuffled first n of rows (rows, ...) that are in memory, as float32 or int64."""
    kind = np.int64 if np.issubdtype(source.dtype, np.integer) else np.float32
    out = np.empty((n or len(source), *source.shape[1:]), dtype=kind)
    # Choosing rows copies them: all of MNIST's at once are 190 MB.
    for start in range(0, len(source), PLACED_ROWS):
        _scatter(out, position[start : start + PLACED_ROWS], source[start : start + PLACED_ROWS])
    return out
