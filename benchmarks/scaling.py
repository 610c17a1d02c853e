"""How many simulators a training run needs: a model of stall and network use, fed with measured costs.

    python benchmarks/scaling.py costs [--presets toy-arcs digits ...] [--root data] [--rows FILE] [--out costs.json]
    python benchmarks/scaling.py predict [--costs costs.json] [--speed-up 1 10 50]
    python benchmarks/scaling.py check [--block-seconds 0.2] [--steps 300]
    python benchmarks/scaling.py drift [--width 1024] [--steps 200]

`costs` measures a block, a step and what Ray adds to a call, here, with one thread each. `predict` computes from them
the share of time that 1 to 64 trainers wait for 1 to 1,000 simulators, and the network they use, with steps as fast as
here or faster (a GPU). `check` measures the costs of a drift that takes a set time (as one that another machine computes
would) and has the model predict stall and traffic for 1 to 4 simulators from these; then it trains with as many and compares.
`drift` trains with one that computes: the gradient of a neural network's potential, by automatic differentiation, in this process,
in the worker, and on 1 and 2 simulators.

The model. All trainers take their k-th block at the same step, so its moment is
T_k = max(T_{k-1} + u, the latest arrival of a k-th block), u the time in which a block is used up. A trainer has asked for
block j as soon as block j - window x simulators was taken; a simulator works on one block at a time.
"""

import argparse
import heapq
import itertools
import json
import math
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from ndsm.training import TrainingSetup

BANDWIDTH = 1.25e9
"""Bytes per second between nodes: 10 Gbit/s."""


@dataclass(frozen=True)
class Measured:
    """One preset here, one thread each."""

    preset: str
    block_seconds: float
    """To simulate a block."""
    block_bytes: int
    call_seconds: float
    """What a call of an actor takes beyond the simulation."""
    copy_seconds: float
    """To copy a block into the ring."""
    step_seconds: float
    steps_per_block: float
    """Of one trainer that takes a step's rows alone."""
    weight_bytes: int
    """Gradients that trainers exchange in every step."""


def measure(preset: str, root: Path, path: Path | None) -> Measured:
    """Costs of a preset, without training it.

    Args:
        root: folder with MNIST/raw.
        path: a table in place of the preset's data.
    """
    from ndsm.config import load_config
    from ndsm.runs import Run
    from ndsm.workflows.setup import prepare

    with tempfile.TemporaryDirectory() as folder:
        other = {} if path is None else {"data.name": "vectors", "data.path": path}
        config = load_config(preset, {"train.device": "cpu", "data.root": root, **other})
        experiment = prepare(config, Run(Path(folder) / "run"))
    # Processor time: other work on this machine does not count.
    return measure_problem(preset, experiment.problem, experiment.dataset.train, time.process_time)


def measure_problem(
    name: str, problem: "TrainingSetup", rows: "np.ndarray", clock: Callable[[], float]
) -> Measured:
    """Costs of a problem on rows (N, d), without training it.

    Args:
        clock: of blocks and steps.
    """
    import ray

    from ndsm.training import Ring
    from ndsm.training.calibration import measure_costs
    from ndsm.workflows.resuming import start
    from pipelines.simulators import start_simulators

    trainer, _ = start(problem, None)
    costs = measure_costs(problem, rows, trainer, 1, seconds=2.0, clock=clock)
    (simulator,) = start_simulators(1, problem.spec, ray.put(rows))
    beyond, copies = [], []
    ring = Ring(2, problem.spec.rows, problem.spec.layout.width)
    for index in range(9):
        began = time.perf_counter()
        block = ray.get(simulator.block(index))
        beyond.append(time.perf_counter() - began - block["seconds"])
        began = time.perf_counter()
        ring.insert(block["rows"])
        copies.append(time.perf_counter() - began)
    simulator.stop()
    # The first call waits for the actor's process.
    return Measured(
        name,
        costs.block,
        problem.spec.block_bytes,
        min(beyond[2:]),
        min(copies[2:]),
        costs.step + costs.epsilon / problem.config.objective.epsilon.every,
        costs.use / costs.step,
        sum(p.numel() * 4 for p in trainer.model.parameters()),
    )


