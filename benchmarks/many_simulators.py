"""What a thousand simulators cost a training worker, and the coordinator that 64 workers ask.

    python benchmarks/many_simulators.py [--simulators 1000] [--workers 64] [--block-seconds 20] [--seconds 20]

Stand-ins take the place of simulators: calls to one asynchronous actor that answers after `--block-seconds`, so that the worker's
side is real (references, waits, fetched blocks) and no processor simulates. Processor time is that of the worker's ingest thread and of
its whole process, in ms for each second, less that of a process which does nothing: `waiting_ms_per_s` while no block comes,
`ms_per_block` more for each. The coordinator and the list of simulators are
the real ones, with handles of actors that are never started. The last line is a JSON object with all figures.
"""

import argparse
import asyncio
import json
import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

NEVER = 1e6
"""Seconds of a block that does not come while it is measured."""


def stand_in_actor(block_seconds: float) -> Any:
    """An actor that makes blocks of 1 MB after a time, thousands at once."""
    import ray

    class Answers:
        def __init__(self) -> None:
            self.rows = np.zeros((250, 1000), dtype=np.float32)

        async def block(self, index: int) -> dict[str, Any]:
            # The first answers would otherwise all come at once.
            await asyncio.sleep(block_seconds * (0.5 + index % 1009 / 1009))
            return {"rows": self.rows, "index": index, "stamp": "it", "life": 1, "seconds": block_seconds}

    return ray.remote(num_cpus=0, max_concurrency=100_000)(Answers).remote()


def cost_of_ingest(simulators: int, block_seconds: float, seconds: float) -> dict[str, float]:
    """Processor time of a worker's ingest thread and of its process, ms per second, while it takes what comes."""
    from pipelines.handles import SimulatorHandle
    from pipelines.ingest import Ingest

    actor = stand_in_actor(block_seconds)

    @dataclass(frozen=True)
    class StandIn(SimulatorHandle):
        def block(self, index: int) -> Any:
            return actor.block.remote(index)

        def is_alive(self) -> bool:
            return False

    times: list[float] = []

    class Measured(Ingest):
        def _answers(self) -> list[Any]:
            times.append(time.thread_time())
            return super()._answers()

    handles: list[SimulatorHandle] = [StandIn(f"stand-in {i}", []) for i in range(simulators)]
    ingest = Measured(lambda: handles, lambda number: number, 0, 2, "it")
    taken = 0
    stop = threading.Event()

    def take() -> None:
        nonlocal taken
        while not stop.is_set():
            ingest.take(taken)
            taken += 1

    threading.Thread(target=take, daemon=True).start()
    # All are asked, and where there are to be answers some have come.
    while ingest.counters()["blocks_sent"] < 2 * simulators or (
        block_seconds < NEVER and taken < simulators / 10
    ):
        time.sleep(0.1)
    time.sleep(1.0)
    begun, cpu, wall, before = times[-1], time.process_time(), time.monotonic(), taken
    time.sleep(seconds)
    passed = time.monotonic() - wall
    found = {
        "ingest_ms_per_s": 1000 * (times[-1] - begun) / passed,
        "process_ms_per_s": 1000 * (time.process_time() - cpu) / passed,
        "blocks_per_s": (taken - before) / passed,
    }
    stop.set()
    ingest.close()
    return found


def cost_of_coordinator(simulators: int, workers: int, seconds: float) -> dict[str, float]:
    """What the list of simulators costs: to divide it anew, to ask for it, and the coordinator that all workers ask."""
    import ray

    from pipelines import coordinator
    from pipelines.handles import SimulatorHandle

    class Never:
        pass

    # More than any machine has: real handles without processes.
    never = ray.remote(num_cpus=0, resources={"nowhere": 1})(Never)
    handles = [SimulatorHandle(never.remote(), []) for _ in range(simulators)]
    actor = coordinator.open_coordinator(handles)
    begun = time.process_time()
    members = [coordinator.Membership(actor, rank, workers) for rank in range(workers)]
    divided = (time.process_time() - begun) / workers
    cpu, wall = time.process_time(), time.monotonic()
    asked = 0
    while time.monotonic() - wall < seconds:
        # Each worker looks ten times a second and asks once.
        for member in members:
            member.look()
        time.sleep(0.1)
    looks = (time.process_time() - cpu) / (time.monotonic() - wall) / workers
    begun = time.perf_counter()
    while time.perf_counter() - begun < 3.0:
        ray.get(actor.newer_simulators.remote(0))
        asked += 1
    answer = (time.perf_counter() - begun) / asked
    ray.kill(actor)
    for handle in handles:
        ray.kill(handle.actor)
    return {
        "divide_ms": 1000 * divided,
        "look_ms_per_s": 1000 * looks,
        "answer_ms": 1000 * answer,
        "coordinator_busy": workers * answer / coordinator.ASK_SECONDS,
    }


def main() -> None:
    """Measure both and print them."""
    import ray

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--simulators", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--block-seconds", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    options = parser.parse_args()
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error",
        object_store_memory=4 << 30,
    )  # fmt: skip
    cpu, wall = time.process_time(), time.monotonic()
    time.sleep(3)
    idle = 1000 * (time.process_time() - cpu) / (time.monotonic() - wall)
    found: dict[str, float] = {"simulators": options.simulators, "workers": options.workers}
    waiting = cost_of_ingest(options.simulators, NEVER, options.seconds)
    found["waiting_ms_per_s"] = waiting["ingest_ms_per_s"]
    found |= cost_of_ingest(options.simulators, options.block_seconds, options.seconds)
    found["process_ms_per_s"] -= idle
    found["ms_per_block"] = (found["ingest_ms_per_s"] - found["waiting_ms_per_s"]) / found["blocks_per_s"]
    found |= cost_of_coordinator(options.simulators, options.workers, options.seconds / 2)
    for name, value in found.items():
        print(f"{name:20} {value:10.3f}")
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))


if __name__ == "__main__":
    main()
