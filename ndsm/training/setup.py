"""A configuration, its data and its mixture, resolved into the objects that train and sample."""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from ndsm.config import Config
from ndsm.config.model_sections import WITH_MIXTURE
from ndsm.core.hashing import fingerprint
from ndsm.core.rng import numpy_stream, stream_seed
from ndsm.core.symmetry import GROUPS
from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.mixture.gaussian_mixture import CovarianceType
from ndsm.mixture.selection import COUNTS, KINDS, select
from ndsm.networks import IMAGE_SIDE, Equivariant, ScoreModel, build_score_model
from ndsm.objectives import Epsilon, Objective, make_epsilon, make_objective
from ndsm.processes import Process, forward_grid, require
from ndsm.processes.components import settled_weights
from ndsm.processes.registry import make_process
from ndsm.samplers import configured_sampler, reverse_times
from ndsm.samplers.base import draw_prior
from ndsm.simulation import COMPONENT, LABEL, RolloutSpec, RowLayout, paths_per_block
from ndsm.training.limiter import SamplesPerInsert
from ndsm.training.weighting import Weight, time_weight


@dataclass(frozen=True)
class TrainingSetup:
    """Objects that all processes of a run share; passed by value, without the data."""

    config: Config
    process: Process
    objective: Objective
    spec: RolloutSpec
    reverse_times: np.ndarray
    """Times of generation, T down to 0."""

    @property
    def t_min(self) -> float:
        """The smallest time that is trained on."""
        return self.spec.last_dt or (1.0 - self.spec.jitter) * float(self.spec.times[1])

    @property
    def end_dt(self) -> float:
        """Size of generation's last step, from there to time 0."""
        return self.spec.last_dt or float(self.spec.times[1])

    def epsilon(self) -> Epsilon:
        """The factor of the control variate, as it is before training."""
        setting, seed = self.config.objective.epsilon, self.config.train.seed
        return make_epsilon(
            self.objective.control_variate,
            self.t_min,
            self.process.horizon,
            bins=setting.bins,
            lr=setting.lr,
            seed=stream_seed(seed, "epsilon") % 2**32,
        )

    def weight(self, device: torch.device) -> Weight | None:
        """The weight of an example's time."""
        return time_weight(self.config.objective.weighting, self.process.to(device), self.spec.times)

    def model(self, device: torch.device) -> ScoreModel | Equivariant:
        """The score model with its initial weights."""
        return build_score_model(self.config, self.process, self.t_min, device)

    def with_device(self, device: Literal["auto", "cpu", "cuda"]) -> "TrainingSetup":
        """The same problem in a process for which `train.device` has been decided."""
        train = self.config.train.model_copy(update={"device": device})
        return replace(self, config=self.config.model_copy(update={"train": train}))

    def limiter(self, world: int) -> SamplesPerInsert:
        """The limiter of each of `world` workers."""
        train = self.config.train
        return SamplesPerInsert(
            train.samples_per_insert,
            self.spec.rows,
            train.batch_rows // world,
            train.min_blocks,
            train.ring_blocks,
        )


def fit_mixture(config: Config, data: np.ndarray) -> GaussianMixture:
    """The mixture of the `reference` section, fitted to rows (N, d).

    A linear process ends in its own Gaussian whatever the data are. `data.symmetry` multiplies the components.
    """
    if config.process.kind not in WITH_MIXTURE:
        variance = 1.0
        if config.process.kind == "ve" and config.process.sigma_max is None:
            variance += _largest_scale(config, data) ** 2 - config.process.sigma_min**2
        unfitted = GaussianMixture(
            torch.ones(1), torch.zeros(1, data.shape[1]), torch.tensor([variance], dtype=torch.float64)
        )
        prior = make_process(config, unfitted).mixture
        assert prior is not None
        return prior
    reference = config.reference
    # scikit-learn takes 32 bits.
    seed = stream_seed(config.train.seed, "mixture") % 2**32

    def fit(rows: np.ndarray, n_components: int, kind: CovarianceType) -> GaussianMixture:
        return GaussianMixture.fit(
            rows,
            n_components,
            covariance_type=kind,
            bayesian=reference.bayesian,
            fit_samples=reference.fit_samples,
            reg_covar=reference.reg_covar,
            init_params=reference.init_params,
            n_init=reference.n_init,
            seed=seed,
        )

    n_components, kind = reference.n_components, reference.covariance_type
    counts = COUNTS if n_components == "auto" else (n_components,)
    kinds = KINDS if kind == "auto" else (kind,)
    n_components, kind = counts[0], kinds[0]
    if len(counts) * len(kinds) > 1:
        n_components, kind = select(data, counts, kinds, fit, seed)
    mixture = fit(data, n_components, kind)
    if config.process.kind == "mixture-ou":
        # Generation draws components in the shares that training does.
        return settled_weights(mixture, torch.from_numpy(data))
    symmetry = config.data.symmetry
    return mixture if symmetry == "none" else mixture.symmetrised(GROUPS[symmetry])


