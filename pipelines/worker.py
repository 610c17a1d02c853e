"""A Ray Train worker: its part in all steps, and what it does when something fails."""

import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import astuple, replace
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import get_device, prepare_model

from ndsm.errors import BadBlock, InputError, LeaseLost
from ndsm.runs import Run
from ndsm.runs.outage import StorageAway
from ndsm.training import (
    BadBlocks,
    BlockSource,
    Flags,
    Record,
    TrainingSetup,
    block_index,
    held_out_loss,
    local_source,
    open_replay,
)
from ndsm.training import train as training
from ndsm.workflows.resuming import save_records, start, training_identity, with_advice
from pipelines.agreement import agreed_checkpoint, settle_copy
from pipelines.coordinator import ASK_SECONDS, Membership
from pipelines.ingest import Ingest, NoAnswer
from pipelines.instruments import Instruments
from pipelines.resources import STORE_SHARE
from pipelines.versions import check_software

KEEP_SECONDS = 0.2
"""Between looks at whether the driver has written down that a block is replaced."""


def worker(settings: dict[str, Any]) -> None:
    """One Ray Train worker; it raises what a restart may mend, and what ends the workers beside it."""
    coordinator, run = settings["coordinator"], settings["run"]
    if ray.get(coordinator.failure.remote()):
        return

    def end(error: Exception) -> None:
        """Tell the coordinator what would end the training again; the workers that Ray starts next find it there."""
        ray.get(coordinator.fail.remote(error))
        # Ray then ends the other workers, which wait for this one's gradients.
        if ray.train.get_context().get_world_size() > 1:
            raise error

    try:
        train_as_worker(settings)
    except (InputError, FloatingPointError, NoAnswer, BadBlock, LeaseLost, StorageAway) as error:
        end(error)
    except OSError as error:
        # A disk that is full or gone stays so; what is behind a network may answer again.
        if run.mirror is None and not isinstance(error, ConnectionError | TimeoutError):
            end(error)
            return
        ray.get(
            coordinator.warn.remote(f"{error}; Ray starts the workers again, up to train.max_failures times")
        )
        raise


def train_as_worker(settings: dict[str, Any]) -> None:
    """Take this worker's part in all steps that are left.

    Raises:
        InputError, FloatingPointError, NoAnswer, BadBlock, LeaseLost, StorageAway: it would not go better next time.
        OSError: storage failed.
    """
    check_software(settings["software"])
    problem: TrainingSetup = settings["problem"]
    run: Run = settings["run"]
    coordinator = settings["coordinator"]
    torch.set_num_threads(problem.config.train.cpus_per_worker)
    run.outage.seconds, run.outage.warn = (
        problem.config.train.storage_seconds,
        lambda text: coordinator.warn.remote(text),
    )
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    if run.mirror is not None:
        settle_copy(run, rank, world, get_device())
    if not run.exists():
        raise InputError(
            f"node {socket.gethostname()} does not see the run in {run.path}: expected a folder that all nodes share as "
            "--out or train.storage, or a URI such as s3://bucket/runs as train.storage"
        )
    found = agreed_checkpoint(
        run, training_identity(problem), rank, world, get_device(), lambda text: coordinator.warn.remote(text)
    )
    trainer, resume = start(problem, found, world, prepare_model, sum_over_workers(world))
    if trainer.steps >= problem.config.train.steps:
        return
    # Also those after which there was no checkpoint to go on from.
    restarts = settings["restarts"] + ray.get(coordinator.group.remote()).number - 1
    resume = replace(resume, restarts=max(resume.restarts, restarts), begun=run.begun())
    device = trainer.device
    members = Membership(coordinator, rank, world)
    bad = bad_blocks(problem, coordinator).including(rank == 0)

    def open_source(first: int) -> BlockSource:
        def index_of(number: int) -> int:
            return block_index(resume, rank, number)

        # Of a run that has simulators the list may be empty for a moment.
        if not settings["simulators"]:
            data = ray.get(settings["data"][0])
            return local_source(problem, data, resume, rank, device=device, bad=bad)(first)
        config = problem.config.train
        return Ingest(
            members.look, index_of, first, config.window, problem.spec.stamp, others=lambda: members.others,
            limit=config.block_seconds, warn=lambda text: coordinator.warn.remote(f"worker {rank}: {text}"),
            bad=bad, most=most_blocks(problem.spec.block_bytes, context.get_local_world_size()),
        )  # fmt: skip

    stopped, asked = False, StopRequest(coordinator)

    def total(counts: dict[str, float]) -> dict[str, float]:
        shared = counts_together(counts, rank, world, sum_over_workers(world), device)
        return shared | {"simulators": members.total}

    def posted(records: Iterator[Record]) -> Iterator[Record]:
        nonlocal stopped
        for record in records:
            stopped = ray.get(coordinator.post.remote(record.metrics, record.final))
            yield record

    def with_events(records: Iterator[Record]) -> Iterator[Record]:
        for record in records:
            events, counts = ray.get(coordinator.take_events.remote())
            record.metrics.update(counts | ({"events": events} if events else {}))
            yield record

    # The workers' averaged weights are the same.
    decides = rank == 0 and problem.config.train.patience > 0
    replay = open_replay(problem, resume, trainer.steps, open_source, rank=rank, device=device)
    records = with_advice(training(
        trainer, replay, problem, resume, agree=agree_on(rank, world, device),
        stop=lambda: rank == 0 and (stopped or run.stop_file.exists() or asked()),
        urgent=Notices(ray.train.get_preemption_info), total=total,
        held_out=held_out_loss(problem, ray.get(settings["data"][0]), trainer) if decides else None,
    ), run)  # fmt: skip
    instruments = Instruments(rank, resume.counts | settings["lost"])
    if rank == 0:
        coordinator.begin.remote(trainer.steps, world)
    try:
        for record in posted(save_records(with_events(records), trainer, run)) if rank == 0 else records:
            instruments.show(record.metrics)
            # A barrier, and at most one report per health check of Ray's controller gets through: only
            # where the workers save anyway.
            if record.checkpoint:
                ray.train.report(record.metrics)
    finally:
        replay.source.close()


