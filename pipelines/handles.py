"""What the board and the workers hold of a simulator, apart from the simulation and all that it needs to be imported: the board's
process does without PyTorch.
"""

from dataclasses import dataclass
from typing import Any

import ray


@dataclass(frozen=True)
class SimulatorHandle:
    """A simulator actor and the rows it starts from.

    The reference goes along with every call: an actor that Ray restarts gets it again without holding it as a
    constructor's argument, which Ray does not keep alive for restarts.
    """

    actor: Any
    data: list[Any]

    def block(self, index: int) -> Any:
        """Reference to block number `index`; the caller owns it."""
        return self.actor.block.remote(index, self.data)

    def stop(self) -> None:
        """End the actor."""
        ray.kill(self.actor)
