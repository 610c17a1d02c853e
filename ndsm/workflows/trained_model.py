"""A trained model in the units of its data: sampling, log-densities, imputation, reconstruction and denoising."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn

from ndsm.core.rng import numpy_stream, stream_seed
from ndsm.data import Dataset, Scaling, TableSchema
from ndsm.data.dequantising import quantised
from ndsm.errors import InputError
from ndsm.inference.guidance import Labelled, Operator
from ndsm.inference.imputation import STEPS, impute
from ndsm.inference.likelihood import LogDensity, log_density_of_rows
from ndsm.inference.posterior import Posterior
from ndsm.inference.reconstruction import Method, reconstruct
from ndsm.inference.second_order import SecondOrderScore, fit_second_order
from ndsm.objectives import Score
from ndsm.processes import Langevin, Process, require
from ndsm.processes.mixture_ou import with_mode_weights
from ndsm.runs import Run
from ndsm.samplers import (
    Sampler,
    checked_evaluations,
    configured_sampler,
    find_sampler,
    generate,
    requested_sample,
    reverse_times,
    sample_prior,
)
from ndsm.training import TrainingSetup, make_problem, pick_device
from ndsm.workflows.setup import build_problem

DENOISED_ROWS = 1024
"""Noisy rows that are denoised at a time."""


class Denoised(NamedTuple):
    """Mean and covariance of clean rows given noisy ones, in the rows' units; all float64."""

    mean: np.ndarray
    """Mean of the clean row given the noisy one, (n, d)."""
    std: np.ndarray
    """Its standard deviation, (n, d)."""
    factors: np.ndarray
    """F, (n, d, r): F Fᵀ is the low-rank part of the covariance."""


