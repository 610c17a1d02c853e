"""A run before its first step: its data, mixture and problem, checked and written down."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from ndsm.config import Config
from ndsm.data import Dataset, load
from ndsm.errors import InputError
from ndsm.processes import Langevin
from ndsm.reference import GaussianMixture
from ndsm.run import Run, differing_fields
from ndsm.training import Problem, fit_mixture, make_problem, make_process, with_labels
from ndsm.training.own_drift import with_enough_steps, with_steps


@dataclass
class Experiment:
    """A run, and what it trains on."""

    run: Run
    dataset: Dataset
    mixture: GaussianMixture | None
    """None with a process of the caller's own."""
    problem: Problem
    fingerprint: str
    """Hash of the rows."""
    fresh: bool = False
    """Whether an older run in the same place is to be replaced."""

    @property
    def config(self) -> Config:
        """The run's configuration."""
        return self.problem.config


def prepare(config: Config, run: Run, fresh: bool = False, process: Langevin | None = None) -> Experiment:
    """Check everything that can be wrong with the input, and find where the run stands; writes nothing.

    Args:
        process: in place of the one of the configuration and its fitted mixture; see `own_process`.

    Raises:
        InputError: bad data or settings; or the run exists with another configuration or other data.
    """
    if process is not None:
        config = own_process(config, process)
    run.owner.check_free()
    try:
        if run.mirror is not None:
            run.mirror.check_free()
        run.check_place(fresh)
    except OSError as error:
        raise InputError(f"{run.path}: expected the run and its copy to be readable, found {error}") from None
    known = run.exists() and not fresh
    if (
        known
        and process is not None
        and (begun := run.config().process.grid.steps) > config.process.grid.steps
    ):
        # Its grid was refined when it was begun.
        config = with_steps(config, begun)
    counted = config.network.classes == "auto"
    if known and counted:
        config = _with_classes(config, run.config().network.class_count)
    if known and (fields := differing_fields(run.config(), config)):
        raise InputError(
            f"{run.path} was begun with another configuration: {', '.join(fields)}; "
            "give the run another --name, or start it over with --fresh"
        )
    dataset = load(config.data, config.train.seed, run.scaling() if known else None)
    if counted and not known:
        config = with_counted_labels(config, dataset)
    check_labels(config, dataset)
    identity = dataset.stamp
    if known:
        check_rows(run, config, identity)
    if process is None:
        mixture = run.mixture() if known else fit_mixture(config, dataset.train)
        problem = training_problem(config, mixture, identity, dataset.train_labels)
    else:
        if known and run.has_mixture:
            raise InputError(
                f"{run.path}: expected a run with a process of your own, found one of a fitted mixture; choose another folder"
            )
        mixture = None
        if not known:
            config = with_enough_steps(config, process, dataset.train)
        problem = make_problem(config, process, dataset.train.shape[1], identity)
        problem = with_labels(problem, dataset.train_labels)
    for workers in config.train.worker_range:
        problem.limiter(workers)
    return Experiment(run, dataset, mixture, problem, identity, fresh)


def with_counted_labels(config: Config, dataset: Dataset) -> Config:
    """The configuration with the number of the data's labels in place of `network.classes` auto.

    Raises:
        InputError: the data have no labels, or hardly two rows have the same one.
    """
    if config.network.classes != "auto":
        return config
    if not dataset.label_count:
        raise InputError(
            f"network.classes: expected data with labels for auto, found none in {config.data.path or config.data.name}"
        )
    if dataset.labels is not None:
        dataset.labels.check_repeated(len(dataset.train) + len(dataset.validation), "network.classes auto")
    return _with_classes(config, dataset.label_count)


def check_labels(config: Config, dataset: Dataset) -> None:
    """Check that `network.classes` suits the labels of a table.

    Raises:
        InputError: it is another number than that of the different labels; more are fine where labels are 0, 1, ....
    """
    labels, classes = dataset.labels, config.network.class_count
    if labels is None or not classes or classes == len(labels.values):
        return
    if classes < len(labels.values) or labels.values != tuple(range(len(labels.values))):
        raise InputError(
            f"network.classes: expected {len(labels.values)}, the number of different labels in column {labels.column!r}, or "
            f"auto, found {classes}"
        )


def _with_classes(config: Config, classes: int) -> Config:
    return config.model_copy(update={"network": config.network.model_copy(update={"classes": classes})})