def step_seconds(costs: Measured, trainers: int, speed_up: float) -> float:
    """A step of `trainers` that share its rows, with a ring all-reduce of the gradients.

    A trainer's own part is taken to shrink with its rows, which small networks on a CPU do not quite reach.
    """
    exchange = 2 * (trainers - 1) / trainers * costs.weight_bytes / BANDWIDTH
    return costs.step_seconds / speed_up / trainers + exchange


def stall(
    costs: Measured, simulators: int, trainers: int, use: float, window: int = 2, blocks: int = 400
) -> float:
    """Share of the time that trainers wait, in the long run.

    Args:
        use: seconds in which each trainer uses a block up.
        window: blocks that each simulator may be ahead.
        blocks: simulated blocks of each trainer; the first quarter is warm-up.
    """
    shares = [len(range(rank, simulators, trainers)) or 1 for rank in range(trainers)]
    # With fewer simulators than trainers each is shared by some of them.
    shared = max(1.0, trainers / simulators)
    service = costs.block_seconds * shared + costs.call_seconds
    free = [[0.0] * count for count in shares]
    taken: list[float] = []
    waited = 0.0
    for j in range(blocks):
        arrivals = []
        for queue, count in zip(free, shares, strict=True):
            asked = taken[j - window * count] if j >= window * count else 0.0
            done = max(heapq.heappop(queue), asked) + service
            heapq.heappush(queue, done)
            arrivals.append(done)
        due = taken[-1] + max(use, costs.copy_seconds) if taken else 0.0
        taken.append(max(due, max(arrivals) + costs.copy_seconds))
        waited += (taken[-1] - due) * (j >= blocks // 4)
    return waited / (taken[-1] - taken[blocks // 4 - 1])


def enough(costs: Measured, trainers: int, use: float, limit: float = 0.02) -> int:
    """The fewest simulators with which trainers wait at most `limit` of the time."""
    count = max(1, math.ceil(0.9 * trainers * (costs.block_seconds + costs.call_seconds) / use))
    while stall(costs, count, trainers, use) > limit:
        count += max(1, count // 50)
    return count


def predict(costs: list[Measured], speed_ups: list[float]) -> None:
    """Print what each preset needs, and the stall over numbers of simulators."""
    for c in costs:
        print(
            f"\n{c.preset}: block {1e3 * c.block_seconds:.0f} ms and {c.block_bytes / 2**20:.1f} MB, step "
            f"{1e3 * c.step_seconds:.2f} ms, {c.steps_per_block:.1f} steps per block, call {1e3 * c.call_seconds:.1f} ms"
        )
        print(
            "speed-up trainers  steps/s  simulators for 2 % stall  MB/s per trainer   stall with 1, 4, 16, 64, 250, 1000"
        )
        for speed_up in speed_ups:
            for trainers in (1, 4, 16, 64):
                step = step_seconds(c, trainers, speed_up)
                use = c.steps_per_block * trainers * step
                counts = (1, 4, 16, 64, 250, 1000)
                stalls = " ".join(f"{100 * stall(c, n, trainers, use):5.1f}" for n in counts)
                needed = enough(c, trainers, use)
                print(
                    f"{speed_up:8g} {trainers:8d} {1 / step:8.0f}  {needed:24d}  {c.block_bytes / use / 1e6:16.1f}   "
                    f"{stalls} %"
                )


class SlowDrift:
    """An Ornstein-Uhlenbeck drift that takes its time, as if another machine computed it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def drift(self, y: object, t: float) -> object:
        """y, after a while."""
        time.sleep(self.seconds)
        return y

    def sample(self, n: int, generator: object) -> object:
        """n rows of the stationary law."""
        import torch

        return torch.randn(n, 2, generator=generator)  # type: ignore[call-overload]


def check(block_seconds: float, steps: int) -> None:
    """Print measured stall and traffic for 1 to 4 simulators, and what the model makes of costs measured beforehand."""
    from ndsm import Langevin
    from ndsm.config import load_config
    from ndsm.runs import Run
    from ndsm.workflows.setup import prepare
    from pipelines.train import train

    settings = {
        "objective.kind": "ndsm", "objective.epsilon.every": 20, "process.integrator": "euler-maruyama",
        "process.grid.kind": "uniform", "process.grid.steps": 20, "process.horizon": 2.0, "reference.reg_covar": 1.0,
        "train.block_mb": 0.02, "train.batch_rows": 250, "train.samples_per_insert": 4, "train.steps": steps,
        "train.report_seconds": 0.5, "train.device": "cpu", "network.width": 128, "network.residual": False,
    }  # fmt: skip
    groups = 2
    slow = SlowDrift(block_seconds / 20 / groups)
    process = Langevin(drift=slow.drift, prior=slow, horizon=2.0)
    config = load_config("toy-arcs", settings)
    with tempfile.TemporaryDirectory() as folder:
        made = prepare(config, Run(Path(folder) / "costs"), process=process)
        # Wall time: a drift that sleeps takes no processor's.
        costs = measure_problem("slow", made.problem, made.dataset.train, time.perf_counter)
        print(costs)
        print(
            "simulators  stall measured  predicted   steps/s measured  predicted   kB/s measured  predicted"
        )
        for simulators in (1, 2, 3, 4):
            lines: list[dict[str, Any]] = []
            chosen = load_config("toy-arcs", {**settings, "train.simulators": simulators})
            train(chosen, Path(folder) / f"{simulators}", process=process, on_metrics=lines.append)
            measured = rates(lines)
            use = costs.steps_per_block * costs.step_seconds
            waits = stall(costs, simulators, 1, use, config.train.window)
            print(
                f"{simulators:10d}  {100 * measured.stall:12.1f} %  {100 * waits:7.1f} %  "
                f"{measured.steps:17.1f}  {(1 - waits) / costs.step_seconds:9.1f}  "
                f"{measured.blocks * costs.block_bytes / 1e3:14.1f}  {(1 - waits) / use * costs.block_bytes / 1e3:9.1f}",
                flush=True,
            )


@dataclass(frozen=True)
class Rates:
    """Of a run after its first reports."""

    steps: float
    """Per second."""
    blocks: float
    """Received per second."""
    stall: float
    """Share of the time that rank 0 waited."""


def rates(lines: list[dict[str, Any]], skipped: int = 2) -> Rates:
    """From lines of `metrics.jsonl`, without the first ones, which begin with full windows."""
    first, last = lines[skipped], lines[-1]
    pairs = list(itertools.pairwise(lines[skipped:]))
    seconds = last["seconds"] - first["seconds"]
    waited = sum(b["stall_fraction"] * (b["seconds"] - a["seconds"]) for a, b in pairs)
    received = last["blocks_received"] - first["blocks_received"]
    return Rates((last["step"] - first["step"]) / seconds, received / seconds, waited / seconds)


class NetworkPotential:
    """V(y) = |y|²/2 + a network's output: a drift that costs what a learned potential of molecules does.

    Args:
        dimension: d.
        width: of its two hidden layers.
    """

    def __init__(self, dimension: int, width: int) -> None:
        import torch
        from torch import nn

        torch.manual_seed(0)
        layers = (
            nn.Linear(dimension, width),
            nn.SiLU(),
            nn.Linear(width, width),
            nn.SiLU(),
            nn.Linear(width, 1),
        )
        self.net = nn.Sequential(*layers).requires_grad_(False)
        self.dimension = dimension

    def drift(self, y: Any, t: float) -> Any:
        """∇V(y), (B, d) → (B, d)."""
        import torch

        # Simulation runs without gradients.
        with torch.enable_grad():
            y = y.detach().requires_grad_()
            energy = 0.5 * (y**2).sum() + self.net(y).sum()
            return torch.autograd.grad(energy, y)[0]

    def sample(self, n: int, generator: Any) -> Any:
        """n rows, roughly of the stationary law: the network's part is small."""
        import torch

        return torch.randn(n, self.dimension, generator=generator)


def drift(width: int, steps: int) -> None:
    """Print what simulators gain with a drift that computes."""
    from ndsm import Langevin
    from ndsm.config import load_config
    from ndsm.runs import Run
    from ndsm.workflows.setup import begin, prepare
    from ndsm.workflows.train import train_locally
    from pipelines.train import train

    potential = NetworkPotential(64, width)
    process = Langevin(drift=potential.drift, prior=potential, horizon=2.0)
    settings = {
        "objective.kind": "ndsm", "objective.epsilon.every": 20, "process.integrator": "euler-maruyama",
        "process.grid.kind": "uniform", "sample.sampler": "em", "train.block_mb": 0.25, "train.samples_per_insert": 4,
        "train.steps": steps, "train.report_seconds": 0.5, "train.device": "cpu", "network.residual": False,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        made = prepare(load_config("digits", settings), Run(Path(folder) / "costs"), process=process)
        costs = measure_problem("drift", made.problem, made.dataset.train, time.process_time)
        use = costs.steps_per_block * costs.step_seconds
        print(
            f"a block takes {costs.block_seconds:.3g} s of a core, its {costs.steps_per_block:.1f} steps {use:.3g} s"
        )
        cores, alone = os.cpu_count() or 1, None
        print("shape     steps/s  over --local  expected over --local     wait")
        for shape in ("--local", "1x0", "1x1", "1x2"):
            simulators = 0 if shape == "--local" else int(shape[-1])
            config = load_config("digits", {**settings, "train.simulators": simulators})
            lines: list[dict[str, Any]] = []
            if shape == "--local":
                run = prepare(config, Run(Path(folder) / "local"), process=process)
                begin(run)
                lines = [record.metrics for record in train_locally(run)]
            else:
                train(config, Path(folder) / shape, process=process, on_metrics=lines.append)
            found = rates(lines)
            alone = alone or found.steps
            expected = block_rate(costs.block_seconds, use, max(simulators, 1), cores)
            expected /= block_rate(costs.block_seconds, use, 1, cores)
            print(
                f"{shape:8s} {found.steps:8.2f}  {found.steps / alone:12.2f}  {expected:21.2f}  {100 * found.stall:5.1f} %",
                flush=True,
            )


def block_rate(block_seconds: float, use_seconds: float, simulators: int, cores: int) -> float:
    """Blocks per second that simulators, a trainer and the cores they share can make and use."""
    return min(simulators / block_seconds, 1 / use_seconds, cores / (block_seconds + use_seconds))


def main() -> None:
    """Measure, predict, check, or compare shapes with an expensive drift."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["costs", "predict", "check", "drift"])
    parser.add_argument("--presets", nargs="+", default=["toy-arcs", "digits", "table-langevin"])
    parser.add_argument("--out", type=Path, default=Path("costs.json"))
    parser.add_argument("--costs", type=Path, default=Path("costs.json"))
    parser.add_argument("--speed-up", type=float, nargs="+", default=[1.0, 10.0, 50.0])
    parser.add_argument("--block-seconds", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--rows", type=Path, help="a table in place of the presets' data")
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder with MNIST/raw")
    options = parser.parse_args()
    if options.what == "predict":
        predict([Measured(**c) for c in json.loads(options.costs.read_text())], options.speed_up)
        return
    import ray
    import torch

    torch.set_num_threads(1)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    ray.init(address="local", num_cpus=6, include_dashboard=False, log_to_driver=False, logging_level="error")
    if options.what == "check":
        check(options.block_seconds, options.steps)
        return
    if options.what == "drift":
        drift(options.width, options.steps)
        return
    found = []
    for preset in options.presets:
        found.append(measure(preset, options.root, options.rows))
        print(asdict(found[-1]), flush=True)
    options.out.write_text(json.dumps([asdict(c) for c in found], indent=1))


if __name__ == "__main__":
    main()
