"""A worker's numbers for Prometheus, by way of Ray's own metrics agents."""

from typing import Any

from ray.util.metrics import Counter, Gauge

GAUGES = {
    "step": "Optimiser steps taken",
    "loss": "Mean loss since the last report",
    "steps_per_s": "Optimiser steps per second",
    "rollout_rows_per_s": "Simulated rows inserted by all workers per second",
    "stall_fraction": "Share of the time that the worker who waited most waited for blocks",
    "ring_fill": "Share of this worker's ring that holds rows",
    "samples_per_insert": "Uses of a simulated row, on average",
    "workers": "Training workers",
    "simulators": "Simulator actors",
    "restarts": "Starts of the workers after the first one",
    "nodes": "Nodes of the cluster",
    "goodput": "Share of the time since the first start that went into steps which last",
    "useful_seconds": "Time of these steps",
    "stall_seconds": "Time in which the worker who waited most waited for blocks",
    "pause_seconds": "Time of saving, reporting and evaluating between steps",
    "warm_up_seconds": "Time of filling the ring before the first step of each start",
    "restart_seconds": "Time of starts, of waiting for room, and of work that a crash has undone",
    "blocks_skipped": "Blocks that could not be simulated and that others took the place of",
}
COUNTS = {
    "blocks_received": "Blocks kept by all workers",
    "blocks_retried": "Calls to simulators that failed",
    "blocks_foreign": "Blocks dropped because they are another run's",
    "blocks_duplicate": "Blocks dropped because they had come before",
    "nodes_lost": "Nodes of the cluster that were lost",
    "workers_lost": "Training workers that were lost",
    "simulators_lost": "Simulators' processes that were lost",
    "simulator_restarts": "Simulators that came back as a new process",
}


class Instruments:
    """Gauges `ndsm_*` and counters `ndsm_*_total` of one worker, tagged with its rank.

    Args:
        rank: the worker's; counts are over all workers, and kept by rank 0 alone.
        before: counts of the run before this worker started; Prometheus has those from its predecessors.
    """

    def __init__(self, rank: int, before: dict[str, float]) -> None:
        tags = {"rank": str(rank)}
        self._gauges = {name: Gauge(f"ndsm_{name}", text, ("rank",)) for name, text in GAUGES.items()}
        self._step_seconds = Gauge(
            "ndsm_step_seconds", "Mean time of a step since the last report", ("rank",)
        )
        self._counters = {name: Counter(f"ndsm_{name}", text, ("rank",)) for name, text in COUNTS.items()}
        for instrument in (*self._gauges.values(), self._step_seconds, *self._counters.values()):
            instrument.set_default_tags(tags)
        self._rank, self._counted = rank, {name: before.get(name, 0.0) for name in COUNTS}

    def show(self, metrics: dict[str, Any]) -> None:
        """Take up a line of metrics."""
        for name, gauge in self._gauges.items():
            if name in metrics:
                gauge.set(float(metrics[name]))
        self._step_seconds.set(1 / max(metrics["steps_per_s"], 1e-9))
        if self._rank:
            return
        for name, counter in self._counters.items():
            if (more := metrics.get(name, 0) - self._counted[name]) > 0:
                counter.inc(more)
                self._counted[name] += more