@dataclass
class TrainedModel:
    """A score model with its process and the units of its data.

    Rows are in original units, those of the data, unless a docstring says model units (`scaling` maps between the two).
    """

    problem: TrainingSetup
    network: nn.Module
    scaling: Scaling
    schema: TableSchema
    component_shares: list[list[float]] | None = None
    """Of the mixture's components among each label's rows, if labels were learned."""
    label_counts: list[int] | None = None
    """Training rows of each label, if labels were learned."""
    second_order: SecondOrderScore | None = None
    """A second-order score of the model, if one was trained."""
    _process: Process | None = field(default=None, init=False, repr=False, compare=False)
    """The process where it was moved to last, so that its mixture is factorised there once."""

    @classmethod
    def of(cls, run: Run, own: Langevin | None = None, device: str | None = None) -> "TrainedModel":
        """Load the model of a finished run.

        Args:
            own: the process of a run that was trained with the caller's own.
            device: auto, cpu or cuda. If not given, the CPU for a run with train.device cpu, else a GPU where there is one.

        Raises:
            InputError: the run has no weights yet, or its files are damaged.
        """
        config = run.config()
        # A run trained on a GPU can be sampled where there is none.
        where = pick_device(device or ("cpu" if config.train.device == "cpu" else "auto"))
        data = run.data()
        if own is None:
            problem = build_problem(config, run.mixture(), data["fingerprint"])
        else:
            problem = make_problem(config, own, data["dimension"], data["fingerprint"])
        network = problem.model(where)
        run.load_weights(network)
        return cls.described(problem, network.eval(), data)

    @classmethod
    def described(cls, problem: TrainingSetup, network: nn.Module, data: dict[str, Any]) -> "TrainedModel":
        """Return the model of a network whose data `data.json` describes, see `Run.data`."""
        scaling, schema = Scaling.from_json(data["scaling"]), TableSchema.from_json(data["schema"])
        return cls(problem, network, scaling, schema, data.get("component_shares"), data.get("label_counts"))

    @classmethod
    def trained_on(cls, dataset: Dataset, problem: TrainingSetup, network: nn.Module) -> "TrainedModel":
        """Return the model of a network in training, which knows no shares of labels."""
        return cls(problem, network, dataset.scaling, dataset.schema)

    @property
    def device(self) -> torch.device:
        """Device of the network."""
        return next(self.network.parameters()).device

    @property
    def process(self) -> Process:
        """The noising process, on the network's device."""
        self._process = (self._process or self.problem.process).to(self.device)
        return self._process

    def rows(
        self,
        n: int,
        seed: int,
        steps: int | None = None,
        sampler: str | Sampler | None = None,
        first_chunk: int = 0,
        label: int | None = None,
        guidance: float = 1.0,
        noise: float | None = None,
        mode_weights: Sequence[float] | None = None,
    ) -> Iterator[np.ndarray]:
        """Generate n rows in model units, (m, d) float32 at a time.

        Args:
            steps, sampler: the run's if not given.
            first_chunk: number of the first chunk of rows, each of which has a random stream of its own.
            label: number of the label of all rows; rows of any label if not given.
            noise: as `sample.noise`; the run's, for the run's sampler, if not given.
            guidance: strength of `ndsm.inference.guidance.Labelled`.
            mode_weights: shares of the components among the rows, (K,), in place of those of the training rows; for a process with
                components.

        Raises:
            InputError: the run does not know the label, its process has no components, or the weights are not such numbers.
        """
        problem, score = self.problem, cast(Score, self.network)
        if label is not None:
            classes = problem.config.network.class_count
            if not 0 <= label < classes:
                known = (
                    f"from 0 to {classes - 1}"
                    if classes
                    else "none: the run was trained without (network.classes)"
                )
                raise InputError(f"label: expected {known}, found {label}")
            score = Labelled(score, label, guidance)
        process = self.process
        if label is not None and self.component_shares:
            shares = torch.tensor(self.component_shares[label])
            if process.components is not None:
                process = with_mode_weights(process, shares)
            elif process.hidden is not None:
                process = process.starting_from(process.hidden.prior.with_weights(shares))
            elif process.modes is not None:
                process = process.starting_from(process.modes.with_weights(shares))
        if mode_weights is not None:
            process = with_mode_weights(process, torch.tensor(mode_weights))
        if sampler is None or isinstance(sampler, str):
            chosen = configured_sampler(requested_sample(problem.config.sample, sampler, noise=noise))
        else:
            chosen = find_sampler(sampler, noise)
        times = problem.reverse_times
        if steps is not None or sampler is not None:
            times = reverse_times(process, chosen, self._evaluations(steps), problem.end_dt)
        # Not a generator function: a wrong argument is reported by the call, not with the first rows.
        generated = generate(process, score, times, n, seed, self.device, chosen, first_chunk)
        return (x.cpu().numpy() for x in generated)

    def all_rows(self, n: int, seed: int, *settings: Any, **named: Any) -> np.ndarray:
        """Generate n rows in model units, (n, d) float32; arguments and errors as of `rows`."""
        return np.concatenate(list(self.rows(n, seed, *settings, **named)))

    def labelled_rows(
        self,
        n: int,
        seed: int,
        steps: int | None = None,
        class_weights: Sequence[float] | None = None,
        **settings: Any,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Generate n rows in model units with the numbers of their labels, (m, d) float32 and (m,), label after label.

        Args:
            class_weights: shares of the labels, one for each; those among the training rows if not given.
            settings: as of `rows`.

        Raises:
            InputError: the run was trained without labels, or by a version that did not count them, or the weights are not one
                number of 0 or more for each label, not all 0.
        """
        if not self.label_counts:
            raise InputError(
                "labels: expected a run trained with labels (network.classes) that counted them, found none"
            )
        counts = np.array(self.label_counts if class_weights is None else class_weights, dtype=np.float64)
        if (
            counts.shape != (len(self.label_counts),)
            or not (np.isfinite(counts) & (counts >= 0)).all()
            or not counts.sum()
        ):
            raise InputError(
                f"class weights: expected {len(self.label_counts)} numbers of 0 or more, one for each label, not all 0, found "
                f"{counts.tolist()}"
            )
        wanted = numpy_stream(seed, "labels").multinomial(n, counts / counts.sum())
        for label, m in enumerate(wanted):
            if m:
                for rows in self.rows(
                    int(m), stream_seed(seed, "label", label), steps, label=label, **settings
                ):
                    yield rows, np.full(len(rows), label)

    def sample(
        self,
        n: int,
        seed: int,
        steps: int | None = None,
        *,
        label: int | None = None,
        with_labels: bool = False,
        class_weights: Sequence[float] | None = None,
        **settings: Any,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Generate n rows with the numbers of their labels, (m, d) float64 and (m,) at a time.

        Args:
            label: as of `rows`; without one the numbers are 0 if not `with_labels`.
            with_labels, class_weights: whether labels are drawn, and by which weights, see `labelled_rows`.
            settings: as of `rows`.

        Raises:
            InputError: as `rows` and `labelled_rows`.
        """
        if with_labels and label is None:
            pairs = self.labelled_rows(n, seed, steps, class_weights, **settings)
        else:
            made = self.rows(n, seed, steps, label=label, **settings)
            pairs = ((rows, np.full(len(rows), label or 0)) for rows in made)
        return ((self.as_data(rows), numbers) for rows, numbers in pairs)

    def sample_given(
        self,
        given: dict[str, float],
        n: int,
        seed: int,
        steps: int | None = None,
        advance: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """Draw n rows that have these values in these columns, (n, d) float64.

        Raises:
            InputError: a column is unknown, or a value is not finite; or as `impute`.
        """
        return self.impute(given_row(self.schema.dimension_names, given), n, seed, steps, advance=advance)[
            :, 0
        ]

    def as_data(self, rows: np.ndarray) -> np.ndarray:
        """Convert rows (n, d) from model units to float64; without the noise of data.dequantize."""
        original, width = self.scaling.invert(rows), self.problem.config.data.dequantize
        return original if width is None else quantised(original, width)

    def log_density(self, rows: np.ndarray, end: float | None = None, **settings: Any) -> LogDensity:
        """Return the log-densities of rows (n, d), see `ndsm.inference.likelihood`.

        Args:
            end: time at which the density is taken; generation's last step if not given.
            settings: as `ndsm.inference.likelihood.log_density`.
        """
        chosen = self.problem.end_dt if end is None else end
        return log_density_of_rows(self.process, self.network, rows, self.scaling, chosen, **settings)

    def impute(
        self,
        rows: np.ndarray,
        draws: int,
        seed: int,
        steps: int | None = None,
        particles: int | None = None,
        advance: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """Draw the NaN of rows (n, d) given the rest, `draws` times; (draws, n, d) of the rows' type.

        Args:
            steps, particles: as `ndsm.inference.imputation.draw_given`; `STEPS` there and the run's `sample.particles` if not given.
            advance: called with the number of incomplete rows drawn since the last call.

        Raises:
            InputError: a row has no number, rows have another number of columns than the run's or are whitened, or a number
                lies beyond declared bounds.
        """
        self._check_columns(rows)
        missing = np.isnan(rows)
        if missing.all(1).any():
            raise InputError(
                f"row {int(missing.all(1).argmax()) + 1}: expected a known number in each row, found all of them missing"
            )
        if self.scaling.whitening is not None:
            raise InputError(
                "expected a run whose columns are not mixed to draw some of them given others, found data.whiten "
                "'within-mode'; reference.covariance_type full serves the same end"
            )
        if self.scaling.columns is not None:
            self.scaling.columns.check(rows)
        problem, incomplete = self.problem, missing.any(1)
        out = np.repeat(rows[None], draws, 0)
        if incomplete.any():
            # Known numbers of a run with data.dequantize: the middle of where its noise may have put them. So it is, by default, with
            # the columns' transforms.
            noise = (problem.config.data.dequantize or 0.0) / 2
            model_rows = self.scaling.apply(rows[incomplete] + noise)
            if (unknown := np.isnan(model_rows).all(1)).any():
                raise InputError(
                    f"row {int(np.flatnonzero(incomplete)[unknown][0]) + 1}: expected a known number in each row beside those of "
                    "constant columns, found all of them missing"
                )
            completed = impute(
                self.process, self.network, model_rows, draws,
                checked_evaluations(STEPS if steps is None else steps), problem.end_dt, seed, self.device,
                problem.config.sample.particles if particles is None else particles, advance,
            )  # fmt: skip
            drawn = self.as_data(completed.reshape(-1, model_rows.shape[1]))
            drawn = drawn.reshape(draws, -1, rows.shape[1])
            out[:, incomplete] = np.where(missing[incomplete], drawn, rows[incomplete])
        return out

    def reconstruct(
        self,
        operator: Operator,
        y: np.ndarray,
        noise: float | np.ndarray,
        draws: int,
        seed: int,
        steps: int | None = None,
        method: Method | None = None,
        strength: float = 1.0,
    ) -> np.ndarray:
        """Draw rows given measurements y = A x + noise of each, `draws` times, (draws, n, d) float64.

        Args:
            operator: A.
            y: (n, m).
            noise: standard deviation, a number or one for each measurement (m,).
            steps, method, strength: as `ndsm.inference.reconstruction`; the run's number of steps if not given.

        Raises:
            InputError: A fits neither the run's rows nor y, the noise is negative or of another length, or a column's transform is
                not linear.
        """
        (n, m), scaling = y.shape, self.scaling.linear("reconstruction")
        operator.check(scaling.dimensions, torch.from_numpy(y))
        std = np.asarray(noise, dtype=np.float64)
        if std.shape not in ((), (m,)) or not (np.isfinite(std) & (std >= 0)).all():
            raise InputError(
                f"noise: expected a standard deviation of 0 or more, or one for each of the {m} measurements, found "
                f"{noise if std.ndim == 0 else f'shape {std.shape} from {std.min():g} to {std.max():g}'}"
            )
        a = operator.matrix.double().cpu().numpy()
        seen = a * scaling.scale
        if scaling.whitening is not None:
            seen = seen @ scaling.whitening.colour.T
        # Rows of one length: measurements in different units would leave the guidance's system ill-conditioned.
        length = np.linalg.norm(seen, axis=1)
        length[length == 0] = 1.0
        found = reconstruct(
            self.process, self.network, Operator(torch.from_numpy(seen / length[:, None])),
            (y - a @ scaling.mean) / length, std / length, draws, self._evaluations(steps),
            self.problem.end_dt, seed, self.device, method, strength,
        )  # fmt: skip
        out, done = np.empty((draws * n, scaling.dimensions)), 0
        for x in found:
            out[done : done + len(x)] = self.scaling.invert(x)
            done += len(x)
        return out.reshape(draws, n, -1)

    def denoise(self, rows: np.ndarray, t: float, rank: int = 0) -> Denoised:
        """Return mean and covariance of the clean rows given noisy ones (n, d), see `ndsm.inference.posterior`.

        Args:
            t: the time that the process needs to make them so noisy.
            rank: columns of the factors; a second-order score that was trained has its own.

        Raises:
            InputError: t is not a time of the process, the process is a drift of your own, the columns are not the model's, or a
                column's transform is not linear.
        """
        self._check_columns(rows)
        require(self.process, "rows", "denoising")
        problem, scaling, d = self.problem, self.scaling.linear("denoising"), rows.shape[1]
        if not 0 < t <= problem.process.horizon:
            raise InputError(f"t: expected above 0 and at most {problem.process.horizon:g}, found {t:g}")
        if rank < 0:
            raise InputError(f"rank: expected 0 or more, found {rank}")
        posterior = Posterior(self.process, cast(Score, self.network), self.second_order)
        noisy = torch.from_numpy(scaling.apply(rows)).to(self.device)
        found = []
        for x in noisy.split(DENOISED_ROWS):
            with torch.no_grad():
                m = posterior.mean(x, t)
            c = posterior.covariance(x, t, min(rank, d))
            found.append([part.double().cpu().numpy() for part in (m, c.diagonal, c.factors)])
        mean, own, factors = (np.concatenate(parts) for parts in zip(*found, strict=True))
        # Model units are a linear map of the original ones.
        to_original = scaling.invert(np.eye(d)) - scaling.mean
        factors = np.einsum("nir,ij->njr", factors, to_original)
        return Denoised(scaling.invert(mean), np.sqrt(own @ to_original**2 + (factors**2).sum(2)), factors)

    def fit_second_order(self, rows: np.ndarray, rank: int, steps: int) -> None:
        """Train a second-order score on rows (n, d), see `ndsm.inference.second_order`; the other methods use it from then on.

        Raises:
            InputError: the rank is negative.
        """
        problem = self.problem
        require(problem.process, "rows", "second-order score")
        network = problem.model(torch.device("cpu"))
        network.load_state_dict(self.network.state_dict())
        self.second_order = fit_second_order(
            network, problem.process.to("cpu"), self.scaling.apply(rows), problem.end_dt,
            rank=rank, steps=steps, seed=problem.config.train.seed,
        ).to(self.device)  # fmt: skip

    def prior_rows(self, n: int, seed: int) -> np.ndarray:
        """Draw n rows of the prior in model units, (n, d) float32."""
        return sample_prior(self.process, n, seed).cpu().numpy()

    def _check_columns(self, rows: np.ndarray) -> None:
        if rows.shape[1] != self.scaling.original_dimensions:
            raise InputError(
                f"expected {self.scaling.original_dimensions} columns, as the model has, found {rows.shape[1]}"
            )

    def _evaluations(self, steps: int | None) -> int:
        """Return the steps of generation, the run's if not given.

        Raises:
            InputError: fewer than 2.
        """
        return checked_evaluations(self.problem.config.sample.steps if steps is None else steps)


def given_row(names: list[str], given: dict[str, float]) -> np.ndarray:
    """Return the row (1, d) that has these values in these columns, NaN in the others.

    Raises:
        InputError: a column is unknown, or a value is not finite.
    """
    row = np.full((1, len(names)), np.nan)
    for name, value in given.items():
        if name not in names or not isinstance(value, Real) or not np.isfinite(value):
            listed = ", ".join(names[:20])
            raise InputError(f"given: expected a finite value of one of {listed}, found {name}={value}")
        row[0, names.index(name)] = value
    return row
