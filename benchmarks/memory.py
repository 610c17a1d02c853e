"""Resident memory: of a simulator over 1,000 blocks, and of a whole run on a table of 5,000,000 x 16.

    python benchmarks/memory.py simulator
    python benchmarks/memory.py table

The run's figure is the sum over the driver and every process it started of their proportional set sizes
(Linux's Pss: pages shared by n processes count 1/n in each), at its highest.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq


def simulator_over_blocks() -> None:
    """A real simulator actor makes 1,000 blocks; its resident memory every 100."""
    import ray

    from ndsm.config import load_config
    from ndsm.data import load
    from ndsm.experiment import build_problem
    from ndsm.training import fit_mixture
    from pipelines.simulators import start_simulators

    config = load_config("digits")
    dataset = load(config.data, 0)
    problem = build_problem(config, fit_mixture(config, dataset.train), dataset.stamp)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False)
    (simulator,) = start_simulators(1, problem.spec, ray.put(dataset.train))
    process = psutil.Process(ray.get(simulator.block(0))["life"])
    print("blocks  resident MB  private MB")
    for index in range(1, 1001):
        ray.get(simulator.block(index))
        if index % 100 == 0:
            memory = process.memory_full_info()
            print(f"{index:6}  {memory.rss / 2**20:11.1f}  {memory.uss / 2**20:10.1f}", flush=True)


def family_pss(root: psutil.Process) -> dict[str, float]:
    """MB of proportional set size by kind of process, of `root` and all that descend from it."""
    sizes: dict[str, float] = {}
    for process in [root, *root.children(recursive=True)]:
        try:
            size, command = process.memory_full_info().pss / 2**20, " ".join(process.cmdline())
        except psutil.Error:
            continue
        if process == root:
            kind = "driver"
        elif "ray::RayTrainWorker" in command or "ray::Simulator" in command:
            kind = command.split()[0]
        else:
            kind = "ray's own"
        sizes[kind] = sizes.get(kind, 0) + size
    return sizes


def run_on_table() -> None:
    """Train `vectors` through Ray on 5,000,000 rows; the highest sum of memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.parquet"
        rng = np.random.default_rng(0)
        schema = pa.schema([(f"x{i}", pa.float32()) for i in range(16)])
        with pq.ParquetWriter(path, schema) as writer:
            for _ in range(50):
                block = rng.normal(size=(16, 100_000)).astype("f")
                writer.write_table(pa.table(list(block), schema=schema))
        command = [
            sys.executable, "-m", "ndsm.cli", "train", "vectors", "--data.path", str(path), "--out", folder,
            "--train.steps", "1500",
        ]  # fmt: skip
        process = psutil.Process(subprocess.Popen(command).pid)
        highest: dict[str, float] = {}
        while process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            sizes = family_pss(process)
            if sum(sizes.values()) > sum(highest.values()):
                highest = sizes
            time.sleep(0.5)
        total, trained = sum(highest.values()), {k: v for k, v in highest.items() if k != "ray's own"}
        print(f"highest sum: {total:.0f} MB, without Ray's own processes {sum(trained.values()):.0f} MB")
        print(", ".join(f"{k} {v:.0f} MB" for k, v in sorted(highest.items())))


def main() -> None:
    """Run the measurement that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["simulator", "table"])
    {"simulator": simulator_over_blocks, "table": run_on_table}[parser.parse_args().what]()


if __name__ == "__main__":
    main()
