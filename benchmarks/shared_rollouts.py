"""Trials per hour with the shared pool of blocks against those without, side by side.

    python benchmarks/shared_rollouts.py [digits|mnist-latent|toy-arcs] [--trials 6] [--steps 300] [--root data] [--FIELD VALUE]

Trials differ in learning rate and ε, as in a search over control-variate schedules, and share data, mixture, process and
grid. They run one after the other in this process, each once with the pool and once without, in turn. Time is processor
time of training, simulation and scoring together; the first trial fills the pool.
"""

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ndsm.config import load_config
from ndsm.data import load
from ndsm.training import fit_mixture
from ndsm.workflows.setup import build_problem
from tuning.folder import TrialRecord
from tuning.scoring import Scorer, search_split
from tuning.trial import Setting, run_trial


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("preset", nargs="?", default="digits")
    parser.add_argument("--trials", type=int, default=6)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--root", default="data")
    args, fields = parser.parse_known_args()
    torch.set_num_threads(1)
    names = [name.removeprefix("--").replace("-", "_") for name in fields[::2]]
    given: dict[str, Any] = dict(zip(names, fields[1::2], strict=True))
    overrides = {"data.root": args.root, "train.steps": args.steps, **given}
    base = load_config(args.preset, overrides)
    split = search_split(load(base.data, 0), 0.2, "swd2")
    preset = build_problem(base, fit_mixture(base, split.train), split.stamp)
    seconds = {"shared": [], "alone": []}  # type: dict[str, list[float]]
    with tempfile.TemporaryDirectory() as folder:
        # The first trial of a process also imports and warms up: number 0 is not counted.
        for number in range(args.trials + 1):
            config = load_config(
                args.preset,
                {
                    **overrides,
                    "train.lr": 1e-3 * (1 + number / args.trials),
                    "objective.epsilon.kind": "constant",
                    "objective.epsilon.value": number / args.trials,
                },
            )
            scores = []
            for name, pool_bytes in (("shared", 2**32), ("alone", 0)):
                path = Path(folder) / (name if number else f"warm-up {name}")
                setting = Setting(path, preset, Scorer(split, "swd2", args.rows, 0), 1.0, pool_bytes)
                trial = setting.search.trial(number)
                # As many steps for all: what a step costs is not the question here.
                trial.write(replace(TrialRecord(number, {}), cost=1.0))
                started = time.process_time()
                record = run_trial(setting, trial, config)
                if number:
                    seconds[name].append(time.process_time() - started)
                scores.append(record.score)
                if record.status != "done":
                    raise SystemExit(f"a trial failed: {record.reason}")
            if scores[0] != scores[1]:
                raise SystemExit(f"the pool changed a score: {scores}")
            if number:
                last = {name: values[-1] for name, values in seconds.items()}
                print(
                    f"trial {number}: shared {last['shared']:.1f} s, alone {last['alone']:.1f} s", flush=True
                )
    shared, alone = sum(seconds["shared"]), sum(seconds["alone"])
    print(
        f"{args.preset}, {args.trials} trials of {args.steps} steps: {3600 * args.trials / shared:.0f} trials per core hour "
        f"with the pool, {3600 * args.trials / alone:.0f} without, ratio {alone / shared:.2f}"
    )


if __name__ == "__main__":
    main()
