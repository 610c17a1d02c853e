"""Memory, object store and open files of a training run through Ray over time.

    python benchmarks/soak.py [--minutes 20] [--workers 2] [--simulators 2]

Private memory (Linux's Uss) and open files are summed by kind of process. After a fifth of the time, which is warm-up, each
series is fitted with a line; flat means that what the line gains until the end is less than 5 % (files: less than 10).
"""

import argparse
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil


def sample() -> dict[str, tuple[float, int]]:
    """MB of private memory and number of open files of this process, workers and simulators."""
    found: dict[str, tuple[float, int]] = {}
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            name = (process.cmdline() or [""])[0].split(".")[0]
            kind = "driver" if process == me else name.removeprefix("ray::")
            if kind in ("driver", "RayTrainWorker", "Simulator", "Coordinator"):
                memory, files = found.get(kind, (0.0, 0))
                found[kind] = (memory + process.memory_full_info().uss / 2**20, files + process.num_fds())
        except psutil.Error:
            continue
    return found


def store_used() -> float:
    """MB in the object store."""
    import ray
    from ray._private.internal_api import memory_summary

    summary = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    line = next(line for line in summary.splitlines() if line.startswith("Plasma memory usage"))
    return float(line.split()[3])


def gain(values: np.ndarray) -> float:
    """What a fitted line gains from the first value to the last."""
    slope, _ = np.polyfit(np.arange(len(values)), values, 1)
    return float(slope * (len(values) - 1))


def main() -> None:
    """Train for so long, look, and say whether anything grew; exit code 1 if it did."""
    import ray

    from ndsm.config import load_config
    from ndsm.runs import Run
    from ndsm.workflows.setup import begin, prepare
    from pipelines.cluster import find_cluster
    from pipelines.train import room_for, train_on_ray

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--simulators", type=int, default=2)
    options = parser.parse_args()
    settings = {
        "train.steps": 10**8, "train.device": "cpu", "train.workers": options.workers,
        "train.simulators": options.simulators, "train.lr_schedule": "constant",
    }  # fmt: skip
    needed = options.workers + options.simulators
    ray.init(
        address="local", num_cpus=needed, include_dashboard=False, log_to_driver=False, logging_level="error"
    )
    with tempfile.TemporaryDirectory() as folder:
        experiment = prepare(load_config("digits", settings), Run(Path(folder) / "run"))
        begin(experiment)
        rows: list[dict[str, float]] = []
        steps: list[int] = []
        over = threading.Event()

        def look() -> None:
            while not steps and not over.wait(1):
                pass
            started = time.monotonic()
            while time.monotonic() - started < 60 * options.minutes and not over.wait(10):
                try:
                    row: dict[str, float] = {"object store MB": store_used()}
                except ray.exceptions.RaySystemError:
                    # A starved machine answers late; the next look is ten seconds away.
                    continue
                for kind, (memory, files) in sample().items():
                    row |= {f"{kind} MB": memory, f"{kind} files": files}
                rows.append(row)
            experiment.run.stop_file.touch()

        watcher = threading.Thread(target=look, daemon=True)
        watcher.start()
        train, problem = experiment.dataset.train, experiment.problem
        try:
            with room_for(problem, find_cluster(), train.nbytes, False) as room:
                room.wait(options.simulators)
                train_on_ray(
                    problem,
                    experiment.run,
                    ray.put(train),
                    lambda line: steps.append(line["step"]),
                    room,
                    options.simulators,
                )
        finally:
            over.set()
            watcher.join()
    kept = rows[len(rows) // 5 :]
    print(f"{steps[-1]} steps, {len(rows)} looks, the first {len(rows) - len(kept)} are warm-up")
    grew = False
    for name in sorted(set.intersection(*(set(row) for row in kept))):
        values = np.array([row[name] for row in kept])
        limit = 10.0 if name.endswith("files") else max(0.05 * values[0], 5.0)
        grows = gain(values) > limit
        grew |= grows
        print(
            f"{name:24} {values[0]:9.1f} -> {values[-1]:9.1f}, line {gain(values):+7.1f}, {'GROWS' if grows else 'flat'}"
        )
    sys.exit(int(grew))


if __name__ == "__main__":
    main()
