"""What driver and workers tell each other: the simulators in use, lines of metrics, a request to stop, what went wrong.

One small actor beside the driver. No block passes through it; workers ask it once a second, and rank 0 tells it each
report, so that neither needs a file that the other sees, or a disk that can still be written to.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipelines.handles import SimulatorHandle

ASK_SECONDS = 1.0
"""Between a worker's looks at the list of simulators."""


@dataclass(frozen=True)
class Group:
    """The workers that there are, as far as is known."""

    number: int = 0
    """Groups of workers that have started so far, with this one."""
    nodes: tuple[str, ...] = ()
    """Ids of the workers' nodes; empty if none lives."""
    step: int | None = None
    """From which they go on, once they do."""
    world: int = 0
    """How many go on."""
    reports: int = 0
    """Lines of metrics of theirs."""
    failed: tuple[int, ...] = ()
    """Ranks of those that failed, for which all of them end."""
    saved: bool = False
    """Whether the last line came with everything saved."""


class Coordinator:
    """The actor.

    Args:
        simulators: as `sealed` gives those in use at first.
    """

    def __init__(self, simulators: list[Any]) -> None:
        self._simulators, self._version, self._stop = simulators, 0, False
        self._lines: list[dict[str, Any]] = []
        self._failure: Exception | None = None
        self._warnings: list[str] = []
        self._controller: tuple[list[Any], str] | None = None
        self._group = Group()
        self._skipped: dict[int, str] = {}
        self._kept: set[int] = set()
        self._events: list[str] = []
        self._counts: dict[str, int] = {}

    def simulators(self) -> list[Any]:
        """Those in use, sealed, in the order that workers divide among themselves."""
        return self._simulators

    def newer_simulators(self, version: int) -> tuple[int, list[Any]] | None:
        """The same with the list's version; None if that is `version`: to read a reference costs more than all else of an answer."""
        return None if version == self._version else (self._version, self._simulators)

    def set_simulators(self, simulators: list[Any]) -> None:
        """Replace the simulators in use, given as sealed handles."""
        self._simulators, self._version = simulators, self._version + 1

    def post(self, line: dict[str, Any], final: bool = False) -> bool:
        """Take a line of metrics; whether the workers should save and stop.

        Args:
            final: whether it is the last one, with everything saved.
        """
        self._lines.append(line)
        self._group = replace(self._group, reports=self._group.reports + 1, saved=final)
        return self._stop

    def begin(self, step: int, world: int) -> None:
        """Take from rank 0 that so many workers go on from this step."""
        self._group = replace(self._group, step=step, world=world)

    def note_workers(self, nodes: list[str]) -> None:
        """Take from Ray Train where workers have started, the ids of their nodes; none: that they have ended."""
        here = self._group
        self._group = Group(here.number + 1, tuple(nodes)) if nodes else replace(here, nodes=())

    def note_loss(self, ranks: list[int]) -> None:
        """Take from Ray Train which workers failed."""
        self._group = replace(self._group, failed=tuple(ranks))

    def group(self) -> "Group":
        """The workers that there are."""
        return self._group

    def warn(self, text: str) -> None:
        """Take what a worker wants the user to know."""
        self._warnings.append(text)

    def take_news(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Lines and warnings since the last call."""
        news = self._lines, self._warnings
        self._lines, self._warnings = [], []
        return news

    def skip(self, index: int, reason: str, most: int) -> bool:
        """Take the index of a block that cannot be simulated; false if so many are replaced already."""
        if index not in self._skipped and len(self._skipped) >= most:
            return False
        self._skipped[index] = reason
        return True

    def skips_to_keep(self) -> dict[int, str]:
        """Blocks that the driver has not written down yet, and why each is replaced."""
        return {index: reason for index, reason in self._skipped.items() if index not in self._kept}

    def keep_skips(self, indices: list[int]) -> None:
        """Take note that these blocks are written down as replaced."""
        self._kept.update(indices)
        self._skipped.update({index: self._skipped.get(index, "") for index in indices})

    def skips_kept(self) -> set[int]:
        """Blocks that are replaced, as the run has it."""
        return self._kept

    def note_events(self, events: list[str], counts: dict[str, int]) -> None:
        """Take from the driver what came and went, and what there is and was lost so far, for the next line of metrics."""
        self._events += events
        self._counts = counts

    def take_events(self) -> tuple[list[str], dict[str, int]]:
        """Sentences since the last call, and the counts."""
        events, self._events = self._events, []
        return events, self._counts

    def fail(self, error: Exception) -> None:
        """Take what ended the training and would end it again: a restart is of no use."""
        self._failure = self._failure or error

    def failure(self) -> Exception | None:
        """The first that `fail` was told of."""
        return self._failure

    def note_controller(self, handle: list[Any], name: str) -> None:
        """Take Ray Train's own actor, sealed, and its id."""
        self._controller = handle, name

    def controller(self) -> tuple[list[Any], str] | None:
        """Return what `note_controller` was given."""
        return self._controller

    def ask_to_stop(self) -> None:
        """From now on `post` and `stops` return true."""
        self._stop = True

    def stops(self) -> bool:
        """Whether the workers should save and stop."""
        return self._stop


def sealed(what: Any) -> list[Any]:
    """A list of a reference to handles of actors: who gets the handles themselves imports those actors' classes, and PyTorch
    with them."""
    return [ray.put(what)]


def open_coordinator(simulators: list[SimulatorHandle]) -> Any:
    """The actor's handle; it lives on this node, and no longer than the driver."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Coordinator).remote(sealed(simulators))


class Membership:
    """A worker's share of the simulators on the coordinator, asked for without waiting.

    Args:
        coordinator: its handle.
        rank, world: worker `rank` of `world` takes every world-th simulator, or shares one if there are too few.
    """

    def __init__(self, coordinator: Any, rank: int, world: int) -> None:
        self._coordinator, self._rank, self._world = coordinator, rank, world
        self.total = 0
        """Simulators on the coordinator."""
        self.others: list[SimulatorHandle] = []
        """Those of the other workers."""
        self._asked: Any = None
        self._asked_at = 0.0
        self.mine: list[SimulatorHandle] = []
        """Those of this worker."""
        self._version = -1
        """Of the list that the last answer was."""
        self._divide(ray.get(coordinator.newer_simulators.remote(self._version)))

    def look(self) -> list[SimulatorHandle]:
        """This worker's simulators, as the coordinator's last answer has them."""
        if self._asked is None:
            if time.monotonic() - self._asked_at > ASK_SECONDS:
                self._asked, self._asked_at = (
                    self._coordinator.newer_simulators.remote(self._version),
                    time.monotonic(),
                )
        elif ray.wait([self._asked], timeout=0)[0]:
            self._divide(ray.get(self._asked))
            self._asked = None
        return self.mine

    def _divide(self, answer: tuple[int, list[Any]] | None) -> None:
        if answer is None:
            return
        self._version, (reference,) = answer
        simulators: list[SimulatorHandle] = ray.get(reference)
        self.total = total = len(simulators)
        # By their places: comparing handles would take a second for a thousand of them.
        own = range(self._rank, total, self._world)
        if total and not own:
            own = range(self._rank % total, self._rank % total + 1)
        self.mine = [simulators[i] for i in own]
        self.others = [simulator for i, simulator in enumerate(simulators) if i not in own]
