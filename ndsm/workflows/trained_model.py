"""A trained run that makes rows, and says how likely given ones are."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn

from ndsm.core.rng import numpy_stream, stream_seed
from ndsm.data import Scaling
from ndsm.data.dequantising import quantised
from ndsm.errors import InputError
from ndsm.inference.guidance import Labelled, Operator
from ndsm.inference.imputation import STEPS, impute
from ndsm.inference.likelihood import LogDensity, log_density_of_rows
from ndsm.inference.posterior import Posterior
from ndsm.inference.reconstruction import Method, reconstruct
from ndsm.inference.second_order import SecondOrderScore
from ndsm.objectives import Score
from ndsm.processes import Langevin
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
    """What noisy rows say of the clean ones, in the rows' units; all float64."""

    mean: np.ndarray
    """Of each clean number given the noisy row, (n, d)."""
    std: np.ndarray
    """Its standard deviation, (n, d)."""
    factors: np.ndarray
    """F, (n, d, r): F Fᵀ is the part of the covariance that is told beyond its diagonal."""


@dataclass
class Generator:
    """A trained run, ready to make rows."""

    problem: TrainingSetup
    model: nn.Module
    device: torch.device
    component_shares: list[list[float]] | None = None
    """Of the mixture's components among each label's rows, if labels were learned."""
    label_counts: list[int] | None = None
    """Training rows of each label, if labels were learned."""
    second_order: SecondOrderScore | None = None
    """A second-order score of the model, if one was trained."""

    @classmethod
    def of(cls, run: Run, own: Langevin | None = None, device: str | None = None) -> "Generator":
        """The generator of a finished run.

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
        model = problem.model(where)
        run.load_weights(model)
        return cls(problem, model.eval(), where, data.get("component_shares"), data.get("label_counts"))

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
    ) -> Iterator[np.ndarray]:
        """n generated rows in model units, (m, d) float32 at a time; steps and sampler are the run's if not given.

        Args:
            noise: as `sample.noise`; the run's, for the run's sampler, if not given.
            label: of all rows; none if not given.
            guidance: strength of `ndsm.inference.guidance.Labelled`.

        Raises:
            InputError: the run does not know the label.
        """
        problem, score = self.problem, cast(Score, self.model)
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
        process = problem.process.to(self.device)
        if label is not None and self.component_shares and process.modes is not None:
            process = process.starting_from(
                process.modes.with_weights(torch.tensor(self.component_shares[label]))
            )
        if sampler is None or isinstance(sampler, str):
            chosen = configured_sampler(requested_sample(problem.config.sample, sampler, noise=noise))
        else:
            chosen = find_sampler(sampler, noise)
        times = problem.reverse_times
        if steps is not None or sampler is not None:
            times = reverse_times(process, chosen, self._evaluations(steps), problem.end_dt)
        # Not a generator itself: what is wrong is found by the call, not by the first rows.
        generated = generate(process, score, times, n, seed, self.device, chosen, first_chunk)
        return (x.cpu().numpy() for x in generated)

    def labelled_rows(
        self, n: int, seed: int, steps: int | None = None, **settings: Any
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """n generated rows in model units and the numbers of their labels, (m, d) float32 and (m,), label after label.

        Labels have the shares that they have among the training rows.

        Args:
            settings: as of `rows`.

        Raises:
            InputError: the run was trained without labels, or by a version that did not count them.
        """
        if not self.label_counts:
            raise InputError(
                "labels: expected a run trained with labels (network.classes) that counted them, found none"
            )
        counts = np.array(self.label_counts, dtype=np.float64)
        wanted = numpy_stream(seed, "labels").multinomial(n, counts / counts.sum())
        for label, m in enumerate(wanted):
            if m:
                for rows in self.rows(
                    int(m), stream_seed(seed, "label", label), steps, label=label, **settings
                ):
                    yield rows, np.full(len(rows), label)

    def as_data(self, rows: np.ndarray, scaling: Scaling) -> np.ndarray:
        """Rows (n, d) from model units to those of the data, float64; of a run with data.dequantize without its noise."""
        original, width = scaling.invert(rows), self.problem.config.data.dequantize
        return original if width is None else quantised(original, width)

    def log_density(
        self, rows: np.ndarray, scaling: Scaling, end: float | None = None, **settings: Any
    ) -> LogDensity:
        """Log-densities of rows (n, d) in original units, see `ndsm.inference.likelihood`.

        Args:
            scaling: from model units to the rows'.
            end: time at which the density is taken; generation's last step if not given.
            settings: as `ndsm.inference.likelihood.log_density`.
        """
        process = self.problem.process.to(self.device)
        chosen = self.problem.end_dt if end is None else end
        return log_density_of_rows(process, self.model, rows, scaling, chosen, **settings)

    def impute(
        self,
        rows: np.ndarray,
        scaling: Scaling,
        draws: int,
        seed: int,
        steps: int | None = None,
        particles: int | None = None,
        advance: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """Rows (n, d) in original units, `draws` times with their NaN drawn given the rest; (draws, n, d), as the rows.

        Args:
            steps, particles: as `ndsm.inference.imputation.draw_given`; `STEPS` there and the run's `sample.particles` if not given.
            advance: called with the number of incomplete rows drawn since the last call.

        Raises:
            InputError: a row has no number, or rows have another number of columns than the run's or are whitened.
        """
        if rows.shape[1] != scaling.dimensions:
            raise InputError(
                f"expected {scaling.dimensions} columns, as the model has, found {rows.shape[1]}"
            )
        missing = np.isnan(rows)
        if missing.all(1).any():
            raise InputError(
                f"row {int(missing.all(1).argmax()) + 1}: expected a known number in each row, found all of them missing"
            )
        if scaling.whitening is not None:
            raise InputError(
                "expected a run whose columns are not mixed to draw some of them given others, found data.whiten "
                "'within-mode'; reference.covariance_type full serves the same end"
            )
        problem, incomplete = self.problem, missing.any(1)
        out = np.repeat(rows[None], draws, 0)
        if incomplete.any():
            # Known numbers of a run with data.dequantize: the middle of where its noise may have put them.
            noise = (problem.config.data.dequantize or 0.0) / 2
            model_rows = scaling.apply(rows[incomplete] + noise)
            completed = impute(
                problem.process.to(self.device), self.model, model_rows, draws,
                checked_evaluations(STEPS if steps is None else steps), problem.end_dt, seed, self.device,
                problem.config.sample.particles if particles is None else particles, advance,
            )  # fmt: skip
            drawn = self.as_data(completed.reshape(-1, rows.shape[1]), scaling).reshape(completed.shape)
            out[:, incomplete] = np.where(missing[incomplete], drawn, rows[incomplete])
        return out

    def reconstruct(
        self,
        operator: Operator,
        y: np.ndarray,
        noise: float | np.ndarray,
        scaling: Scaling,
        draws: int,
        seed: int,
        steps: int | None = None,
        method: Method | None = None,
        strength: float = 1.0,
    ) -> np.ndarray:
        """Rows in original units given measurements y = A x + noise of each, `draws` times, (draws, n, d) float64.

        Args:
            operator: A, of rows in original units.
            y: (n, m).
            noise: standard deviation, a number or one for each measurement (m,).
            scaling: from model units to the rows'.
            steps, method, strength: as `ndsm.inference.reconstruction`, the run's number of steps if not given.

        Raises:
            InputError: A fits neither the run's rows nor y, or the noise is negative or of another length.
        """
        n, m = y.shape
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
        problem = self.problem
        found = reconstruct(
            problem.process.to(self.device), self.model, Operator(torch.from_numpy(seen / length[:, None])),
            (y - a @ scaling.mean) / length, std / length, draws, self._evaluations(steps),
            problem.end_dt, seed, self.device, method, strength,
        )  # fmt: skip
        out, done = np.empty((draws * n, scaling.dimensions)), 0
        for x in found:
            out[done : done + len(x)] = scaling.invert(x)
            done += len(x)
        return out.reshape(draws, n, -1)

    def denoise(self, rows: np.ndarray, scaling: Scaling, t: float, rank: int = 0) -> Denoised:
        """The clean rows given noisy ones (n, d) in original units, see `ndsm.inference.posterior`.

        Args:
            t: the time that the process needs to make them so noisy.
            rank: columns of the factors; a second-order score that was trained has its own.

        Raises:
            InputError: t is not a time of the process, the process is a drift of your own, or the columns are not the model's.
        """
        problem, d = self.problem, scaling.dimensions
        if rows.shape[1] != d:
            raise InputError(f"expected {d} columns, as the model has, found {rows.shape[1]}")
        if not 0 < t <= problem.process.horizon:
            raise InputError(f"t: expected above 0 and at most {problem.process.horizon:g}, found {t:g}")
        if rank < 0:
            raise InputError(f"rank: expected 0 or more, found {rank}")
        posterior = Posterior(problem.process.to(self.device), cast(Score, self.model), self.second_order)
        noisy = torch.from_numpy(scaling.apply(rows)).to(self.device)
        found = []
        for x in noisy.split(DENOISED_ROWS):
            with torch.no_grad():
                m = posterior.mean(x, t)
            c = posterior.covariance(x, t, min(rank, d))
            found.append([part.double().cpu().numpy() for part in (m, c.own, c.factors)])
        mean, own, factors = (np.concatenate(parts) for parts in zip(*found, strict=True))
        # Model units are a linear map of the original ones.
        to_original = scaling.invert(np.eye(d)) - scaling.mean
        factors = np.einsum("nir,ij->njr", factors, to_original)
        return Denoised(scaling.invert(mean), np.sqrt(own @ to_original**2 + (factors**2).sum(2)), factors)

    def _evaluations(self, steps: int | None) -> int:
        """The steps of generation, the run's if not given.

        Raises:
            InputError: fewer than 2.
        """
        return checked_evaluations(self.problem.config.sample.steps if steps is None else steps)

    def prior_rows(self, n: int, seed: int) -> np.ndarray:
        """n rows of the mixture alone in model units, (n, d) float32."""
        return sample_prior(self.problem.process.to(self.device), n, seed).cpu().numpy()


def given_row(names: list[str], given: dict[str, float]) -> np.ndarray:
    """The row (1, d) that has these values in these columns, NaN in the others.

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
