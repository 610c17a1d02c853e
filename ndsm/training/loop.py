"""The training loop: a generator of records, independent of files, consoles and clusters."""

import time
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from ndsm.errors import InputError, described
from ndsm.simulation import rollout
from ndsm.simulation.rollout import CPU
from ndsm.training.bad_blocks import TRY_SHARE, BadBlocks
from ndsm.training.goodput import TimeSpent, goodput
from ndsm.training.replay import BlockSource, Replay
from ndsm.training.setup import TrainingSetup
from ndsm.training.step import Trainer
from ndsm.training.thread_source import ThreadSource

DECIDE_EVERY = 10
"""Steps between decisions by the clock; all workers decide at the same steps, so that they can agree."""


@dataclass(frozen=True)
class Resume:
    """Progress of a run beside the trainer's state: the blocks that its workers take, and the time spent."""

    world: int = 1
    era_step: int = 0
    """Step at which this number of workers began."""
    era_index: int = 0
    """Index of the first block they took."""
    seconds: float = 0.0
    """Training time so far."""
    restarts: int = 0
    """How often training went on from a checkpoint."""
    counts: dict[str, float] = field(default_factory=dict)
    """`Replay.counters()` of all workers so far; at the start of a sitting, of those before."""
    config: str = ""
    """Hash of the configuration that is trained."""
    stamp: str = ""
    """Stamp of the blocks that it trains on."""
    spent: dict[str, float] = field(default_factory=dict)
    """`TimeSpent` so far."""
    begun: float = 0.0
    """Unix time of the run's first start, later by the time in which it was stopped; 0 if it is not known."""


@dataclass(frozen=True)
class Record:
    """A report of the loop: a line of metrics, and whether to save or stop now."""

    step: int
    metrics: dict[str, Any]
    checkpoint: bool = False
    final: bool = False
    """The last record: all steps are done, or a stop was asked for."""
    resume: Resume = field(default_factory=Resume)


@dataclass(frozen=True)
class Flags:
    """A decision that all workers must take alike."""

    report: bool
    checkpoint: bool
    stop: bool
    converged: bool
    """The held-out loss falls no more."""


def resumed(saved: Resume, step: int, world: int, problem: TrainingSetup) -> Resume:
    """`saved` continued by `world` workers; another number of workers starts a new era of blocks."""
    if world == saved.world:
        return saved
    taken = problem.limiter(saved.world).blocks_for(max(1, step - saved.era_step))
    index = saved.era_index + taken * saved.world if step else 0
    return replace(saved, world=world, era_step=step, era_index=index)


def open_replay(
    problem: TrainingSetup,
    resume: Resume,
    step: int,
    open_source: Callable[[int], BlockSource],
    *,
    rank: int = 0,
    device: torch.device | str = "cpu",
) -> Replay:
    """The replay buffer of worker `rank`, as it was before step number `step`."""
    return Replay(
        open_source,
        problem.limiter(resume.world),
        problem.spec.layout.width,
        seed=problem.config.train.seed,
        rank=rank,
        start_step=step - resume.era_step,
        device=device,
    )


def block_index(resume: Resume, rank: int, number: int) -> int:
    """Global index of worker `rank`'s block `number`."""
    return resume.era_index + number * resume.world + rank


def local_source(
    problem: TrainingSetup,
    data: np.ndarray,
    resume: Resume,
    rank: int = 0,
    make_block: Callable[[int], np.ndarray] | None = None,
    device: torch.device = CPU,
    bad: BadBlocks | None = None,
) -> Callable[[int], ThreadSource]:
    """Opens a source for worker `rank` on a thread of this process, which simulates or asks `make_block` for an index.

    Args:
        device: that simulates, the worker's own.
        bad: decides about blocks that cannot be simulated; for this process alone if not given.
    """
    spec, train = problem.spec.on(device), problem.config.train
    verdict = bad or BadBlocks(train.max_bad_blocks, warn=warnings.warn)

    def index_of(number: int) -> int:
        return verdict.effective(block_index(resume, rank, number))

    def make(number: int) -> np.ndarray:
        index = index_of(number)
        return rollout(spec, data, index) if make_block is None else make_block(index)

    def failed(number: int, error: Exception) -> None:
        verdict.failed(index_of(number), described(error), isinstance(error, InputError))

    return lambda first: ThreadSource(
        make, first, train.window, failed, TRY_SHARE * train.block_seconds, lambda: verdict.skipped
    )


