"""What the coordinator and the workers hold of a simulator, apart from the simulation and all that it needs to be imported: the coordinator's
process does without PyTorch.
"""

from dataclasses import dataclass
from typing import Any

import ray


class BlockFailed(Exception):
    """A block that a simulator could not make.

    Args:
        index: the block's.
        reason: what went wrong; the exception itself may be of a class that only the user's script knows.
        bad_input: whether it was an `InputError`.
    """

    def __init__(self, index: int, reason: str, bad_input: bool) -> None:
        super().__init__(index, reason, bad_input)
        self.index, self.reason, self.bad_input = index, reason, bad_input


@dataclass(frozen=True)
class SimulatorHandle:
    """A simulator actor and references to what it simulates, and from which rows.

    These go along with every call: an actor that Ray restarts gets them again without holding them as a constructor's
    arguments, which Ray does not keep alive for restarts (those above 100 KB, as the modes of images are).
    """

    actor: Any
    inputs: list[Any]

    def block(self, index: int) -> Any:
        """Reference to block number `index`; the caller owns it."""
        return self.actor.block.remote(index, self.inputs)

    def is_alive(self) -> bool:
        """Whether its process runs, so that a call without an answer is at work or hangs; not while it waits to be started."""
        from ray.core.generated import gcs_pb2

        # `ray.util.state` would need the dashboard.
        accessor = ray._private.state.state._connect_and_get_accessor()
        entry = accessor.get_actor_info(self.actor._actor_id)
        found = entry and gcs_pb2.ActorTableData.FromString(entry)
        return bool(found) and found.state == gcs_pb2.ActorTableData.ALIVE

    def restart(self) -> None:
        """End the process and have Ray start another; Ray repeats all its calls there but those that were cancelled."""
        ray.kill(self.actor, no_restart=False)

    def stop(self) -> None:
        """End the actor."""
        ray.kill(self.actor)
