"""Training in this process, with the simulation on one of its threads."""

import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from ndsm.runs import Run
from ndsm.training import (
    BadBlocks,
    Record,
    Trainer,
    TrainingSetup,
    held_out_loss,
    local_source,
    open_replay,
    train,
)
from ndsm.workflows.evaluate import with_evaluations
from ndsm.workflows.resuming import restarts_of, save_records, start, training_identity, with_advice
from ndsm.workflows.setup import RunContext


def train_locally(
    experiment: RunContext,
    watch: Callable[[Record, Trainer], None] = lambda record, trainer: None,
    *,
    make_block: Callable[[int], np.ndarray] | None = None,
    milestones: Collection[int] = (),
) -> Iterator[Record]:
    """Train in this process, simulating on one thread; yield each record once it is saved.

    With `evaluate.seconds` training pauses now and then for an evaluation; the time counts as training's.

    Args:
        watch: called with each record and the trainer as it then is.
        make_block: gives block number i, if it need not be simulated here.
        milestones: see `train`.
    """
    problem, run = experiment.problem, experiment.run
    with run.hold():
        trainer, resume = start(problem, run.find_checkpoint(training_identity(problem)))
        if trainer.steps >= problem.config.train.steps:
            return
        restarts = max(resume.restarts, restarts_of(run))
        resume = replace(resume, restarts=restarts, begun=run.begun())
        device = trainer.device
        rows = experiment.dataset.train
        bad = bad_blocks(problem, run)
        source = local_source(problem, rows, resume, make_block=make_block, device=device, bad=bad)
        replay = open_replay(problem, resume, trainer.steps, source, device=device)
        records = with_advice(
            train(
                trainer,
                replay,
                problem,
                resume,
                stop=run.stop_file.exists,
                milestones=milestones,
                held_out=held_out_loss(problem, rows, trainer),
            ),
            run,
        )
        try:
            for record in with_evaluations(
                save_records(records, trainer, run), run, problem, experiment.dataset
            ):
                watch(record, trainer)
                yield record
        finally:
            replay.source.close()


def bad_blocks(problem: TrainingSetup, run: Run) -> BadBlocks:
    """Return which blocks of a run are replaced, to which those are added that this process cannot simulate."""
    most, known = problem.config.train.max_bad_blocks, run.skipped_blocks()

    def record(index: int, reason: str) -> bool:
        if len(run.skipped_blocks()) >= most:
            return False
        run.skip_block(index, reason)
        return True

    return BadBlocks(most, known, record, warnings.warn).including(True)


@contextmanager
def training_in_memory(
    problem: TrainingSetup, data: np.ndarray
) -> Iterator[tuple[Trainer, Iterator[Record]]]:
    """Yield a new trainer and the records of its training on rows (N, d), simulated on one thread; nothing is written."""
    trainer, resume = start(problem, None)
    device = trainer.device
    source = local_source(problem, data, resume, device=device)
    replay = open_replay(problem, resume, 0, source, device=device)
    try:
        held_out = held_out_loss(problem, data, trainer)
        yield trainer, train(trainer, replay, problem, resume, held_out=held_out)
    finally:
        replay.source.close()
