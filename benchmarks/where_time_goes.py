"""Where a training worker's time goes on Ray, and what evaluations beside it cost.

    python benchmarks/where_time_goes.py [--preset digits] [--shapes 1x1 2x2] [--seconds 30] [--root data]
    python benchmarks/where_time_goes.py --shapes 1x1 --evaluate-seconds 5 [--rounds 2]

A shape is workers x simulators; workers share a step's rows. All runs are on one cluster, in turn, one thread in every
process. With `--evaluate-seconds` every shape is trained without and with evaluations of the newest checkpoint that often.

Times are a worker's own, by the clock, and add up to all of it: wait (for a block), copy (of blocks into the ring), exchange
(of gradients and of ε's moments, waiting for the slower worker included; by one blocking all-reduce for each of DDP's buckets,
so not overlapped with the backward pass as it otherwise may be), compute (the rest of the step: forward, backward, optimiser,
averages), report (saving, and Ray's barrier), other (drawing rows, deciding, collecting and posting metrics). `simulate` is
how long each simulator worked, as a share of the same time.
"""

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scaling import rates

PARTS = ("wait", "copy", "exchange", "compute", "report", "other")


def timed_worker(settings: dict[str, Any]) -> None:
    """`pipelines.worker.worker` in a process of its own, with its parts timed; writes rank N's seconds to `times-N.json`."""
    import ray.train
    import torch
    import torch.distributed as dist

    import pipelines.worker
    from ndsm.training import Replay, Ring, Trainer

    spent: dict[str, float] = defaultdict(float)
    began = ended = 0.0

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - started

        return call

    dist.all_reduce = timed("exchange", dist.all_reduce)

    def exchange(world: int, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        dist.all_reduce(bucket.buffer().div_(world))
        done: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        done.set_result(bucket.buffer())
        return done

    prepare_model = pipelines.worker.prepare_model

    def prepared(model: Any) -> Any:
        wrapped = prepare_model(model)
        if wrapped is not model:
            wrapped.register_comm_hook(dist.get_world_size(), exchange)
        return wrapped

    fill = Replay.fill

    def first_fill(replay: Any, step: int) -> None:
        # The loop fills the ring before its first step: that is warm-up.
        nonlocal began
        fill(replay, step)
        if not began:
            spent.clear()
            spent["warm-up wait"] = replay.wait_seconds
            began = time.perf_counter()
        spent["wait"] = replay.wait_seconds - spent["warm-up wait"]

    Replay.fill = first_fill  # type: ignore[method-assign]
    Ring.insert = timed("copy", Ring.insert)  # type: ignore[method-assign]
    Trainer.step = timed("step", Trainer.step)  # type: ignore[method-assign]
    pipelines.worker.prepare_model = prepared
    saved = pipelines.worker.save_records

    def saving(*args: Any) -> Any:
        records = saved(*args)
        while True:
            # The records come from the training loop, whose time counts there.
            inside, before = time.perf_counter(), spent["loop"]
            record = next(records, None)
            spent["report"] += time.perf_counter() - inside - (spent["loop"] - before)
            if record is None:
                return
            yield record

    training = pipelines.worker.training

    def looped(*args: Any, **kwargs: Any) -> Any:
        nonlocal ended
        records = training(*args, **kwargs)
        while True:
            started = time.perf_counter()
            record = next(records, None)
            ended = time.perf_counter()
            spent["loop"] += ended - started
            if record is None:
                return
            yield record

    pipelines.worker.training, pipelines.worker.save_records = looped, saving
    ray.train.report = timed("report", ray.train.report)
    pipelines.worker.worker(settings)
    whole = ended - began
    spent["compute"] = spent["step"] - spent["exchange"]
    spent["other"] = whole - sum(spent[name] for name in PARTS if name != "other")
    rank = ray.train.get_context().get_world_rank()
    found = {"whole": whole} | {name: spent[name] for name in PARTS}
    (settings["run"].path / f"times-{rank}.json").write_text(json.dumps(found))


def run(options: argparse.Namespace, shape: str, evaluate_seconds: float | None, folder: Path) -> float:
    """Train once and print; steps per second."""
    import pipelines.train
    from ndsm.config import load_config
    from ndsm.runs import Run

    workers, simulators = (int(n) for n in shape.split("x"))
    fields = {
        "data.root": options.root, "train.workers": workers, "train.simulators": simulators, "train.steps": 10**6,
        "train.report_seconds": 1.0, "train.checkpoint_seconds": 5.0, "train.device": "cpu",
        "evaluate.n": options.evaluate_n, "evaluate.seconds": evaluate_seconds,
    }  # fmt: skip
    config = load_config(options.preset, fields)
    lines: list[dict[str, Any]] = []
    evaluated = folder / "evaluations.jsonl"

    def on_metrics(line: dict[str, Any]) -> None:
        lines.append(line)
        if line["seconds"] > options.seconds:
            Run(folder).stop_file.touch()

    pipelines.train.worker = timed_worker  # type: ignore[assignment]
    pipelines.train.train(config, folder, on_metrics=on_metrics)
    times = [json.loads((folder / f"times-{rank}.json").read_text()) for rank in range(workers)]
    whole = sum(t["whole"] for t in times)
    shares = "  ".join(f"{name} {100 * sum(t[name] for t in times) / whole:.1f} %" for name in PARTS)
    first, last, found = lines[0], lines[-1], rates(lines, 1)
    worked = last["simulator_seconds"] - first["simulator_seconds"]
    busy = worked / (last["seconds"] - first["seconds"]) / max(simulators, 1)
    evaluations = len(evaluated.read_text().splitlines()) if evaluated.is_file() else 0
    print(
        f"{options.preset} {shape}{f', {evaluations} evaluations' if evaluate_seconds else ''}: {found.steps:.3g} steps/s, "
        f"stall {100 * found.stall:.2f} %;  {shares};  simulate {100 * busy:.1f} %",
        flush=True,
    )
    return found.steps


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="digits")
    parser.add_argument("--shapes", nargs="+", default=["1x1", "2x2"])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--evaluate-seconds", type=float)
    parser.add_argument("--evaluate-n", type=int, default=1000)
    parser.add_argument("--root", type=Path, default=Path("data"), help="folder with MNIST/raw")
    options = parser.parse_args()
    options.root = options.root.resolve()
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import ray

    cpus = 1 + max(sum(map(int, shape.split("x"))) for shape in options.shapes)
    ray.init(
        address="local", num_cpus=cpus, include_dashboard=False, log_to_driver=False, logging_level="error"
    )
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(options.rounds):
            for shape in options.shapes:
                ways = [None] if options.evaluate_seconds is None else [None, options.evaluate_seconds]
                found = [run(options, shape, way, Path(folder) / f"{turn}-{shape}-{way}") for way in ways]
                if len(found) == 2:
                    print(f"  with evaluations over without: {found[1] / found[0]:.3f}", flush=True)


if __name__ == "__main__":
    main()
