"""A run from its configuration to its evaluation; how the steps are executed is left to the caller.

`prepare` reads the data and fits or reads the mixture, `begin` writes what the run is, `start` gives a trainer at
the step where the run stands, `saved` keeps the run directory up to date while it trains, `evaluate_run` samples and
compares with the data.
"""

import io
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import nn

from ndsm.config import Config
from ndsm.data import Dataset, Scaling, load
from ndsm.errors import InputError
from ndsm.figures import samples_figure
from ndsm.likelihood import LogDensity, log_density_of_rows
from ndsm.metrics import evaluate
from ndsm.objectives import Score
from ndsm.processes import Langevin, Linear
from ndsm.reference import GaussianMixture
from ndsm.run import Run, differing_fields, training_hash
from ndsm.samplers import (
    Sampler,
    configured_sampler,
    find_sampler,
    generate,
    impute,
    reverse_times,
    sample_prior,
)
from ndsm.samplers.guidance import Labelled, Operator
from ndsm.samplers.posterior import Posterior
from ndsm.samplers.reconstruction import Method, reconstruct
from ndsm.second_order import SecondOrderScore
from ndsm.tracking import EventFiles
from ndsm.training import (
    Problem,
    Record,
    Resume,
    Trainer,
    counts_after_restart,
    fit_mixture,
    local_source,
    make_problem,
    make_process,
    open_replay,
    pick_device,
    resumed,
    train,
    with_labels,
)

Stage = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
"""Shows a stage of the work by its name and the rows or steps it has, while it lasts; `ndsm.console.stage` is one."""


