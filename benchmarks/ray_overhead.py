"""Training steps per second through Ray over `--local`, and the workers' stall.

    python benchmarks/ray_overhead.py [--presets toy-arcs digits] [--shapes 1x1] [--steps 3000] [--rounds 2] [--root data]

A shape is workers x simulators; 1x0 simulates in the worker as `--local` does, so that all it adds is Ray's own. Workers
share a step's rows. All run the same configuration, one thread in every process, in turn. The rate is the
median over the lines of metrics.jsonl after the first two; the stall is the share of time after warm-up that
a worker waited for blocks.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path


def train(preset: str, shape: str | None, options: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Median steps/s and mean stall fraction of one run, `--local` if it has no shape."""
    name = shape or "local"
    command = [
        sys.executable, "-m", "ndsm", "train", preset, "--out", str(folder), "--name", name, "--fresh",
        "--train.steps", str(options.steps), "--evaluate.n", "100", "--train.checkpoint-seconds", "1000",
        "--train.report-seconds", "1", "--data.root", options.root,
    ]  # fmt: skip
    if shape is None:
        command += ["--local"]
    else:
        workers, simulators = shape.split("x")
        command += ["--train.workers", workers, "--train.simulators", simulators]
    # One thread on both sides: --local would otherwise use what cores are left.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.cluster}
    done = subprocess.run(command, check=False, capture_output=True, env=environment, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()][2:]
    return statistics.median(m["steps_per_s"] for m in lines), statistics.mean(
        m["stall_fraction"] for m in lines
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["toy-arcs", "digits"])
    parser.add_argument("--shapes", nargs="+", default=["1x1"])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--root", default="data", help="folder with MNIST/raw")
    options = parser.parse_args()
    cores = max(sum(map(int, shape.split("x"))) for shape in options.shapes)
    with as_many_cpus(cores) as options.cluster:
        compare(options)


@contextlib.contextmanager
def as_many_cpus(count: int) -> Iterator[dict[str, str]]:
    """The environment of a cluster that claims so many CPUs; nothing, if the machine has them."""
    if count <= (os.cpu_count() or 1):
        yield {}
        return
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": count, "object_store_memory": 2 << 30})
    try:
        yield {"RAY_ADDRESS": made.address}
    finally:
        made.shutdown()


def compare(options: argparse.Namespace) -> None:
    """Train every preset in every shape, and print."""
    for preset in options.presets:
        found: dict[str | None, list[tuple[float, float]]] = {shape: [] for shape in (None, *options.shapes)}
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(options.rounds):
                for shape, runs in found.items():
                    runs.append(train(preset, shape, options, Path(folder)))
                    rate, stall = runs[-1]
                    print(
                        f"  {preset} {shape or '--local'}: {rate:.4g} steps/s, stall {100 * stall:.2f} %",
                        flush=True,
                    )
        local = [rate for rate, _ in found.pop(None)]
        for shape, runs in found.items():
            ratios = [rate / alone for (rate, _), alone in zip(runs, local, strict=True)]
            print(
                f"{preset} {shape}: Ray/local steps per second {statistics.median(ratios):.2f} "
                f"({', '.join(f'{r:.2f}' for r in ratios)}), stall {100 * max(stall for _, stall in runs):.2f} %, "
                f"{statistics.median(rate for rate, _ in runs):.3g} steps/s",
                flush=True,
            )


if __name__ == "__main__":
    main()
