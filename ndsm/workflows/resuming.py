"""Resuming a training from its checkpoint, and saving its records to the run."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn

from ndsm.errors import InputError
from ndsm.runs import Run
from ndsm.runs.checkpoints import Checkpoint
from ndsm.runs.event_files import EventFiles
from ndsm.runs.identity import training_hash
from ndsm.training import Record, Resume, Trainer, TrainingSetup, counts_after_restart, pick_device, resumed


def training_identity(problem: TrainingSetup) -> dict[str, str]:
    """Return the hashes by which a checkpoint is known as one of this training, see `Run.find_checkpoint`."""
    return {"config": training_hash(problem.config), "stamp": problem.spec.stamp}


def start(
    problem: TrainingSetup,
    checkpoint: Checkpoint | None,
    world: int = 1,
    wrap: Any = None,
    reduce: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
) -> tuple[Trainer, Resume]:
    """Return the trainer of one worker of `world`, where the checkpoint left it, and which blocks come next.

    Args:
        wrap: makes the data-parallel module from the model, e.g. `ray.train.torch.prepare_model`.
        reduce: sums a tensor over all workers.

    Raises:
        InputError: the checkpoint holds other things than this version saves.
    """
    config = problem.config
    device = pick_device(config.train.device)
    model = problem.model(device)
    wrapped: nn.Module = wrap(model) if wrap else model
    trainer = Trainer(
        model, problem.objective, problem.spec.layout, config.train, problem.weight(device), problem.epsilon(),
        config.objective.epsilon.every, wrapped, reduce,
    )  # fmt: skip
    identity: dict[str, Any] = training_identity(problem)
    if checkpoint is None:
        return trainer, Resume(world, **identity)
    try:
        trainer.load_state(checkpoint.state)
        saved = Resume(**checkpoint.resume | identity)
    # The configuration is the same: only another version saves other content.
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise InputError(
            f"checkpoint of step {checkpoint.state['steps']}: expected what this version of ndsm saves, found other content of "
            f"ndsm {checkpoint.version} ({type(error).__name__}: {' '.join(str(error).split())[:200]}); install the version that the run's "
            "versions.json names, or start the run over with --fresh"
        ) from None
    counts = counts_after_restart(saved.counts)
    resume = resumed(saved, trainer.steps, world, problem)
    return trainer, replace(resume, restarts=resume.restarts + 1, counts=counts)


def with_advice(records: Iterator[Record], run: Run) -> Iterator[Record]:
    """Pass the records of a training on; if it diverges, the error says what goes on from the run's last checkpoint.

    Raises:
        FloatingPointError: it diverged.
    """
    try:
        yield from records
    except FloatingPointError as error:
        saved = run.newest_checkpoint()
        place = f"goes on from the checkpoint of step {saved[0]}" if saved else "begins again at step 0"
        raise FloatingPointError(
            f"{error}: the same command with --continue and the lower value {place}"
        ) from None


def restarts_of(run: Run) -> int:
    """Return how often training was begun again by now, by its last line of metrics: also where no checkpoint was saved."""
    last = run.last_metrics()
    return int(last.get("restarts", 0)) + 1 if last else 0


def save_records(records: Iterator[Record], trainer: Trainer, run: Run) -> Iterator[Record]:
    """Save the records of a training to its run; yield each one once it is saved.

    While the run's storage is away, what it has not taken is kept in the folder; only the end of the training waits for it.
    """
    with EventFiles(run.tensorboard, trainer.steps) as events:
        for record in records:
            run.append_metrics(record.metrics)
            events.scalars(record.metrics)
            if record.final:
                # An evaluation that was written meanwhile is of earlier weights.
                run.forget_evaluation()
                # Before the checkpoint: a run that has its last one is complete and trains no further.
                run.save_weights(trainer.ema, trainer.model)
                run.end_sitting()
            if record.checkpoint:
                run.save_checkpoint(trainer.state(), asdict(record.resume), record.final and trainer.done)
            yield record
