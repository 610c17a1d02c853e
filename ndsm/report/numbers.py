"""The numbers of a run's report, as typed records: all that the page shows, and none of how it shows it."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ndsm.config import WITH_EPSILON, Config
from ndsm.data import Dataset, load
from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.runs import Run
from ndsm.workflows.diagnosis import (
    EpsilonCurve,
    NearestRows,
    TimeProfile,
    diagnosis_rows,
    epsilon_curve,
    nearest_rows,
    time_profile,
)
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import training_problem

MAX_COMPONENTS = 50
"""Mixture components that are kept."""
MAX_PAIRS = 16
"""Generated rows kept with their nearest training row."""


@dataclass(frozen=True)
class MixtureNumbers:
    """The fitted mixture; arrays are of its heaviest components, the heaviest first."""

    n_components: int
    covariance_type: str
    min_variance: float
    """Smallest variance of any component along any axis, standardised units."""
    worst_conditioning: float
    """Largest ratio of a component's variances."""
    weights: np.ndarray
    """(k,)."""
    mean_variances: np.ndarray
    """Over a component's axes, (k,), standardised units."""
    conditioning: np.ndarray
    """Ratio of a component's largest and smallest variance, (k,)."""
    means: np.ndarray
    """(k, d), data units."""

    @classmethod
    def of(cls, run: Run, mixture: GaussianMixture) -> "MixtureNumbers":
        """Return the numbers of a run's mixture."""
        eigenvalues = mixture.eigenvalues()
        if eigenvalues.ndim == 1:
            eigenvalues = eigenvalues[:, None]
        conditioning = eigenvalues.amax(1) / eigenvalues.amin(1)
        order = mixture.weights.argsort(descending=True)[:MAX_COMPONENTS]
        return cls(
            mixture.n_components, mixture.covariance_type, mixture.min_variance, float(conditioning.max()),
            mixture.weights[order].numpy(), eigenvalues[order].mean(1).numpy(), conditioning[order].numpy(),
            run.scaling().invert(mixture.means[order].numpy()),
        )  # fmt: skip


@dataclass(frozen=True)
class TimesNumbers:
    """Loss, gradients and ε across the noising's time, at the last weights."""

    profile: TimeProfile
    epsilon: EpsilonCurve | None
    """None for an objective without a control variate."""


@dataclass(frozen=True)
class NearestNumbers:
    """Generated rows and their nearest training rows."""

    distances: NearestRows
    pair_distances: np.ndarray
    """Smallest distances, (k,), standardised units."""
    generated: np.ndarray
    """The rows that have them, (k, d), data units."""
    training: np.ndarray
    """Their nearest training rows, (k, d), data units."""


@dataclass(frozen=True)
class RunNumbers:
    """All that a run's report shows; a sentence in place of numbers says why they are missing."""

    name: str
    config: Config
    data: dict[str, Any]
    """`data.json`."""
    step: int
    lines: list[dict[str, Any]]
    """`metrics.jsonl`."""
    metrics: dict[str, Any] | None
    """`metrics.json`."""
    samples_png: bytes | None
    mixture: MixtureNumbers | None
    times: TimesNumbers | str
    nearest: NearestNumbers | str
    dataset: Dataset | None
    names: list[str]
    """Names of the columns."""
    versions: dict[str, str]
    repeat: str | None
    """Command that repeats the training; None for a run fitted in Python."""

    @classmethod
    def of(cls, run: Run, dataset: Dataset | None = None) -> "RunNumbers":
        """Collect the numbers of a run, finished or not.

        Args:
            dataset: the run's data, read again if not given.

        Raises:
            InputError: the run's files are damaged.
        """
        config, missing = run.config(), None
        if dataset is None:
            dataset, missing = find_data(run, config)
        mixture, lines = run.mixture() if run.has_mixture else None, run.metrics_since(0)[0]
        again = f"ndsm train {run.path / 'config.yaml'} --name {run.path.name}-again"
        return cls(
            name=run.path.name,
            config=config,
            data=run.data(),
            # What was saved from Python has neither reports nor a checkpoint.
            step=lines[-1]["step"] if lines else run.last_step() or config.train.steps * run.has_weights,
            lines=lines,
            metrics=run.evaluation(),
            samples_png=run.samples_png.read_bytes() if run.samples_png.is_file() else None,
            mixture=None if mixture is None else MixtureNumbers.of(run, mixture),
            times=_times(run, config, mixture, dataset, missing),
            nearest=_nearest(run, dataset, missing),
            dataset=dataset,
            names=run.schema().dimension_names,
            versions=run.versions(),
            repeat=None if run.fitted_in_python else again,
        )


def find_data(run: Run, config: Config) -> tuple[Dataset | None, str | None]:
    """Return the run's data, or the reason why they cannot be used."""
    try:
        dataset = load(config.data, config.train.seed, run.scaling())
    except InputError as error:
        return None, f"The data are not at hand: {error}."
    if dataset.stamp != run.data()["fingerprint"]:
        return None, "The data have changed since the run was begun."
    return dataset, None


def _times(
    run: Run, config: Config, mixture: GaussianMixture | None, dataset: Dataset | None, missing: str | None
) -> TimesNumbers | str:
    try:
        saved = run.find_checkpoint()
    except InputError as error:
        return str(error)
    if dataset is None or saved is None or mixture is None:
        return missing or "The run has no checkpoint, so that its optimiser's weights and ε(t) are not known."
    problem = training_problem(config, mixture, run.data()["fingerprint"], dataset.train_labels)
    # A run trained on a GPU can be looked at where there is none.
    device: Literal["auto", "cpu"] = "cpu" if config.train.device == "cpu" else "auto"
    trainer, _ = start(problem.with_device(device), saved)
    profile = time_profile(trainer, diagnosis_rows(problem, dataset.train, trainer.device))
    if config.objective.kind not in WITH_EPSILON:
        return TimesNumbers(profile, None)
    rows = diagnosis_rows(problem, dataset.train, trainer.device, 1)
    return TimesNumbers(profile, epsilon_curve(trainer, problem, rows))


def _nearest(run: Run, dataset: Dataset | None, missing: str | None) -> NearestNumbers | str:
    samples = run.examples().get("samples")
    if dataset is None or samples is None:
        return missing or "No generated rows are kept: ndsm evaluate keeps some."
    samples = samples[np.isfinite(samples).all(1)]
    if not len(samples):
        return "None of the kept generated rows is finite."
    found = nearest_rows(dataset, samples)
    closest = found.samples.argsort()[:MAX_PAIRS]
    pairs = dataset.train[found.index[closest]]
    return NearestNumbers(
        found, found.samples[closest], dataset.scaling.invert(samples[closest]), dataset.scaling.invert(pairs)
    )
