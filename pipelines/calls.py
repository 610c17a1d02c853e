"""The calls of a worker to its simulators that are not answered yet; each question about them in constant time.

A worker of a large cluster has a thousand simulators and two calls to each: looking through all of them for every block would
take its processor from the training.
"""

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from pipelines.handles import SimulatorHandle


@dataclass
class Call:
    """A block that a simulator was asked for."""

    number: int
    index: int
    """Of the block that was asked for, which differs where another one takes its place."""
    simulator: SimulatorHandle
    asked: float
    """By the monotonic clock."""
    ahead: int
    """Calls that this simulator answers first, and this one."""
    late: bool = False
    """Whether another simulator was asked since."""


class Calls:
    """Calls by reference, in the order in which they were made, and the simulators that more may go to."""

    def __init__(self) -> None:
        self._all: dict[Any, Call] = {}
        self._of: dict[Any, dict[Any, Call]] = {}
        self._numbers: Counter[int] = Counter()
        self._simulators: dict[Any, SimulatorHandle] = {}
        self._by_load: list[dict[Any, None]] = [{}]

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, ref: Any) -> Call:
        return self._all[ref]

    def use(self, simulators: list[SimulatorHandle]) -> None:
        """Replace the simulators that more calls may go to."""
        self._simulators = {simulator.actor: simulator for simulator in simulators}
        self._by_load = [{}]
        for actor in self._simulators:
            self._place(actor)

    def owns(self, actor: Any) -> bool:
        """Whether more calls may go to a simulator."""
        return actor in self._simulators

    def add(self, ref: Any, call: Call) -> None:
        """Take a call that was made."""
        actor = call.simulator.actor
        self._displace(actor)
        self._all[ref] = call
        self._of.setdefault(actor, {})[ref] = call
        self._numbers[call.number] += 1
        self._place(actor)

    def remove(self, ref: Any) -> Call:
        """Take a call that is answered or given up; return it."""
        call = self._all.pop(ref)
        actor = call.simulator.actor
        self._displace(actor)
        own = self._of[actor]
        del own[ref]
        if not own:
            del self._of[actor]
        self._numbers[call.number] -= 1
        if not self._numbers[call.number]:
            del self._numbers[call.number]
        self._place(actor)
        return call

    def load(self, actor: Any) -> int:
        """Calls to a simulator."""
        return len(self._of.get(actor, ()))

    def count(self, number: int) -> int:
        """Calls for the block of a number."""
        return self._numbers[number]

    def of_number(self, number: int) -> list[Call]:
        """Calls for the block of a number."""
        return [call for call in self._all.values() if call.number == number]

    def of(self, actor: Any) -> list[Call]:
        """Calls to a simulator, the oldest first."""
        return list(self._of.get(actor, {}).values())

    def heads(self) -> Iterator[tuple[Any, Call]]:
        """The oldest call to each simulator, with its reference: they answer in order, so that only these can be next."""
        return (next(iter(own.items())) for own in self._of.values())

    def least_busy(self, avoid: Collection[Any]) -> SimulatorHandle | None:
        """The simulator with the fewest calls among those that more may go to; None if all are to be avoided."""
        for actors in self._by_load:
            for actor in actors:
                if actor not in avoid:
                    return self._simulators[actor]
        return None

    def _place(self, actor: Any) -> None:
        if actor in self._simulators:
            load = self.load(actor)
            while len(self._by_load) <= load:
                self._by_load.append({})
            self._by_load[load][actor] = None

    def _displace(self, actor: Any) -> None:
        if actor in self._simulators:
            self._by_load[self.load(actor)].pop(actor, None)
