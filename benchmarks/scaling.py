"""How many simulators a training run needs: a model of stall and network use, fed with measured costs.

    python benchmarks/scaling.py costs [--presets toy-arcs digits ...] [--out costs.json]
    python benchmarks/scaling.py predict [--costs costs.json] [--speed-up 1 10 50]
    python benchmarks/scaling.py check [--block-seconds 0.2] [--steps 300]

`costs` measures a block, a step and what Ray adds to a call, here, with one thread each. `predict` computes from them
the share of time that 1 to 64 trainers wait for 1 to 1,000 simulators, and the network they use, with steps as fast as
here or faster (a GPU). `check` trains with 1 to 4 simulators whose drift takes a set time (as one that another machine computes
would) and compares the measured stall with the model's.

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
from dataclasses import asdict, dataclass
from pathlib import Path

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


def measure(preset: str) -> Measured:
    """Costs of a preset, without training it."""
    import ray

    from ndsm.config import load_config
    from ndsm.experiment import prepare, start
    from ndsm.run import Run
    from ndsm.training import Ring
    from ndsm.training.calibration import measure_costs
    from pipelines.simulators import start_simulators

    with tempfile.TemporaryDirectory() as folder:
        experiment = prepare(load_config(preset, {"train.device": "cpu"}), Run(Path(folder) / "run"))
    problem, rows = experiment.problem, experiment.dataset.train
    trainer, _ = start(problem, None)
    # Processor time: other work on this machine does not count.
    costs = measure_costs(problem, rows, trainer, 1, seconds=2.0, clock=time.process_time)
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
        preset,
        costs.block,
        problem.spec.rows * problem.spec.layout.width * 4,
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
    """Print measured and predicted stall for 1 to 4 simulators."""
    import ray

    from ndsm import Langevin
    from ndsm.config import load_config
    from ndsm.data import load
    from ndsm.experiment import describe_data
    from ndsm.run import Run
    from ndsm.training import make_problem
    from pipelines.resources import Cluster
    from pipelines.train import train_on_ray

    settings = {
        "objective.kind": "ndsm", "objective.epsilon.every": 20, "process.integrator": "euler-maruyama",
        "process.grid.kind": "uniform", "process.grid.steps": 20, "process.horizon": 2.0, "reference.reg_covar": 1.0,
        "train.block_mb": 0.02, "train.batch_rows": 250, "train.samples_per_insert": 4, "train.steps": steps,
        "train.report_seconds": 0.5, "train.device": "cpu", "network.width": 128, "network.residual": False,
    }  # fmt: skip
    print("simulators  stall measured  predicted   steps/s measured")
    for simulators in (1, 2, 3, 4):
        config = load_config("toy-arcs", {**settings, "train.simulators": simulators})
        dataset = load(config.data, 0)
        groups = 2
        slow = SlowDrift(block_seconds / 20 / groups)
        process = Langevin(drift=slow.drift, prior=slow, horizon=2.0)
        problem = make_problem(config, process, 2, "slow", simulators)
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder) / "run")
            run.begin(config, describe_data(dataset, dataset.stamp), None)
            lines: list[dict] = []
            found = Cluster.of(ray.cluster_resources())
            train_on_ray(problem, run, ray.put(dataset.train), lines.append, found, simulators)
        # Without the first reports, which begin with full windows.
        kept = [(a, b) for a, b in itertools.pairwise(lines)][1:]
        seconds = sum(b["seconds"] - a["seconds"] for a, b in kept)
        waited = sum(b["stall_fraction"] * (b["seconds"] - a["seconds"]) for a, b in kept)
        made = lines[-1]["simulator_seconds"] / lines[-1]["blocks_received"]
        per_step = (seconds - waited) / (kept[-1][1]["step"] - kept[0][0]["step"])
        per_block = problem.spec.rows * config.train.samples_per_insert / config.train.batch_rows
        costs = Measured("", made, 0, 2e-3, 0.0, per_step, per_block, 0)
        expected = stall(costs, simulators, 1, per_block * per_step, config.train.window)
        print(
            f"{simulators:10d}  {100 * waited / seconds:12.1f} %  {100 * expected:7.1f} %  "
            f"{(kept[-1][1]['step'] - kept[0][0]['step']) / seconds:17.1f}",
            flush=True,
        )


def main() -> None:
    """Measure, predict or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["costs", "predict", "check"])
    parser.add_argument("--presets", nargs="+", default=["toy-arcs", "digits", "vectors"])
    parser.add_argument("--out", type=Path, default=Path("costs.json"))
    parser.add_argument("--costs", type=Path, default=Path("costs.json"))
    parser.add_argument("--speed-up", type=float, nargs="+", default=[1.0, 10.0, 50.0])
    parser.add_argument("--block-seconds", type=float, default=0.2)
    parser.add_argument("--steps", type=int, default=300)
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
    found = []
    for preset in options.presets:
        found.append(measure(preset))
        print(asdict(found[-1]), flush=True)
    options.out.write_text(json.dumps([asdict(c) for c in found], indent=1))


if __name__ == "__main__":
    main()
