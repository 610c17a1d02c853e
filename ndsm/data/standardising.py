"""Conversion of rows from original to model units: in place, or batch by batch without a float64 copy of all rows."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from ndsm.config import Data
from ndsm.core.hashing import fingerprint
from ndsm.core.rng import numpy_stream
from ndsm.core.symmetry import GROUPS
from ndsm.data.cells import precision_of
from ndsm.data.column_choice import ColumnSurvey
from ndsm.data.dequantising import add_noise, check_steps
from ndsm.data.scaling import Moments, Scaling, check_resolution, mean_and_variance, varying
from ndsm.data.table_schema import TableSchema
from ndsm.data.whitening import fit_whitening
from ndsm.errors import InputError

Read = Callable[[], Iterator[np.ndarray]]
"""One pass over all rows, in batches (b, d) float64 and in the same order each time."""


def standardised_rows(
    read: Read,
    position: np.ndarray,
    cut: int,
    out: np.ndarray,
    names: list[str],
    source: str,
    known: Scaling | None = None,
    noise: bool = False,
    adjust: Callable[[Scaling], Scaling] = lambda scaling: scaling,
) -> Scaling:
    """Fill `out` with rows in standardised units; returns the scaling, fitted on the first `cut` rows of `out`.

    The rows are read once, and a second time if float32 does not hold all of their numbers.

    Args:
        read: the rows in original units.
        position: place (rows,) of each row in `out`; those from len(out) on are left out.
        out: (n, d) float32.
        names: the d dimensions' names, for error messages.
        source: where the rows come from, for error messages.
        known: the scaling to use in place of a fit.
        noise: whether `out` holds what is to be added to the rows before they are scaled.
        adjust: what is to be made of a fitted scaling.

    Raises:
        InputError: as `Scaling.fit`.
    """

    def placed() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Places in `out` and rows of each batch."""
        start = 0
        for batch in read():
            at = position[start : start + len(batch)]
            start += len(batch)
            used = at < len(out)
            at, rows = at[used], batch[used]
            yield at, rows + out[at] if noise else rows

    scaling = known
    if scaling is None:
        moments, exact = Moments(), not noise
        for at, rows in placed():
            moments.add(rows[at < cut])
            if exact:
                with np.errstate(over="ignore"):
                    out[at] = rows
                exact = bool((out[at] == rows).all())
        if exact:
            scaling = adjust(Scaling.fit(out[:cut], names, source, precision=np.float64))
            scaling.standardise_(out)
            return scaling
        scaling = adjust(Scaling.of_moments(moments, names, source))
    for at, rows in placed():
        out[at] = scaling.standardise(rows)
    return scaling


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
    """Convert rows from original to model units in place; returns the scaling and the hash of the standardised rows.

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
    """Convert rows that are read in float64 batches to model units; returns them, the scaling and the hash of `scale_`.

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
        add_noise(out, width, numpy_stream(seed, "dequantize"))
    if known is not None:
        _checked(known, shape[1], source)
    scaling = standardised_rows(
        read, position, cut, out, names, source, known, width is not None, partial(_symmetrised, config)
    )
    scaling, stamp = whiten_(config, out[:cut], out[cut:], names, source, seed, scaling, known is None)
    return out, scaling, stamp


def transformed_batches(
    config: Data,
    read: Read,
    position: np.ndarray,
    shape: tuple[int, int],
    cut: int,
    schema: TableSchema,
    source: str,
    seed: int,
    known: Scaling | None = None,
    order: np.ndarray | None = None,
    where: Callable[[int], str] = lambda row: f"row {row + 1}",
) -> tuple[np.ndarray, Scaling, str] | None:
    """As `scaled_batches`, with the transforms of `ndsm.data.column_choice`; None if they leave all columns as they are.

    The rows are read once to choose the transforms, and once to apply them.

    Args:
        schema: of the columns.
        order: a random order of the rows of `out`, (n,), the one that they have if None: the first ones are the sample that quantiles
            are fitted on.
        where: what a row of the source is called in error messages.
    """

    def placed() -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Places in `out`, numbers in the source and rows of each batch."""
        start = 0
        for batch in read():
            at = position[start : start + len(batch)]
            used = at < shape[0]
            yield at[used], start + np.flatnonzero(used), batch[used]
            start += len(batch)

    scaling = None if known is None else _checked(known, shape[1], source)
    if scaling is None:
        precisions = [precision_of(kind) for _, kind in schema.columns]
        names, auto = schema.dimension_names, config.transform == "auto"
        survey = ColumnSurvey(names, config.column_types, precisions, cut, source, auto, where)
        for at, numbers, rows in placed():
            survey.add(rows, at if order is None else order[at], numbers)
        columns = survey.transforms()
        if columns.is_plain:
            return None
        u = numpy_stream(seed, "dequantize sample").random((len(survey.sample), columns.dimensions))
        scaling = Scaling.of_columns(columns, survey.sample, u, source)
    assert scaling.columns is not None
    out = numpy_stream(seed, "dequantize").random((shape[0], scaling.dimensions), dtype=np.float32)
    for at, _, rows in placed():
        out[at] = scaling.standardise(rows, out[at])
    scaling, stamp = whiten_(
        config, out[:cut], out[cut:], scaling.columns.names, source, seed, scaling, known is None
    )
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
    """Convert rows from standardised to model units in place; returns what `scale_` does.

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
    if known.original_dimensions != dimensions:
        raise InputError(
            f"{source}: expected {known.original_dimensions} columns as when the run was begun, found {dimensions}"
        )
    return known
