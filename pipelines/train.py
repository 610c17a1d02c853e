"""Training on Ray: simulators, Ray Train workers, and the driver that watches them."""

import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, prepare_model

from ndsm.errors import InputError
from ndsm.experiment import Experiment, begin, saved, start
from ndsm.run import Run
from ndsm.training import Flags, Problem, block_index, open_replay, train
from pipelines.ingest import Ingest
from pipelines.resources import Cluster, check_budget
from pipelines.simulators import start_simulators

MAX_FAILURES = 3
"""Restarts of the worker group from the last checkpoint before a run gives up."""


@contextmanager
def cluster() -> Iterator[Cluster]:
    """The cluster at RAY_ADDRESS, or a local one that is stopped at the end."""
    # Ray Train's log lines and Ray's own belong into Ray's log files, not between our lines.
    os.environ.setdefault("RAY_TRAIN_ENABLE_CONSOLE_LOGGING", "0")
    started = not ray.is_initialized()
    if started:
        options: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "configure_logging": True,
        }
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**options)
        else:
            # "local" always starts one: without it Ray would join what `ray start` last noted on this machine,
            # and wait minutes for it if it has died since.
            ray.init(address="local", include_dashboard=True, dashboard_host="127.0.0.1", **options)
    for name in ("ray.train", "ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        found = ray.cluster_resources()
        yield Cluster(found.get("CPU", 0), found.get("GPU", 0), found.get("object_store_memory", 0))
    finally:
        if started:
            ray.shutdown()


def train_on_ray(
    problem: Problem,
    run: Run,
    data: Any,
    on_metrics: Callable[[dict[str, Any]], None],
    use_gpu: bool = False,
) -> None:
    """Train on the cluster this process is connected to; returns when the run is done or stopped.

    Training runs on a thread of its own: the main thread stays free for Ctrl-C, which asks the workers to
    save and stop through the run's stop file.

    Args:
        data: reference to the training rows, (N, d) float32.
        on_metrics: called with each new line of `metrics.jsonl`.
        use_gpu: one GPU for each worker.

    Raises:
        Exception: what ended the training.
    """
    config = problem.config.train
    simulators = start_simulators(config.simulators, problem.spec, data)
    trainer = TorchTrainer(
        worker,
        train_loop_config={"problem": problem, "run": str(run.path.resolve()), "simulators": simulators},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo", timeout_s=60),
        scaling_config=ScalingConfig(
            num_workers=config.workers,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": 1, **({"GPU": 1} if use_gpu else {})},
        ),
        run_config=RunConfig(
            # The state to resume from is the run's own checkpoint; Ray keeps only its bookkeeping here.
            name="ray",
            storage_path=str((run.path / "checkpoints").resolve()),
            failure_config=FailureConfig(max_failures=MAX_FAILURES),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
        ),
    )
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                trainer.fit()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    position = run.metrics_end()
    thread.start()
    try:
        while thread.is_alive():
            thread.join(timeout=0.3)
            # After the last join too: the run's last line comes just before its thread ends.
            lines, position = run.metrics_since(position)
            for line in lines:
                on_metrics(line)
    finally:
        for simulator in simulators:
            simulator.stop()
    if failures:
        raise cause(failures[0])
    if failure := run.failure():
        kind, message = failure
        raise InputError(message) if kind == "InputError" else RuntimeError(message)


def cause(error: BaseException) -> BaseException:
    """The worker's own exception inside what Ray Train raised, or that itself."""
    failures = getattr(error, "worker_failures", None) or {}
    for inner in failures.values():
        found = getattr(inner, "base_exc", inner)
        while getattr(found, "cause", None) is not None:
            found = found.cause
        return found
    return error


def worker(settings: dict[str, Any]) -> None:
    """The loop of one Ray Train worker."""
    problem: Problem = settings["problem"]
    run = Run(Path(settings["run"]))
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    # Ray grants one CPU.
    torch.set_num_threads(1)
    trainer, resume = start(problem, run.load_checkpoint(), world, prepare_model, sum_over_workers(world))
    if trainer.steps >= problem.config.train.steps or run.failure():
        return
    handles = settings["simulators"]
    mine = handles[rank::world] or [handles[rank % len(handles)]]

    def open_source(first: int) -> Ingest:
        def index_of(number: int) -> int:
            return block_index(resume, rank, number)

        return Ingest(mine, index_of, first, problem.config.train.window, problem.spec.stamp)

    device = next(trainer.model.parameters()).device
    replay = open_replay(problem, resume, trainer.steps, open_source, rank=rank, device=device)
    records = train(
        trainer, replay, problem, resume, agree=agree_on(rank, world, device), stop=run.stop_file.exists
    )
    try:
        for record in saved(records, trainer, run) if rank == 0 else records:
            # A barrier, and at most one report per health check of Ray's controller gets through: only
            # where the workers save anyway.
            if record.checkpoint:
                ray.train.report(record.metrics)
    except (InputError, FloatingPointError) as error:
        # Deterministic: Ray would restart the workers only to fail again. The other workers' collectives
        # time out, they are restarted once, and find the note.
        run.write_failure(error)
    finally:
        replay.source.close()


def sum_over_workers(world: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Sums a tensor over the workers, so that what each learns from it is the same."""

    def reduce(x: torch.Tensor) -> torch.Tensor:
        if world > 1:
            dist.all_reduce(x)
        return x

    return reduce


def agree_on(rank: int, world: int, device: torch.device) -> Callable[[Flags], Flags]:
    """Makes rank 0's decision everyone's: clocks differ, and a worker that reports alone waits for ever."""

    def agree(flags: Flags) -> Flags:
        if world == 1:
            return flags
        bits = torch.tensor([flags.report, flags.checkpoint, flags.stop], dtype=torch.uint8, device=device)
        dist.broadcast(bits, src=0)
        report, checkpoint, stop = (bool(b) for b in bits)
        return Flags(report, checkpoint, stop)

    return agree


def run_on_ray(
    experiment: Experiment,
    on_metrics: Callable[[dict[str, Any]], None] = lambda _: None,
    on_start: Callable[[], None] = lambda: None,
) -> None:
    """Check that the run fits the cluster, begin it, and train.

    Args:
        on_metrics: called with each new line of `metrics.jsonl`.
        on_start: called once the checks have passed and the run is written.

    Raises:
        InputError: it does not fit; nothing is written.
        Exception: what ended the training.
    """
    problem, config = experiment.problem, experiment.config.train
    with cluster() as found:
        block_bytes = problem.spec.rows * problem.spec.layout.width * 4
        # What the workers' nodes have counts, not this process's.
        use_gpu = config.device == "cuda" or (config.device == "auto" and found.gpus >= config.workers)
        check_budget(found, config, block_bytes, experiment.dataset.train.nbytes, use_gpu)
        begin(experiment)
        on_start()
        train_on_ray(problem, experiment.run, ray.put(experiment.dataset.train), on_metrics, use_gpu)
