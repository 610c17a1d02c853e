"""The trainer of a run where its checkpoint left it, and what the run keeps of its records."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ndsm.errors import InputError
from ndsm.runs import Run
from ndsm.runs.directory import training_hash
from ndsm.runs.event_files import EventFiles
from ndsm.training import Record, Resume, Trainer, TrainingSetup, counts_after_restart, pick_device, resumed


def start(
    problem: TrainingSetup,
    checkpoint: tuple[dict[str, Any], Resume] | None,
    world: int = 1,
    wrap: Any = None,
    reduce: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
) -> tuple[Trainer, Resume]:
    """The trainer of one worker of `world`, where the checkpoint left it, and what blocks come next.

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
    begun = Resume(world, config=training_hash(config), stamp=problem.spec.stamp)
    if checkpoint is None:
        return trainer, begun
    try:
        trainer.load_state(checkpoint[0])
    # Its configuration is this one, so that only another version has saved other things.
    except (KeyError, RuntimeError, ValueError, TypeError) as error:
        raise InputError(
            f"checkpoint of step {checkpoint[0]['steps']}: expected what this version of ndsm saves, found other content "
            f"({type(error).__name__}: {' '.join(str(error).split())[:200]}); install the version that the run's "
            "versions.json names, or start the run over with --fresh"
        ) from None
    saved = replace(checkpoint[1], config=begun.config, stamp=begun.stamp)
    counts = counts_after_restart(saved.counts)
    resume = resumed(saved, trainer.steps, world, problem)
    return trainer, replace(resume, restarts=resume.restarts + 1, counts=counts)


def save_records(records: Iterator[Record], trainer: Trainer, run: Run) -> Iterator[Record]:
    """The same records, each after the run directory has taken it up."""
    with EventFiles(run.tensorboard, trainer.steps) as events:
        for record in records:
            run.append_metrics(record.metrics)
            events.scalars(record.metrics)
            if record.final:
                # Perhaps made meanwhile, of what was there before.
                run.forget_evaluation()
                # Before the checkpoint: a run that has its last one is complete and trains no further.
                run.save_weights(trainer.ema, trainer.model)
            if record.checkpoint:
                run.save_checkpoint(trainer, record.resume)
            yield record
