"""Training steps per second through Ray (1 worker, 1 simulator) over `--local`, and the worker's stall.

    python benchmarks/ray_overhead.py [--presets toy-arcs digits] [--steps 3000] [--rounds 2]

Both run the same configuration, one thread in the trainer and one in the simulator, in turn. The rate is the
median over the lines of metrics.jsonl after the first two; the stall is the share of time after warm-up that
the worker waited for blocks.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path


def train(preset: str, steps: int, folder: Path, local: bool) -> tuple[float, float]:
    """Median steps/s and mean stall fraction of one run."""
    name = "local" if local else "ray"
    command = [
        sys.executable, "-m", "ndsm.cli", "train", preset, "--out", str(folder), "--name", name, "--fresh",
        "--train.steps", str(steps), "--evaluate.n", "100", "--train.checkpoint-seconds", "1000",
    ]  # fmt: skip
    # One thread on both sides: --local would otherwise use what cores are left.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command + ["--local"] * local, check=True, capture_output=True, env=environment)
    lines = [json.loads(line) for line in (folder / name / "metrics.jsonl").read_text().splitlines()][2:]
    return statistics.median(m["steps_per_s"] for m in lines), statistics.mean(
        m["stall_fraction"] for m in lines
    )


def main() -> None:
    """Print one line per preset."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--presets", nargs="+", default=["toy-arcs", "digits"])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for preset in options.presets:
            ratios, stalls, rates = [], [], []
            for _ in range(options.rounds):
                local, _ = train(preset, options.steps, Path(folder), local=True)
                ray, stall = train(preset, options.steps, Path(folder), local=False)
                ratios.append(ray / local)
                stalls.append(stall)
                rates.append(ray)
            print(
                f"{preset}: Ray/local steps per second {statistics.median(ratios):.2f} "
                f"({', '.join(f'{r:.2f}' for r in ratios)}; target >= 0.9), stall {100 * max(stalls):.2f} % "
                f"(target <= 2 %), {statistics.median(rates):.0f} steps/s",
                flush=True,
            )


if __name__ == "__main__":
    main()