def most_blocks(block_bytes: int, workers: int) -> float:
    """Return how many blocks may be on their way to each of this node's workers: all end in its object store.

    Args:
        block_bytes: of one.
        workers: on this node.
    """
    here = ray.get_runtime_context().get_node_id()
    (store,) = (n["Resources"].get("object_store_memory", 0.0) for n in ray.nodes() if n["NodeID"] == here)
    return STORE_SHARE * store / (workers * block_bytes)


class StopRequest:
    """Callable that is true once the coordinator was asked to stop; it asks now and then and waits for no answer.

    A stop file is not seen on another machine without a shared folder, and late on a network file system.

    Args:
        coordinator: its handle.
    """

    def __init__(self, coordinator: Any) -> None:
        self._coordinator, self._asked, self._asked_at = coordinator, None, 0.0

    def __call__(self) -> bool:
        if self._asked is None:
            if time.monotonic() - self._asked_at > ASK_SECONDS:
                self._asked, self._asked_at = self._coordinator.stops.remote(), time.monotonic()
        elif ray.wait([self._asked], timeout=0)[0]:
            answer, self._asked = self._asked, None
            return bool(ray.get(answer))
        return False


def bad_blocks(problem: TrainingSetup, coordinator: Any) -> BadBlocks:
    """Which blocks of the run are replaced; those that this worker cannot have simulated are first written down by the driver."""
    most = problem.config.train.max_bad_blocks

    def record(index: int, reason: str) -> bool:
        if not ray.get(coordinator.skip.remote(index, reason, most)):
            return False
        while index not in ray.get(coordinator.skips_kept.remote()):
            time.sleep(KEEP_SECONDS)
        return True

    known = ray.get(coordinator.skips_kept.remote())
    return BadBlocks(most, known, record, lambda text: coordinator.warn.remote(text))


class Notices:
    """Callable that is true once for each node that is announced to end soon, before which a checkpoint should be saved.

    Args:
        ask: gives what is known, None for nothing; Ray repeats it until the node is gone.
    """

    def __init__(self, ask: Callable[[], object | None]) -> None:
        self._ask = ask
        self._known: object | None = None

    def __call__(self) -> bool:
        before, self._known = self._known, self._ask()
        return self._known is not None and self._known != before


def sum_over_workers(world: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Sums a tensor over the workers, so that what each learns from it is the same."""

    def reduce(x: torch.Tensor) -> torch.Tensor:
        if world > 1:
            dist.all_reduce(x)
        return x

    return reduce


def counts_together(
    counts: dict[str, float],
    rank: int,
    world: int,
    reduce: Callable[[torch.Tensor], torch.Tensor],
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Return the sums of the workers' counts; of `stall_fraction` the largest.

    Args:
        counts: of worker `rank` of `world`.
        reduce: sums a tensor over the workers.
    """
    table = torch.zeros(len(counts), world, dtype=torch.float64, device=device)
    table[:, rank] = torch.tensor(list(counts.values()), dtype=torch.float64)
    found: dict[str, float] = {}
    for name, values in zip(counts, reduce(table).tolist(), strict=True):
        if name == "stall_fraction":
            found[name] = max(values)
        else:
            found[name] = sum(values) if name.endswith("seconds") else round(sum(values))
    return found


def agree_on(rank: int, world: int, device: torch.device) -> Callable[[Flags], Flags]:
    """Makes rank 0's decision everyone's: clocks differ, and a worker that reports alone waits for ever."""

    def agree(flags: Flags) -> Flags:
        if world == 1:
            return flags
        bits = torch.tensor(astuple(flags), dtype=torch.uint8, device=device)
        dist.broadcast(bits, src=0)
        return Flags(*(bool(b) for b in bits))

    return agree
