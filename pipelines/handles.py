"""What the coordinator and the workers hold of a simulator, apart from the simulation and all that it needs to be imported: the coordinator's
process does without PyTorch.
"""

from dataclasses import dataclass
from typing import Any

import ray


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

    def stop(self) -> None:
        """End the actor."""
        ray.kill(self.actor)
