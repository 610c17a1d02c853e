"""What driver and workers tell each other: the simulators in use, lines of metrics, a request to stop.

One small actor beside the driver. No block passes through it; workers ask it once a second, and rank 0 tells it each
report, so that neither needs a file that the other sees.
"""

import time
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.simulators import SimulatorHandle

ASK_SECONDS = 1.0
"""Between a worker's looks at the list of simulators."""


class Board:
    """The actor.

    Args:
        simulators: in use at first.
    """

    def __init__(self, simulators: list[SimulatorHandle]) -> None:
        self._simulators, self._lines, self._stop = simulators, list[dict[str, Any]](), False

    def simulators(self) -> list[SimulatorHandle]:
        """Those in use, in the order that workers divide among themselves."""
        return self._simulators

    def set_simulators(self, simulators: list[SimulatorHandle]) -> None:
        """From now on these are in use."""
        self._simulators = simulators

    def post(self, line: dict[str, Any]) -> bool:
        """Take a line of metrics; whether the workers should save and stop."""
        self._lines.append(line)
        return self._stop

    def take_lines(self) -> list[dict[str, Any]]:
        """Lines posted since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def ask_to_stop(self) -> None:
        """The next `post` returns true."""
        self._stop = True


def open_board(simulators: list[SimulatorHandle]) -> Any:
    """The actor's handle; it lives on this node, and no longer than the driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote(simulators)


class Membership:
    """A worker's share of the simulators on the board, asked for without waiting.

    Args:
        board: its handle.
        rank, world: worker `rank` of `world` takes every world-th simulator, or shares one if there are too few.
    """

    def __init__(self, board: Any, rank: int, world: int) -> None:
        self._board, self._rank, self._world = board, rank, world
        self.total = 0
        """Simulators on the board."""
        self.others: list[SimulatorHandle] = []
        """Those of the other workers."""
        self._asked: Any = None
        self._asked_at = 0.0
        self.mine = self._share(ray.get(board.simulators.remote()))

    def look(self) -> list[SimulatorHandle]:
        """This worker's simulators, as the board's last answer has them."""
        if self._asked is None:
            if time.monotonic() - self._asked_at > ASK_SECONDS:
                self._asked, self._asked_at = self._board.simulators.remote(), time.monotonic()
        elif ray.wait([self._asked], timeout=0)[0]:
            self.mine, self._asked = self._share(ray.get(self._asked)), None
        return self.mine

    def _share(self, simulators: list[SimulatorHandle]) -> list[SimulatorHandle]:
        self.total = len(simulators)
        if not simulators:
            return []
        mine = simulators[self._rank :: self._world] or [simulators[self._rank % len(simulators)]]
        self.others = [s for s in simulators if all(s.actor != own.actor for own in mine)]
        return mine