def unseen(name: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    """A stage that nothing shows."""
    return nullcontext(lambda done: None)


EXAMPLES = 256
"""Rows of an evaluation that the run keeps."""
BOUND_ROWS = 500
"""Validation rows whose log-density is bounded."""
BOUND_DRAWS = 20
"""Times drawn for each of them, of two evaluations each."""
DENOISED_ROWS = 1024
"""Noisy rows that are denoised at a time."""


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
    run.check_free()
    known = run.exists() and not fresh
    if known and (fields := differing_fields(run.config(), config)):
        raise InputError(
            f"{run.path} was begun with another configuration: {', '.join(fields)}; "
            "give the run another --name, or start it over with --fresh"
        )
    if foreign := run.foreign_files():
        raise InputError(
            f"{run.path}: expected a new or a run's folder, found one with other files in it: {foreign[0]}"
        )
    dataset = load(config.data, config.train.seed, run.scaling() if known else None)
    identity = dataset.stamp
    if known and identity != run.data()["fingerprint"]:
        raise InputError(
            f"{run.path} was begun with other data: the rows of {config.data.path or config.data.name} have changed "
            "since; give the run another --name, or start it over with --fresh"
        )
    if process is None:
        mixture = run.mixture() if known else fit_mixture(config, dataset.train)
        problem = training_problem(config, mixture, identity, dataset.train_labels)
    else:
        if known and run.has_mixture:
            raise InputError(
                f"{run.path}: expected a run with a process of your own, found one of a fitted mixture; choose another folder"
            )
        mixture = None
        problem = make_problem(config, process, dataset.train.shape[1], identity)
        problem = with_labels(problem, dataset.train_labels)
    for workers in config.train.worker_range:
        problem.limiter(workers)
    return Experiment(run, dataset, mixture, problem, identity, fresh)


def begin(experiment: Experiment) -> None:
    """Write what the run is, unless it is there already."""
    run = experiment.run
    if experiment.fresh:
        run.remove()
    if not run.exists():
        data = describe_data(experiment.dataset, experiment.fingerprint)
        data |= describe_labels(experiment.problem, experiment.dataset.train)
        run.begin(experiment.config, data, experiment.mixture)
    run.clear_requests()


def own_process(config: Config, process: Langevin) -> Config:
    """The configuration of a run with a process of the caller's own, of which only the horizon is a setting.

    A run folder holds no code, and so not the drift: whoever resumes or reads the run has to bring the same one.

    Raises:
        InputError: the configuration's process is a linear one.
    """
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
    return {
        "schema": dataset.schema.to_json(),
        "scaling": dataset.scaling.to_json(),
        "fingerprint": identity,
        "rows": len(dataset.train),
        "validation_rows": len(dataset.validation),
        "dimension": dataset.train.shape[1],
    }


def describe_labels(problem: Problem, rows: np.ndarray) -> dict[str, Any]:
    """What `data.json` holds of the labels of the training rows (N, d): nothing, if they are not learned.

    Where modes are far apart the noising never leaves them, and a label has to choose the mode that generation starts in:
    `component_shares` are the components' shares of each label's rows.
    """
    labels, mixture = problem.spec.labels, problem.process.mixture
    if labels is None or mixture is None:
        return {}
    shares = mixture.shares_of_classes(rows, labels, problem.config.network.classes)
    return {"component_shares": shares.tolist()}


def start(
    problem: Problem,
    checkpoint: tuple[dict[str, Any], Resume] | None,
    world: int = 1,
    wrap: Any = None,
    reduce: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
) -> tuple[Trainer, Resume]:
    """The trainer of one worker of `world`, where the checkpoint left it, and what blocks come next.

    Args:
        wrap: makes the data-parallel module from the model, e.g. `ray.train.torch.prepare_model`.
        reduce: sums a tensor over all workers.
    """
    config = problem.config
    device = pick_device(config.train.device)
    model = problem.model(device)
    wrapped: nn.Module = wrap(model) if wrap else model
    trainer = Trainer(
        model, problem.objective, problem.spec.layout, config.train, problem.weight(device), problem.epsilon(),
        config.objective.epsilon.every, wrapped, reduce,
    )  # fmt: skip
    begun = Resume(world, config=training_hash(config), stamp=problem.spec.stamp)
    if checkpoint is None:
        return trainer, begun
    trainer.load_state(checkpoint[0])
    saved = replace(checkpoint[1], config=begun.config, stamp=begun.stamp)
    counts = counts_after_restart(saved.counts)
    resume = resumed(saved, trainer.steps, world, problem)
    return trainer, replace(resume, restarts=resume.restarts + 1, counts=counts)


def saved(records: Iterator[Record], trainer: Trainer, run: Run) -> Iterator[Record]:
    """The same records, each after the run directory has taken it up."""
    with EventFiles(run.tensorboard, trainer.steps) as events:
        for record in records:
            run.append_metrics(record.metrics)
            events.scalars(record.metrics)
            if record.final:
                # Before the checkpoint: a run that has its last one is complete and trains no further.
                run.save_weights(trainer.ema, trainer.model)
            if record.checkpoint:
                run.save_checkpoint(trainer, record.resume)
            yield record


def train_locally(
    experiment: Experiment,
    watch: Callable[[Record, Trainer], None] = lambda record, trainer: None,
    *,
    make_block: Callable[[int], np.ndarray] | None = None,
    milestones: Collection[int] = (),
) -> Iterator[Record]:
    """Train in this process, simulating on one thread; yields each record once it is saved.

    With `evaluate.seconds` training pauses now and then for an evaluation; the time counts as training's.

    Args:
        watch: called with each record and the trainer as it then is.
        make_block: gives block number i, if it need not be simulated here.
        milestones: see `train`.
    """
    problem, run = experiment.problem, experiment.run
    with run.hold():
        trainer, resume = start(problem, run.load_checkpoint(problem))
        if trainer.steps >= problem.config.train.steps:
            return
        device = next(trainer.model.parameters()).device
        rows = experiment.dataset.train
        source = local_source(problem, rows, resume, make_block=make_block, device=device)
        replay = open_replay(problem, resume, trainer.steps, source, device=device)
        records = train(trainer, replay, problem, resume, stop=run.stop_file.exists, milestones=milestones)
        try:
            for record in evaluated(saved(records, trainer, run), run, problem, experiment.dataset):
                watch(record, trainer)
                yield record
        finally:
            replay.source.close()


def evaluated(records: Iterator[Record], run: Run, problem: Problem, dataset: Dataset) -> Iterator[Record]:
    """The same records; after a checkpoint, every `evaluate.seconds`, the run is evaluated before training goes on.

    At most half of the time goes into evaluations, however long they take.
    """
    least = problem.config.evaluate.seconds
    if least is None:
        yield from records
        return
    pause, ended = least, time.monotonic()
    with EventFiles(run.tensorboard_evaluations) as events:
        for record in records:
            yield record
            started = time.monotonic()
            if record.checkpoint and not record.final and started - ended >= pause:
                if found := evaluate_checkpoint(run, problem, dataset):
                    note_evaluation(run, events, *found)
                ended = time.monotonic()
                pause = max(least, ended - started)


def note_evaluation(run: Run, events: EventFiles, metrics: dict[str, Any], picture: bytes) -> None:
    """Add what `evaluate_checkpoint` found to `evaluations.jsonl` and TensorBoard."""
    events.evaluation(metrics, io.BytesIO(picture), metrics["step"])
    run.append_evaluation(metrics)


@contextmanager
def training_in_memory(problem: Problem, data: np.ndarray) -> Iterator[tuple[Trainer, Iterator[Record]]]:
    """A fresh trainer and the records of its training on rows (N, d), simulated on one thread; nothing is written."""
    trainer, resume = start(problem, None)
    device = next(trainer.model.parameters()).device
    source = local_source(problem, data, resume, device=device)
    replay = open_replay(problem, resume, 0, source, device=device)
    try:
        yield trainer, train(trainer, replay, problem, resume)
    finally:
        replay.source.close()


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

    problem: Problem
    model: nn.Module
    device: torch.device
    component_shares: list[list[float]] | None = None
    """Of the mixture's components among each label's rows, if labels were learned."""
    second_order: SecondOrderScore | None = None
    """A second-order score of the model, if one was trained."""

    @classmethod
    def of(cls, run: Run, own: Langevin | None = None) -> "Generator":
        """The generator of a finished run.

        Args:
            own: the process of a run that was trained with the caller's own.

        Raises:
            InputError: the run has no weights yet, or its files are damaged.
        """
        config = run.config()
        # A run trained on a GPU can be sampled where there is none.
        device = pick_device("cpu" if config.train.device == "cpu" else "auto")
        data = run.data()
        if own is None:
            problem = build_problem(config, run.mixture(), data["fingerprint"])
        else:
            problem = make_problem(config, own, data["dimension"], data["fingerprint"])
        model = problem.model(device)
        run.load_weights(model)
        return cls(problem, model.eval(), device, data.get("component_shares"))

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
            guidance: strength of `ndsm.samplers.guidance.Labelled`.

        Raises:
            InputError: the run does not know the label.
        """
        problem, score = self.problem, cast(Score, self.model)
        if label is not None:
            classes = problem.config.network.classes
            if not 0 <= label < classes:
                known = (
                    f"from 0 to {classes - 1}"
                    if classes
                    else "none: the run was trained without (network.classes)"
                )
                raise InputError(f"label: expected {known}, found {label}")
            score = Labelled(score, label, guidance)
        process = problem.process.to(self.device)
        if label is not None and self.component_shares and isinstance(process, Langevin):
            assert process.mixture is not None
            process = process.starting_from(
                process.mixture.with_weights(torch.tensor(self.component_shares[label]))
            )
        own = problem.config.sample
        # What the run says of its sampler goes with that one only.
        named = configured_sampler(own) if sampler is None or sampler == own.sampler else sampler
        chosen = find_sampler(named, noise)
        times = problem.reverse_times
        if steps is not None or sampler is not None:
            evaluations = own.steps if steps is None else steps
            times = reverse_times(process, chosen, evaluations, problem.end_dt)
        # Not a generator itself: what is wrong is found by the call, not by the first rows.
        generated = generate(process, score, times, n, seed, self.device, chosen, first_chunk)
        return (x.cpu().numpy() for x in generated)

    def log_density(
        self, rows: np.ndarray, scaling: Scaling, end: float | None = None, **settings: Any
    ) -> LogDensity:
        """Log-densities of rows (n, d) in original units, see `ndsm.likelihood`.

        Args:
            scaling: from model units to the rows'.
            end: time at which the density is taken; generation's last step if not given.
            settings: as `ndsm.likelihood.log_density`.
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
        advance: Callable[[int], None] = lambda done: None,
    ) -> np.ndarray:
        """Rows (n, d) in original units, `draws` times with their NaN drawn given the rest; (draws, n, d), as the rows.

        Args:
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
            model_rows = scaling.apply_(rows[incomplete].copy())
            process, evaluations = problem.process.to(self.device), steps or problem.config.sample.steps
            found = []
            for part in impute(
                process, self.model, model_rows, draws, evaluations, problem.end_dt, seed, self.device
            ):
                found.append(part)
                advance(len(part))
            drawn = scaling.invert(np.concatenate(found)).reshape(draws, -1, rows.shape[1])
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
        """Rows in original units given measurements y = A x + noise of each, `draws` times, (draws, n, d) float32.

        Args:
            operator: A, of rows in original units.
            y: (n, m).
            noise: standard deviation, a number or one for each measurement (m,).
            scaling: from model units to the rows'.
            steps, method, strength: as `ndsm.samplers.reconstruction`, the run's number of steps if not given.

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
        a = operator.matrix.double().numpy()
        seen = a * scaling.scale
        if scaling.whitening is not None:
            seen = seen @ scaling.whitening.colour.T
        # Rows of one length: measurements in different units would leave the guidance's system ill-conditioned.
        length = np.linalg.norm(seen, axis=1)
        length[length == 0] = 1.0
        problem = self.problem
        found = reconstruct(
            problem.process.to(self.device), self.model, Operator(torch.from_numpy(seen / length[:, None])),
            (y - a @ scaling.mean) / length, std / length, draws, steps or problem.config.sample.steps,
            problem.end_dt, seed, self.device, method, strength,
        )  # fmt: skip
        out, done = np.empty((draws * n, scaling.dimensions), dtype=np.float32), 0
        for x in found:
            out[done : done + len(x)] = scaling.invert(x)
            done += len(x)
        return out.reshape(draws, n, -1)

    def denoise(self, rows: np.ndarray, scaling: Scaling, t: float, rank: int = 0) -> Denoised:
        """The clean rows given noisy ones (n, d) in original units, see `ndsm.samplers.posterior`.

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
        if problem.process.mixture is None and not isinstance(problem.process, Linear):
            raise InputError(
                "denoise: expected the process of a mixture or a linear one, found a drift of your own"
            )
        posterior = Posterior(problem.process.to(self.device), cast(Score, self.model), self.second_order)
        noisy = torch.from_numpy(scaling.apply_(rows.astype(np.float32))).to(self.device)
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

    def prior_rows(self, n: int, seed: int) -> np.ndarray:
        """n rows of the mixture alone in model units, (n, d) float32."""
        return sample_prior(self.problem.process.to(self.device), n, seed).cpu().numpy()


def validation_bound(generator: Generator, dataset: Dataset, seed: int) -> dict[str, float]:
    """What `metrics.json` holds of the bound of theorem 9.3 on validation rows: nothing of a run whose noising is not
    linear, or without such rows.

    Keys:
        log_prob_bound, log_prob_bound_se: a lower bound of their mean log-density under the reverse SDE in nats, in the
            data's own units, and its standard error over the rows.
        bits_per_dim_bound: the same as an upper bound of bits per dimension; with data.dequantize of the discrete rows'.
    """
    rows = dataset.validation[:BOUND_ROWS]
    if not isinstance(generator.problem.process, Linear) or len(rows) < 2:
        return {}
    found = generator.log_density(dataset.scaling.invert(rows), dataset.scaling, bound=BOUND_DRAWS, seed=seed)
    level = generator.problem.config.data.dequantize or 1.0
    return {
        "log_prob_bound": float(found.log_prob.mean()),
        "log_prob_bound_se": float(found.log_prob.std(ddof=1)) / len(rows) ** 0.5,
        "bits_per_dim_bound": float(found.bits_per_dimension(rows.shape[1], level).mean()),
    }


def given_row(names: list[str], given: dict[str, float]) -> np.ndarray:
    """The row (1, d) that has these values in these columns, NaN in the others.

    Raises:
        InputError: a column is unknown, or a value is not finite.
    """
    row = np.full((1, len(names)), np.nan)
    for name, value in given.items():
        if name not in names or not np.isfinite(value):
            listed = ", ".join(names[:20])
            raise InputError(f"given: expected a finite value of one of {listed}, found {name}={value}")
        row[0, names.index(name)] = value
    return row


def evaluate_checkpoint(run: Run, problem: Problem, dataset: Dataset) -> tuple[dict[str, Any], bytes] | None:
    """The metrics of the newest checkpoint's averaged weights with its `step`, and a PNG of the samples; None before the
    first checkpoint.

    Writes nothing: the run may be training.
    """
    checkpoint = run.load_checkpoint()
    if checkpoint is None:
        return None
    trainer, _ = start(problem, checkpoint)
    device = next(trainer.model.parameters()).device
    generator = Generator(problem, trainer.ema.eval(), device)
    n, seed, picture = problem.config.evaluate.n, problem.config.train.seed, io.BytesIO()
    samples, prior = np.concatenate(list(generator.rows(n, seed))), generator.prior_rows(n, seed)
    samples_figure(dataset, samples, prior, picture, title=f"{run.path.name}, step {trainer.steps}")
    metrics = evaluate(dataset, samples, prior, seed) | validation_bound(generator, dataset, seed)
    return {"step": trainer.steps, **metrics}, picture.getvalue()


def evaluate_run(
    run: Run,
    n: int | None = None,
    dataset: Dataset | None = None,
    stage: Stage = unseen,
) -> dict[str, Any]:
    """Generate, compare with the data, and write `metrics.json` and `samples.png`; the metrics.

    Args:
        n: generated rows, `evaluate.n` if not given.
        dataset: the run's data, read again if not given.
        stage: shows how far it is.
    """
    config = run.config()
    n, seed = n or config.evaluate.n, config.train.seed
    generator = Generator.of(run)
    dataset = dataset or load(config.data, seed, run.scaling())
    parts = []
    with stage(f"sampling {n} rows", n) as advance:
        for part in generator.rows(n, seed):
            parts.append(part)
            advance(len(part))
    samples, prior = np.concatenate(parts), generator.prior_rows(n, seed)
    with stage("comparing them with the data", None):
        metrics = evaluate(dataset, samples, prior, seed) | validation_bound(generator, dataset, seed)
    run.write_evaluation(metrics)
    run.write_examples(samples=samples[:EXAMPLES], prior=prior[:EXAMPLES])
    samples_figure(dataset, samples, prior, run.samples_png, title=run.path.name)
    with EventFiles(run.tensorboard_evaluations) as events:
        events.evaluation(metrics, run.samples_png, config.train.steps)
    run.push()
    return metrics