def _largest_scale(config: Config, data: np.ndarray) -> float:
    """The largest distance between two of the rows (N, d), of `reference.fit_samples` at random if there are more.

    As the largest noise scale it lets a row of noised data become any other (dissertation, technique 6.1).

    Raises:
        InputError: it is not above process.sigma_min.
    """
    order = numpy_stream(config.train.seed, "largest scale").permutation(len(data))
    rows = torch.from_numpy(data[order[: config.reference.fit_samples]])
    largest = max(float(torch.cdist(part, rows).max()) for part in rows.split(512))
    if largest <= config.process.sigma_min:
        raise InputError(
            f"process.sigma_max: expected rows farther apart than process.sigma_min {config.process.sigma_min:g}, found "
            f"{largest:g} at most"
        )
    return largest


def make_problem(config: Config, process: Process, dimension: int, *identity: Any) -> TrainingSetup:
    """The problem of a configuration and a process whose data have `dimension` columns.

    Args:
        identity: what the data and the mixture are (hashes or arrays), for the blocks' stamp.

    Raises:
        InputError: a time grid is unstable or does not reach the horizon, the sampler or the objective does not suit the
            process, or the network or the process does not fit the data.
    """
    # Simulators run on the CPU; code for another device moves the process there.
    process = process.to("cpu")
    _check_dimension(process, dimension)
    if side_of := IMAGE_SIDE.get(config.network.kind):
        side_of(dimension, config.network.width, config.network.depth)
    grid = config.process.grid
    last_dt = config.process.last_dt
    integrator = config.integrator(process.mixture is not None)
    times = forward_grid(process, grid.kind, grid.steps, last_dt, integrator)
    objective = make_objective(config.objective, process.hidden)
    if process.transition is None and integrator == "exponential":
        require(process, "modes", "process.integrator 'exponential'")
    if objective.kind == "path":
        process.check_jacobian_product()
    if config.objective.kind == "mixture-dsm":
        # Only some mixtures have the kernel that rows are drawn from.
        process.kernel(torch.zeros(1, dimension), torch.ones(1))
    components = (COMPONENT,) if process.components is not None else ()
    labels = (LABEL,) if config.network.class_count else ()
    layout = RowLayout((*objective.records, *components, *labels), dimension)
    k = config.train.times_per_path
    paths = paths_per_block(config.train.block_mb, layout, k)
    # The stamp has the record names of version 0.1.0, whose runs are resumed.
    stamp = fingerprint(
        *identity,
        times,
        objective.rows_from,
        # A field that came later, at its default, leaves the stamp as it was.
        config.process.model_dump(
            mode="json", exclude={"form"} if config.process.form == "component" else None
        ),
        ["weight" if name == "path_weight" else name for name in layout.records],
        k,
        paths,
        config.train.seed,
        *([config.train.held_out_fraction] if config.train.patience else []),
        *(["likeliest"] if config.objective.component == "likeliest" else []),
    )
    spec = RolloutSpec(
        process, times, last_dt, k, paths, layout, config.train.seed, grid.jitter, objective.rows_from,
        integrator, stamp, label_dropout=config.network.label_dropout,
        held_out=config.train.held_out_fraction if config.train.patience else 0.0,
        drawn_modes=config.objective.kind == "mixture-dsm" and config.objective.component == "drawn",
    )  # fmt: skip
    end_dt = last_dt or float(times[1])
    return TrainingSetup(
        config,
        process,
        objective,
        spec,
        reverse_times(process, configured_sampler(config.sample), config.sample.steps, end_dt),
    )


def _check_dimension(process: Process, dimension: int) -> None:
    """Check that the process's rows have as many columns as the data.

    Raises:
        InputError: they have not.
    """
    drawn = draw_prior(process, 2, torch.Generator().manual_seed(0))
    if drawn.shape != (2, dimension):
        raise InputError(
            f"process: expected a prior whose rows have the data's {dimension} columns, found a draw of 2 rows of shape "
            f"{tuple(drawn.shape)}"
        )


def with_labels(
    problem: TrainingSetup, labels: np.ndarray | None, source: str | None = None
) -> TrainingSetup:
    """The problem whose simulators know the labels (N,) of the training rows, if `network.classes` asks for them.

    Args:
        source: what the data are called in an error; the configuration's name of them if None.

    Raises:
        InputError: there are none, or more than `network.classes`.
    """
    classes, spec = problem.config.network.class_count, problem.spec
    if not classes:
        return problem
    source = source or str(problem.config.data.path or problem.config.data.name)
    if labels is None:
        raise InputError(f"network.classes: expected data with labels, found none in {source}")
    if labels.max() >= classes:
        raise InputError(
            f"network.classes: expected at least {labels.max() + 1}, the number of labels in {source}, or auto, found {classes}"
        )
    recorded = labels.astype(np.int16)
    stamp = fingerprint(spec.stamp, recorded, spec.label_dropout)
    return replace(problem, spec=replace(spec, labels=recorded, stamp=stamp))


def pick_device(name: str) -> torch.device:
    """The device of `train.device`; auto is a GPU where there is one.

    Raises:
        InputError: a GPU is asked for, and this process sees none.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("train.device: expected a GPU for 'cuda', found none; use auto or cpu")
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)
