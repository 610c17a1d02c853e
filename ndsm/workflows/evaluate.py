"""Evaluation of a run against its data, at its end and during its training."""

import io
import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from ndsm.core.hashing import fingerprint
from ndsm.core.progress import Stage, no_progress
from ndsm.data import Dataset, load
from ndsm.metrics import evaluate
from ndsm.runs import Run
from ndsm.runs.event_files import EventFiles
from ndsm.training import Record, TrainingSetup
from ndsm.workflows.figures import samples_figure
from ndsm.workflows.prior_match import prior_match
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import check_rows
from ndsm.workflows.trained_model import TrainedModel

EXAMPLES = 256
"""Rows of an evaluation that are kept with the run."""
BOUND_ROWS = 500
"""Validation rows whose log-density is bounded."""
BOUND_DRAWS = 20
"""Times drawn for each of them, at two evaluations of the network each."""


def validation_bound(model: TrainedModel, dataset: Dataset, seed: int) -> dict[str, float]:
    """Return the bound of theorem 9.3 on validation rows; empty if the noising is not linear or there are no such rows.

    Keys:
        log_prob_bound, log_prob_bound_se: a lower bound of their mean log-density under the reverse SDE in nats, in the
            data's own units, and its standard error over the rows.
        bits_per_dim_bound: the same as an upper bound of bits per dimension; with data.dequantize of the discrete rows'.
    """
    rows = dataset.validation[:BOUND_ROWS]
    if model.problem.process.transition is None or len(rows) < 2:
        return {}
    found = model.log_density(dataset.scaling.invert(rows), bound=BOUND_DRAWS, seed=seed)
    level = model.problem.config.data.dequantize or 1.0
    return {
        "log_prob_bound": float(found.log_prob.mean()),
        "log_prob_bound_se": float(found.log_prob.std(ddof=1)) / len(rows) ** 0.5,
        "bits_per_dim_bound": float(found.bits_per_dimension(rows.shape[1], level).mean()),
    }


def compare(
    model: TrainedModel, dataset: Dataset, samples: np.ndarray, prior: np.ndarray, seed: int
) -> dict[str, Any]:
    """Return the content of `metrics.json` for generated rows and draws of the prior, (n, d) each in model units."""
    metrics = evaluate(dataset, samples, prior, seed) | validation_bound(model, dataset, seed)
    return metrics | prior_match(model.problem, dataset.train)


def evaluate_checkpoint(
    run: Run, problem: TrainingSetup, dataset: Dataset
) -> tuple[dict[str, Any], bytes] | None:
    """Evaluate the averaged weights of the newest checkpoint; write nothing, since the run may be training.

    Returns:
        metrics with the checkpoint's `step`, and a PNG of the samples; None before the first checkpoint.
    """
    checkpoint = run.find_checkpoint()
    if checkpoint is None:
        return None
    trainer, _ = start(problem, checkpoint)
    model = TrainedModel.trained_on(dataset, problem, trainer.ema.eval())
    n, seed, picture = problem.config.evaluate.n, problem.config.train.seed, io.BytesIO()
    samples, prior = model.all_rows(n, seed), model.prior_rows(n, seed)
    samples_figure(dataset, samples, prior, picture, title=f"{run.path.name}, step {trainer.steps}")
    metrics = compare(model, dataset, samples, prior, seed)
    return {"step": trainer.steps, **metrics}, picture.getvalue()


def evaluate_run(
    run: Run,
    n: int | None = None,
    dataset: Dataset | None = None,
    stage: Stage = no_progress,
) -> dict[str, Any]:
    """Generate rows, compare them with the data, write `metrics.json` and `samples.png`; return the metrics.

    Args:
        n: generated rows, `evaluate.n` if not given.
        dataset: the run's data, read again if not given.
        stage: progress callback.

    Raises:
        InputError: the run has no weights yet, or its data are not to be had or have changed since it was begun.
    """
    config = run.config()
    n, seed = n or config.evaluate.n, config.train.seed
    model = TrainedModel.of(run)
    if dataset is None:
        dataset, known = load(config.data, seed, run.scaling()), run.data()
        # A search's trial learned from the first of these rows (`tuning.scoring.search_split`).
        if known["fingerprint"] != fingerprint(dataset.stamp, "search", known["rows"]):
            check_rows(run, config, dataset.stamp)
    parts = []
    with stage(f"sampling {n} rows", n) as advance:
        for part in model.rows(n, seed):
            parts.append(part)
            advance(len(part))
    samples, prior = np.concatenate(parts), model.prior_rows(n, seed)
    with stage("comparing them with the data", None):
        metrics = compare(model, dataset, samples, prior, seed)
    run.write_evaluation(metrics)
    run.write_examples(samples=samples[:EXAMPLES], prior=prior[:EXAMPLES])
    samples_figure(dataset, samples, prior, run.samples_png, title=run.path.name)
    with EventFiles(run.tensorboard_evaluations) as events:
        events.evaluation(metrics, run.samples_png, config.train.steps)
    run.push()
    return metrics


def with_evaluations(
    records: Iterator[Record], run: Run, problem: TrainingSetup, dataset: Dataset
) -> Iterator[Record]:
    """Pass the records on; every `evaluate.seconds`, after a checkpoint, evaluate the run before training goes on.

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
                    log_evaluation(run, events, *found)
                ended = time.monotonic()
                pause = max(least, ended - started)


def log_evaluation(run: Run, events: EventFiles, metrics: dict[str, Any], picture: bytes) -> None:
    """Write the result of `evaluate_checkpoint` to `evaluations.jsonl` and TensorBoard."""
    events.evaluation(metrics, io.BytesIO(picture), metrics["step"])
    run.append_evaluation(metrics)
