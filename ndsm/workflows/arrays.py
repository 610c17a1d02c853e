"""Training on arrays in memory: data set, labels and problem of `ndsm.NDSM.fit`."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from sklearn.utils.validation import check_array

from ndsm.config import WITH_EPSILON, Config
from ndsm.core.rng import numpy_stream
from ndsm.data import Dataset, Labels, TableSchema
from ndsm.data.frames import Frame, label_column
from ndsm.data.scaling import check_resolution, chunks, mean_and_variance, varying
from ndsm.data.standardising import scale_, scaled_batches, transformed_batches
from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.objectives import Objective
from ndsm.processes import Langevin
from ndsm.training import TrainingSetup, fit_mixture, make_problem, with_labels
from ndsm.training.own_drift import with_enough_steps
from ndsm.workflows.setup import build_problem


def array_dataset(rows: np.ndarray, config: Config, schema: TableSchema) -> Dataset:
    """Return the data set of rows (N, d), scaled as the `data` section says; the rows themselves stay as they are."""
    names, seed = schema.dimension_names, config.train.seed
    if config.data.transforms_columns:
        order = numpy_stream(seed, "columns").permutation(len(rows))
        transformed = transformed_batches(
            config.data,
            partial(chunks, rows),
            np.arange(len(rows)),
            rows.shape,
            len(rows),
            schema,
            "X",
            seed,
            order=order,
        )
        if transformed is not None:
            rows, scaling, stamp = transformed
            return Dataset(rows, rows[:0], scaling, schema, stamp, None, None, None)
    if rows.dtype == np.float64 and config.data.standardize:
        position, read = np.arange(len(rows)), partial(chunks, rows)
        rows, scaling, stamp = scaled_batches(
            config.data, read, position, rows.shape, len(rows), names, "X", seed
        )
    else:
        if rows.dtype == np.float64:
            check_resolution(*mean_and_variance(rows), varying(rows), names, "X")
        # A copy, which is then standardised in place.
        rows = check_array(rows, dtype=np.float32, copy=True, estimator="NDSM")
        scaling, stamp = scale_(config.data, rows, rows[:0], names, "X", seed)
    return Dataset(rows, rows[:0], scaling, schema, stamp, None, None, None)


def labels_of(y: Any, frame: Frame, rows: int) -> tuple[Labels, np.ndarray]:
    """Return the labels of y (n,) and the number of each row's label, (n,).

    Args:
        frame: the columns of the rows; the name of the labels' column differs from theirs.
        rows: n.

    Raises:
        InputError: labels are missing, of many kinds, of another number than the rows, or measured numbers.
    """
    column, name = label_column(y, rows)
    while name in frame.schema.dimension_names:
        name += "_"
    labels, numbers = Labels.of(column, name, "y")
    labels.check_repeated(rows, "y")
    return labels, numbers


def objective_fields(objective: str | Objective) -> dict[str, Any]:
    """Return the fields of the `objective` section that the name or object of an objective stands for.

    Raises:
        InputError: it is neither.
    """
    if isinstance(objective, str):
        return {"objective.kind": objective}
    if not hasattr(objective, "control_variate"):
        raise InputError(
            f"objective: expected a name or an object of ndsm.objectives, found {type(objective).__name__}"
        )
    fields: dict[str, Any] = {"objective.kind": objective.kind}
    match objective.control_variate:
        case "learned":
            fields["objective.epsilon.kind"] = "network"
        case "closed-form":
            fields["objective.epsilon.kind"] = "closed-form"
        case tuple() as values:
            fields |= {"objective.epsilon.kind": "piecewise-linear", "objective.epsilon.values": values}
        case value if objective.kind in WITH_EPSILON:
            fields |= {"objective.epsilon.kind": "constant", "objective.epsilon.value": value}
    return fields


def array_problem(
    config: Config,
    dataset: Dataset,
    process: Langevin | None,
    objective: str | Objective | None,
    labels: np.ndarray | None,
) -> tuple[GaussianMixture | None, TrainingSetup]:
    """Fit the mixture and return it with the problem.

    Args:
        process: replaces the configuration's process and the mixture, which is then None.
        objective: an object replaces the configuration's objective, with settings that no field has.
        labels: numbers of the rows' labels, (N,).
    """
    mixture, rows = None, dataset.train
    if process is None:
        mixture = fit_mixture(config, rows)
        problem = build_problem(config, mixture, dataset.stamp)
    else:
        config = with_enough_steps(config, process, rows)
        problem = make_problem(config, process, rows.shape[1], dataset.stamp)
    if not (objective is None or isinstance(objective, str)):
        problem = replace(problem, objective=objective)
    return mixture, with_labels(problem, labels, "y")