def train(
    trainer: Trainer,
    replay: Replay,
    problem: TrainingSetup,
    resume: Resume,
    *,
    agree: Callable[[Flags], Flags] = lambda flags: flags,
    stop: Callable[[], bool] = lambda: False,
    urgent: Callable[[], bool] = lambda: False,
    total: Callable[[dict[str, float]], dict[str, float]] = lambda counts: counts,
    milestones: Collection[int] = (),
    held_out: Callable[[], float] | None = None,
) -> Iterator[Record]:
    """Steps until `train.steps` or early stopping, yielding a record every `train.report_seconds` and at each milestone.

    Args:
        trainer: at step `trainer.steps`.
        replay: this worker's rows.
        problem: the configuration.
        resume: which blocks this run takes, and the time spent before.
        agree: makes the workers' decisions one (rank 0's).
        stop: asked now and then; true ends the loop after a checkpoint.
        urgent: asked at each report, by all workers; true saves a checkpoint at once.
        total: sums the workers' counts; of `stall_fraction` it takes the largest.
        milestones: steps, multiples of DECIDE_EVERY, at which a record is wanted whatever the clock says.
        held_out: gives the loss by which training ends early, every `train.validation_steps`; the worker that decides has it.

    Raises:
        FloatingPointError: the loss is no longer finite; the last checkpoint is from before.
    """
    config = problem.config.train
    # Filling the ring is warm-up, not a stall of the trainer.
    warming = time.monotonic()
    replay.fill(trainer.steps - resume.era_step)
    spent, paused = TimeSpent(**resume.spent).plus(warm_up=time.monotonic() - warming), 0.0
    started = reported = saved = time.monotonic()
    waited, blocks = replay.wait_seconds, replay.blocks_inserted
    # Sums stay tensors until they are reported: reading them every step would wait for the device.
    loss_sum, norm_sum, steps = torch.zeros(()), torch.zeros(()), 0
    if held_out is not None and not trainer.steps:
        # A new network's score may be the best for very few rows: where its output is 0 it is the mixture's own.
        trainer.compare(held_out())
    while trainer.steps < config.steps:
        era_step = trainer.steps - resume.era_step
        loss, norm = trainer.step(replay.batch(era_step))
        loss_sum, norm_sum, steps = loss_sum + loss, norm_sum + norm, steps + 1
        done = trainer.steps >= config.steps
        if trainer.steps % DECIDE_EVERY and not done:
            continue
        if held_out is not None and (done or trainer.steps % config.validation_steps == 0):
            trainer.compare(held_out())
        now = time.monotonic()
        flags = agree(
            Flags(
                report=trainer.steps in milestones or now - reported >= config.report_seconds,
                checkpoint=now - saved >= config.checkpoint_seconds,
                stop=stop(),
                converged=trainer.out_of_patience,
            )
        )
        step, complete = trainer.steps, done or flags.converged
        ends = complete or flags.stop
        if not (flags.report or flags.checkpoint or ends):
            continue
        loss_mean, norm_mean = float(loss_sum) / steps, float(norm_sum) / steps
        if not np.isfinite([loss_mean, norm_mean]).all():
            raise FloatingPointError(
                f"training diverged: loss {loss_mean}, gradient norm {norm_mean} at step {trainer.steps}; "
                "lower train.lr or train.grad_clip"
            )
        seconds = max(now - reported, 1e-9)
        rows = (replay.blocks_inserted - blocks) * problem.spec.rows * resume.world
        stall = (replay.wait_seconds - waited) / seconds
        # A worker that waits for blocks keeps the others waiting for its gradients, which no clock of theirs shows.
        shared = total({"stall_fraction": stall, **replay.counters()})
        stall = shared.pop("stall_fraction")
        counts = {name: value + resume.counts.get(name, 0) for name, value in shared.items()}
        spent, paused = spent.plus(stall * seconds, paused), 0.0
        at = replace(resume, seconds=resume.seconds + now - started, counts=counts, spent=asdict(spent))
        metrics = {
            "step": step,
            "time": round(time.time(), 3),
            "seconds": round(at.seconds, 3),
            "loss": loss_mean,
            "grad_norm": norm_mean,
            "lr": trainer.learning_rate(step),
            "steps_per_s": steps / seconds,
            "rollout_rows_per_s": rows / seconds,
            "stall_fraction": stall,
            "ring_fill": replay.ring.fill,
            "workers": resume.world,
            "restarts": resume.restarts,
            "next_block": block_index(resume, 0, replay.blocks_inserted),
            **(
                {"held_out_loss": trainer.best.last, "best_step": trainer.best.step}
                if trainer.best.weights
                else {}
            ),
            **goodput(spent, at.seconds, at.begun),
            **replay.progress(era_step + 1),
            **counts,
        }
        reported, waited, blocks = now, replay.wait_seconds, replay.blocks_inserted
        loss_sum, norm_sum, steps = torch.zeros(()), torch.zeros(()), 0
        checkpoint = flags.checkpoint or ends or urgent()
        saved = now if checkpoint else saved
        if complete:
            trainer.finish()
        yielded = time.monotonic()
        yield Record(step, metrics, checkpoint, ends, at)
        paused = time.monotonic() - yielded
        if ends:
            return