def check_rows(run: Run, config: Config, identity: str) -> None:
    """Nothing, if the rows with this hash are those that the run was begun with.

    Raises:
        InputError: they are not.
    """
    if identity != run.data()["fingerprint"]:
        raise InputError(
            f"{run.path} was begun with other data: the rows of {config.data.path or config.data.name} have changed "
            "since; bring them back, or train a run of another --name on the new ones"
        )


def begin(experiment: Experiment) -> None:
    """Write what the run is; of one that is there already how it is executed and looked at from here on."""
    run = experiment.run
    if experiment.fresh:
        # Before the lock's file is written: a refusal leaves all files as they are.
        run.check_place(fresh=True)
    with run.hold():
        _begin(experiment, run)


def _begin(experiment: Experiment, run: Run) -> None:
    if run.mirror is not None and not experiment.fresh and run.mirror.changed():
        # Another machine has trained it since it was looked at.
        run.check_place()
        run.check_copy()
        run.pull()
    if experiment.fresh or not run.exists():
        # Also what a run that was killed while it was begun, or deleted, has left.
        run.remove(copy=experiment.fresh)
    if run.exists():
        run.update(experiment.config)
    else:
        data = describe_data(experiment.dataset, experiment.fingerprint)
        data |= describe_labels(experiment.problem, experiment.dataset.train)
        run.begin(experiment.config, data, experiment.mixture)
    run.forget_evaluation()
    run.clear_requests()


def own_process(config: Config, process: Langevin) -> Config:
    """The configuration of a run with a process of the caller's own, of which only the horizon is a setting.

    A run folder holds no code, and so not the drift: whoever resumes or reads the run has to bring the same one.

    Raises:
        InputError: the configuration's process is a linear one, or a symmetry is asked for.
    """
    if config.data.symmetry != "none":
        raise InputError(
            "data.symmetry: expected 'none' for a process of your own, whose drift need not have it, found "
            f"{config.data.symmetry!r}"
        )
    if config.process.kind != "langevin":
        raise InputError(
            f"process.kind: expected langevin for a process of your own, found {config.process.kind}"
        )
    changed = config.process.model_copy(update={"horizon": process.horizon})
    return config.model_copy(update={"process": changed})


def build_problem(config: Config, mixture: GaussianMixture, identity: str) -> Problem:
    """The problem of a configuration with its fitted mixture; `identity` is the data's fingerprint."""
    process = make_process(config, mixture)
    arrays = [t.numpy() for t in mixture.tensors().values()]
    return make_problem(config, process, mixture.dimension, identity, *arrays)


def training_problem(
    config: Config, mixture: GaussianMixture, identity: str, labels: np.ndarray | None
) -> Problem:
    """As `build_problem`, with the labels (N,) of the training rows: what can be simulated and trained.

    Raises:
        InputError: `network.classes` asks for labels that are not there, see `with_labels`.
    """
    return with_labels(build_problem(config, mixture, identity), labels)


def describe_data(dataset: Dataset, identity: str) -> dict[str, Any]:
    """What `data.json` holds."""
    names: dict[str, Any] = {}
    if dataset.class_names is not None:
        names["class_names"] = list(dataset.class_names)
    if dataset.labels is not None:
        names["labels"] = dataset.labels.to_json()
    return {
        "schema": dataset.schema.to_json(),
        "scaling": dataset.scaling.to_json(),
        "fingerprint": identity,
        "rows": len(dataset.train),
        "validation_rows": len(dataset.validation),
        "dimension": dataset.train.shape[1],
        **names,
    }


def describe_labels(problem: Problem, rows: np.ndarray) -> dict[str, Any]:
    """What `data.json` holds of the labels of the training rows (N, d): nothing, if they are not learned.

    Where modes are far apart the noising never leaves them, and a label has to choose the mode that generation starts in:
    `component_shares` are the components' shares of each label's rows, `label_counts` the numbers of these.
    """
    labels, mixture = problem.spec.labels, problem.process.mixture
    if labels is None:
        return {}
    classes = problem.config.network.class_count
    found = {"label_counts": np.bincount(labels, minlength=classes).tolist()}
    if mixture is not None:
        found["component_shares"] = mixture.shares_of_classes(rows, labels, classes).tolist()
    return found
