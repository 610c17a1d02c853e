"""A run's nodes, workers and simulators as they go and come: one sentence for each change, and how many were lost."""

from collections.abc import Callable, Mapping

from pipelines.coordinator import Group

LOSSES = ("nodes_lost", "workers_lost", "simulators_lost")
FROM = "the workers start again from the last checkpoint"


class Journal:
    """Compares what there is with what there was, and tells the difference.

    Args:
        note: takes a sentence.
        lost: counts of an earlier sitting, see `lost`.
    """

    def __init__(self, note: Callable[[str], None], lost: Mapping[str, int] | None = None) -> None:
        self._note = note
        self.lost = dict.fromkeys(LOSSES, 0) | dict(lost or {})
        """Nodes of the cluster, workers' and simulators' processes that were lost so far."""
        self.alive: dict[str, str] | None = None
        """Names of the nodes that there are, by id; None before the first look."""
        self._group, self._begun, self._world = Group(), 0, 0
        self._causes: list[str] = []
        self._failure_told = 0
        self._simulators: int | None = None
        self._restarts: float | None = None

    def nodes(self, alive: Mapping[str, str], simulators: Mapping[str, int]) -> None:
        """Tell which nodes are gone and which have come.

        Args:
            alive: names of the nodes that there are, by id.
            simulators: how many of the run's are on a node, by its id.
        """
        before, self.alive = self.alive, dict(alive)
        if before is None:
            return
        for id in before.keys() - alive.keys():
            self.lost["nodes_lost"] += 1
            cause = f"lost node {before[id]}"
            if workers := self._group.nodes.count(id):
                self._causes.append(cause)
                self.lost["workers_lost"] += workers
                # Of the others the end is only a consequence.
                self._failure_told = self._group.number
                self._note(f"{cause} with {workers} of {len(self._group.nodes)} workers; {FROM}")
            elif count := simulators.get(id, 0):
                others = "with the others" if sum(simulators.values()) > count else "once others run"
                self._note(f"{cause} with {_many(count, 'simulator')}; training goes on {others}")
            else:
                self._note(f"{cause}, which this run did not use")
            self.lost["simulators_lost"] += simulators.get(id, 0)
        for id in alive.keys() - before.keys():
            self._causes.append(f"node {alive[id]} came")
            self._note(f"node {alive[id]} came")
        if self._group.failed and self._failure_told < self._group.number:
            self._failure_told = self._group.number
            self.lost["workers_lost"] += len(self._group.failed)
            named = " and ".join(f"worker {rank}" for rank in self._group.failed)
            self._causes.append(f"lost {named}")
            self._note(f"lost {named}; {FROM}")

    def workers(self, group: Group) -> None:
        """Tell with how many workers training goes on after they were started again."""
        if group.nodes or group.failed:
            # Of a group that has ended its nodes stay known.
            nodes = group.nodes or self._group.nodes
            self._group = Group(group.number, nodes, failed=group.failed)
        if group.step is None or not group.nodes or group.number == self._begun:
            return
        first, more = not self._begun, group.world > self._world
        self._begun, self._world = group.number, group.world
        causes = [cause for cause in self._causes if more or not cause.endswith(" came")]
        self._causes = []
        if not first:
            why = " and ".join(causes) or ("there is room for more" if more else "the workers started again")
            self._note(f"{why}; going on with {_many(group.world, 'worker')} from step {group.step}")

    def simulators(self, count: int, restarts: float) -> None:
        """Tell of simulators that are fewer or more, and that came back.

        Args:
            count: there are now.
            restarts: of simulators' processes so far, as the workers count them.
        """
        if self._restarts is not None and (more := int(restarts - self._restarts)) > 0:
            self.lost["simulators_lost"] += more
            self._note(f"lost {_many(more, 'simulator')}, which came back as a new process")
        # Workers that start again count from their checkpoint.
        self._restarts = max(restarts, self._restarts or 0.0)
        before, self._simulators = self._simulators, count
        if before is not None and before != count:
            self._note(f"{_many(count, 'simulator')} in place of {before}")


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
