"""What a training step of each objective costs, simulation included, as multiples of a DSM step of the same batch.

    python benchmarks/step_cost.py [toy-arcs|digits|mnist] [--root data]

The paper's network on toy-arcs (7 x 32 GELU, 250 rows), the presets' own on digits and MNIST (there 64 rows); one thread. A step needs batch_rows / samples_per_insert new
rows; their simulation is timed in the same thread and added. Objectives take turns, so that a busy machine slows
all of them alike. A path row holds two states and is compared at half the rows too: the network sees as many states as
in DSM's step. On MNIST two objectives are timed with convolutions in bfloat16 too. Printed for a path row is the share of states that need a directional derivative.
"""

import argparse
import statistics
import time
from typing import Any

import torch

from ndsm.config import Config, load_config
from ndsm.data import load
from ndsm.objectives import Path
from ndsm.simulation import rollout
from ndsm.training import fit_mixture
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import build_problem

ROWS: dict[str, dict[str, Any]] = {
    "dsm": {
        "process.kind": "vp",
        "process.horizon": 1.0,
        "objective.kind": "dsm",
        "process.grid.kind": "uniform",
        "process.integrator": "euler-maruyama",
        "sample.sampler": "em",
    },
    "ndsm": {"objective.kind": "ndsm"},
    "ndsm-cv": {"objective.kind": "ndsm-cv", "objective.epsilon": {"kind": "network"}},
    "antithetic": {"objective.kind": "antithetic"},
    "path": {"objective.kind": "path", "objective.epsilon": {"kind": "constant", "value": 1.0}},
}
HALF = "path, half the rows"
REDUCED = {"train.precision": "bfloat16"}
PRESETS: dict[str, dict[str, Any]] = {
    "toy-arcs": {"network.width": 32, "network.depth": 7},
    "digits": {"process.integrator": "exponential", "process.grid.steps": 40},
    "mnist": {},
}


class Contender:
    """An objective with warm rows."""

    def __init__(self, config: Config) -> None:
        self.data = load(config.data, 0)
        self.problem = build_problem(config, fit_mixture(config, self.data.train), self.data.stamp)
        self.trainer, _ = start(self.problem, None)
        self.batch_rows = config.train.batch_rows
        self.rows = torch.from_numpy(rollout(self.problem.spec, self.data.train, 0))
        # Rows of a block are ordered by time.
        self.rows = self.rows[torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(0))]
        self.blocks = 1

    def residual_share(self) -> float | None:
        """Share of states whose directional derivative is evaluated at ε = 1; None if the objective has no such term."""
        rows = self.problem.spec.layout.split(self.rows)
        if "probe" not in rows:
            return None
        u = rows["probe"]
        shares = [Path().residual_probability(u - rows[name], u) for name in ("tangent", "mirror_tangent")]
        return float(torch.cat(shares).mean())

    def step_seconds(self, steps: int) -> float:
        """Mean seconds of an optimiser step."""
        started = time.perf_counter()
        for k in range(steps):
            first = k * self.batch_rows % (len(self.rows) - self.batch_rows)
            self.trainer.step(self.rows[first : first + self.batch_rows])
        return (time.perf_counter() - started) / steps

    def simulation_seconds(self) -> float:
        """Seconds of simulating the rows that a step needs."""
        started = time.perf_counter()
        rollout(self.problem.spec, self.data.train, self.blocks)
        self.blocks += 1
        reuse = self.problem.config.train.samples_per_insert
        return (time.perf_counter() - started) * self.batch_rows / reuse / self.problem.spec.rows


def main() -> None:
    """Print one line per objective."""
    parser = argparse.ArgumentParser()
    parser.add_argument("preset", nargs="?", default="toy-arcs", choices=PRESETS)
    parser.add_argument("--root", default="data", help="folder with MNIST/raw")
    options = parser.parse_args()
    torch.set_num_threads(1)
    base = {"data.root": options.root, "data.n": 10_000 if options.preset == "mnist" else None}
    base |= {"objective": {}, **PRESETS[options.preset]}
    half = load_config(options.preset, base).train.batch_rows // 2
    fields = {**ROWS, HALF: {**ROWS["path"], "train.batch_rows": half}}
    if options.preset == "mnist":
        fields |= {f"{name}, bfloat16": {**ROWS[name], **REDUCED} for name in ("dsm", "path")}
    contenders = {
        name: Contender(load_config(options.preset, {**base, **own})) for name, own in fields.items()
    }
    steps: dict[str, list[float]] = {name: [] for name in contenders}
    whole: dict[str, list[float]] = {name: [] for name in contenders}
    at_once = 40 if options.preset != "mnist" else 4
    for c in contenders.values():
        c.step_seconds(at_once // 2)
    for _ in range(9):
        for name, c in contenders.items():
            step = c.step_seconds(at_once)
            steps[name].append(step)
            whole[name].append(step + c.simulation_seconds())
    for name, contender in contenders.items():
        alone, total = (
            statistics.median(x / y for x, y in zip(seconds[name], seconds["dsm"], strict=True))
            for seconds in (steps, whole)
        )
        share = statistics.median(1 - s / w for s, w in zip(steps[name], whole[name], strict=True))
        residual = contender.residual_share()
        print(
            f"{name:20} {1e3 * statistics.median(whole[name]):6.2f} ms a step, {total:.2f} of DSM's; without simulation "
            f"{alone:.2f}; simulation is {100 * share:.0f} % of it"
            + (f"; residual on {100 * residual:.1f} % of the states" if residual is not None else "")
        )


if __name__ == "__main__":
    main()
