"""The checkpoint that all workers go on from: rank 0 chooses it, everyone else loads that one or none."""

import socket
import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from ndsm.errors import InputError
from ndsm.runs import Run
from ndsm.runs.checkpoints import Checkpoint

PATIENCE = 75.0
"""Seconds in which a file that rank 0 has has to appear: beyond the 60 s that an NFS client may keep an old list of a folder."""
AGAIN_SECONDS = 0.5


def settle_copy(run: Run, rank: int, world: int, device: torch.device | str) -> None:
    """Bring the run's folders on the workers' machines and its remote copy to the same state.

    A worker whose machine has a newer checkpoint than the copy, because the storage was away when it was saved, uploads it
    before all others download. All workers call it.

    Raises:
        StorageAway: the storage has not answered for `train.storage_seconds`.
    """
    steps = torch.zeros(world, dtype=torch.int64, device=device)
    steps[rank] = run.steps_ahead()
    if world > 1:
        dist.all_reduce(steps)
    if int(steps.max()) and int(steps.argmax()) == rank:
        run.push()
    if world > 1:
        dist.barrier()
    run.pull()


def agreed_checkpoint(
    run: Run,
    identity: dict[str, str],
    rank: int,
    world: int,
    device: torch.device | str,
    warn: Callable[[str], object],
    patience: float = PATIENCE,
) -> Checkpoint | None:
    """Return the newest whole checkpoint that rank 0 finds; None for all workers if it finds none.

    Workers that each looked for themselves could see different files, as a network file system shows them, and would
    train on from different weights.

    Args:
        identity: see `Run.find_checkpoint`.
        device: of a tensor that the process group broadcasts.
        warn: told of a damaged file, and of a file that is waited for.
        patience: seconds to wait for rank 0's file.

    Raises:
        InputError: this worker does not see rank 0's file; or rank 0 finds no readable one, see `Run.find_checkpoint`.
    """
    found = run.find_checkpoint(identity, warn) if rank == 0 else None
    if world == 1:
        return found
    decision = torch.zeros(66, dtype=torch.int64, device=device)
    if found is not None:
        decision[:] = torch.tensor([1, int(found.state["steps"]), *bytes.fromhex(found.digest)])
    dist.broadcast(decision, src=0)
    there, step, *digest = decision.tolist()
    if rank == 0 or not there:
        return found
    return _await(run, step, bytes(digest).hex(), rank, warn, patience)


def _await(
    run: Run, step: int, digest: str, rank: int, warn: Callable[[str], object], patience: float
) -> Checkpoint:
    """The checkpoint of a step with this hash, as soon as it is seen here."""
    deadline, told = time.monotonic() + patience, False
    while (found := run.checkpoint_of(step, digest)) is None:
        place = f"worker {rank} on {socket.gethostname()} does not see rank 0's checkpoint of step {step} in {run.path}"
        if time.monotonic() > deadline:
            raise InputError(
                f"{place} with the same content: expected a folder that all nodes share as --out or train.storage, or a URI"
            )
        if not told:
            warn(f"{place}; waiting up to {patience:g} s")
            told = True
        time.sleep(AGAIN_SECONDS)
    return found
