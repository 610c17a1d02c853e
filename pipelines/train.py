"""Training on Ray: simulators, Ray Train workers, and the driver that watches them."""

import logging
import math
import os
import socket
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, prepare_model

from ndsm.config import Config, Train
from ndsm.console import say
from ndsm.errors import InputError
from ndsm.experiment import Experiment, begin, prepare, saved, start
from ndsm.processes import Langevin
from ndsm.run import Run
from ndsm.training import BlockSource, Flags, Problem, Record, block_index, local_source, open_replay
from ndsm.training import train as training
from ndsm.training.calibration import Costs, measure_costs
from pipelines.board import Membership, open_board
from pipelines.evaluate import Evaluations
from pipelines.handles import SimulatorHandle
from pipelines.ingest import Ingest, NoAnswer
from pipelines.instruments import Instruments
from pipelines.resources import Cluster, SimulatorScaling, check_budget, simulators_needed
from pipelines.simulators import start_simulators
from pipelines.versions import check_software, software

RESIZE_SECONDS = 30.0
"""Between looks at whether more workers would fit; taking them in is a restart from the last checkpoint."""
GRADIENT_SECONDS = 60
"""Beyond `train.block_seconds`, after which a worker stops waiting for another one's gradients: one that waits for a block
keeps the others waiting. Ray itself ends them when a process or node dies."""


def train(
    config: Config,
    path: str | Path,
    *,
    process: Langevin | None = None,
    fresh: bool = False,
    on_metrics: Callable[[dict[str, Any]], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Train on Ray what the configuration says, as `ndsm train` does, and with a process of your own if one is given.

    Returns when `train.steps` are done; `ndsm.load(path, process=process)` is then the fitted model. Called again, it goes
    on from the last checkpoint, and of a trained run returns at once. The process is sent to every node: its class is either defined in the script itself or
    in a module that all nodes can import. Evaluations beside the training see it too.

    Args:
        config: with its data, e.g. `load_config("vectors", {"data.path": "rows.npy", "train.simulators": 2})`.
        path: the run directory; on several machines a path they all see.
        process: in place of the fitted mixture's, in standardised units, e.g. `ndsm.Langevin(drift=f, prior=p)`. Its
            drift is simulated by `train.simulators` actors with a core each.
        fresh: delete a run that is there and start over.
        on_metrics: called with each new line of `metrics.jsonl`.
        say: told what was decided by measurement, and where the cluster can be watched.

    Raises:
        InputError: bad data or settings, or the run does not fit the cluster; nothing is written.
        Exception: what ended the training.
    """
    experiment = prepare(config, Run(Path(path)), fresh, process)
    if fresh or experiment.run.last_step() < config.train.steps:
        run_on_ray(experiment, on_metrics, say=say)


@contextmanager
def cluster(tell: Callable[[str], None] = say) -> Iterator[Cluster]:
    """The cluster at RAY_ADDRESS, or a local one that is stopped at the end.

    Args:
        tell: told where it can be watched.
    """
    # Ray Train's log lines and Ray's own belong into Ray's log files, not between our lines.
    os.environ.setdefault("RAY_TRAIN_ENABLE_CONSOLE_LOGGING", "0")
    started, dashboard, metrics = not ray.is_initialized(), None, None
    if started:
        options: dict[str, Any] = {
            "log_to_driver": False,
            "logging_level": logging.ERROR,
            "configure_logging": True,
        }
        if os.environ.get("RAY_ADDRESS"):
            context = ray.init(**options)
        else:
            # "local" always starts one: without it Ray would join what `ray start` last noted on this machine,
            # and wait minutes for it if it has died since.
            context = ray.init(address="local", include_dashboard=True, dashboard_host="127.0.0.1", **options)
        dashboard = f"http://{context.dashboard_url}" if context.dashboard_url else None
        metrics = metrics_address()
    for name in ("ray.train", "ray.data", "ray.tune"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        found = Cluster.of(ray.cluster_resources(), dashboard, metrics)
        found.tell(tell)
        yield found
    finally:
        if started:
            ray.shutdown()


def metrics_address() -> str | None:
    """Where this node's agent exports metrics for Prometheus, if it does; every node has one."""
    here = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        if node["NodeID"] == here and node.get("MetricsExportPort"):
            return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    return None


def train_on_ray(
    problem: Problem,
    run: Run,
    data: Any,
    on_metrics: Callable[[dict[str, Any]], None],
    found: Cluster,
    simulators: int,
    use_gpu: bool = False,
    say: Callable[[str], None] = print,
) -> None:
    """Train on the cluster this process is connected to; returns when the run is done or stopped.

    Training runs on a thread of its own: the main thread stays free for Ctrl-C, which asks the workers to
    save and stop.

    Args:
        data: reference to the training rows, (N, d) float32.
        on_metrics: called with each new line of `metrics.jsonl`.
        found: what the cluster has.
        simulators: to begin with; 0 lets each worker simulate by itself.
        use_gpu: one GPU for each worker.
        say: told what makes workers start again.

    Raises:
        Exception: what ended the training.
    """
    config = problem.config.train
    pool, evaluations = SimulatorPool(problem, data, found, simulators), Evaluations(run, problem)
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(config.start_seconds)
    # The state to resume from is the run's own checkpoint; Ray keeps only its bookkeeping here.
    if run.mirror is None:
        storage: dict[str, Any] = {"storage_path": str((run.path / "checkpoints").resolve())}
    else:
        filesystem, root = run.mirror.arrow
        storage = {"storage_path": f"{root}/checkpoints", "storage_filesystem": filesystem}
    settings = {
        "problem": problem,
        "run": Run(run.path.resolve(), run.mirror),
        "board": pool.board,
        "data": [data],
        "software": software(),
    }
    least, most = config.worker_range
    trainer = TorchTrainer(
        worker,
        train_loop_config=settings,
        torch_config=TorchConfig(
            backend="nccl" if use_gpu else "gloo",
            timeout_s=math.ceil(config.block_seconds + GRADIENT_SECONDS),
        ),
        scaling_config=ScalingConfig(
            num_workers=least if least == most else (least, most),
            use_gpu=use_gpu,
            resources_per_worker=found.worker_resources(use_gpu),
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        ),
        run_config=RunConfig(
            name="ray",
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            **storage,
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
    thread.start()
    try:
        while thread.is_alive():
            thread.join(timeout=0.3)
            if run.stop_file.exists():
                pool.board.ask_to_stop.remote()
            # After the last join too: the run's last line comes just before its thread ends.
            lines, warned = ray.get(pool.board.take_news.remote())
            for text in warned:
                say(text)
            for line in lines:
                on_metrics(line)
                pool.adapt(line)
            evaluations.look(bool(lines))
        failure = ray.get(pool.board.failure.remote())
    finally:
        evaluations.stop()
        pool.stop()
    # What ended one worker comes before what that did to the others.
    if failure is not None:
        # A note for `ndsm status`, if there still is a place for it.
        with suppress(OSError):
            run.check_there()
            run.write_failure(failure)
        raise failure
    if failures:
        raise cause(failures[0])
    run.pull()


class SimulatorPool:
    """The simulators of a run, and the board that tells workers about them.

    Args:
        problem, data: what they simulate.
        found: what the cluster has.
        count: to begin with.
    """

    def __init__(self, problem: Problem, data: Any, found: Cluster, count: int) -> None:
        self._problem, config = problem, problem.config.train
        self._start = lambda n: start_simulators(n, problem.spec, data, found.simulator_resources())
        self._handles: list[SimulatorHandle] = self._start(count)
        self._leaving: list[SimulatorHandle] = []
        self._scaling = SimulatorScaling(1) if config.simulators == "auto" and count else None
        self._before: dict[str, Any] = {}
        self.board = open_board(self._handles)

    def adapt(self, line: dict[str, Any]) -> None:
        """Have as many simulators as a new line of metrics asks for, with `train.simulators auto`."""
        before, self._before = self._before, line
        if self._scaling is None or line["seconds"] <= before.get("seconds", line["seconds"]):
            return
        seconds = line["seconds"] - before["seconds"]
        worked = max(0.0, line["simulator_seconds"] - before["simulator_seconds"])
        count = len(self._handles)
        # Nodes come and go.
        most = room_for_simulators(self._problem, Cluster.of(ray.cluster_resources()))
        wanted = self._scaling.decide(count, line["stall_fraction"], worked / seconds / count, most)
        # Those that left the board a line ago are asked for nothing any more.
        self._end(self._leaving)
        self._leaving = self._handles[wanted:]
        if wanted != count:
            self._handles = self._handles[:wanted] + self._start(max(0, wanted - count))
            self.board.set_simulators.remote(self._handles)

    def stop(self) -> None:
        """End all of them."""
        self._end(self._handles + self._leaving)
        ray.kill(self.board)

    def _end(self, handles: list[SimulatorHandle]) -> None:
        for handle in handles:
            handle.stop()


def cause(error: BaseException) -> BaseException:
    """The worker's own exception inside what Ray Train raised, or that itself."""
    failures = getattr(error, "worker_failures", None) or {}
    for inner in failures.values():
        found = getattr(inner, "base_exc", inner)
        while getattr(found, "cause", None) is not None:
            found = found.cause
        return found
    return error


class Notices:
    """Whether there is news of a node that is about to end, which a checkpoint should forestall: true once for each.

    Args:
        ask: gives what is known, None for nothing; Ray repeats it until the node is gone.
    """

    def __init__(self, ask: Callable[[], object | None]) -> None:
        self._ask = ask
        self._known: object | None = None

    def __call__(self) -> bool:
        before, self._known = self._known, self._ask()
        return self._known is not None and self._known != before


def worker(settings: dict[str, Any]) -> None:
    """One Ray Train worker; it raises what a restart may mend, and what ends the workers beside it."""
    board, run = settings["board"], settings["run"]
    if ray.get(board.failure.remote()):
        return

    def end(error: Exception) -> None:
        """Tell the board what would end the training again; the workers that Ray starts next find it there."""
        ray.get(board.fail.remote(error))
        # Ray then ends the other workers, which wait for this one's gradients.
        if ray.train.get_context().get_world_size() > 1:
            raise error

    try:
        train_as_worker(settings)
    except (InputError, FloatingPointError, NoAnswer) as error:
        end(error)
    except OSError as error:
        # A disk that is full or gone stays so; what is behind a network may answer again.
        if run.mirror is None and not isinstance(error, ConnectionError | TimeoutError):
            end(error)
            return
        ray.get(board.warn.remote(f"{error}; Ray starts the workers again, up to train.max_failures times"))
        raise


def train_as_worker(settings: dict[str, Any]) -> None:
    """Take this worker's part in all steps that are left.

    Raises:
        InputError, FloatingPointError, NoAnswer: it would not go better next time.
        OSError: storage failed.
    """
    check_software(settings["software"])
    problem: Problem = settings["problem"]
    run: Run = settings["run"]
    board = settings["board"]
    # Ray grants one CPU.
    torch.set_num_threads(1)
    run.pull()
    if not run.exists():
        raise InputError(
            f"node {socket.gethostname()} does not see the run in {run.path}: expected a folder that all nodes share as "
            "--out or train.storage, or a URI such as s3://bucket/runs as train.storage"
        )
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    trainer, resume = start(
        problem, run.load_checkpoint(problem), world, prepare_model, sum_over_workers(world)
    )
    if trainer.steps >= problem.config.train.steps:
        return
    device = next(trainer.model.parameters()).device
    members = Membership(board, rank, world)

    def open_source(first: int) -> BlockSource:
        def index_of(number: int) -> int:
            return block_index(resume, rank, number)

        if not members.total:
            data = ray.get(settings["data"][0])
            return local_source(problem, data, resume, rank, device=device)(first)
        config = problem.config.train
        return Ingest(
            members.look, index_of, first, config.window, problem.spec.stamp, others=lambda: members.others,
            limit=config.block_seconds, warn=lambda text: board.warn.remote(f"worker {rank}: {text}"),
        )  # fmt: skip

    stopped = False

    def total(counts: dict[str, float]) -> dict[str, float]:
        shared = counts_together(counts, rank, world, sum_over_workers(world), device)
        return shared | {"simulators": members.total}

    def posted(records: Iterator[Record]) -> Iterator[Record]:
        nonlocal stopped
        for record in records:
            stopped = ray.get(board.post.remote(record.metrics))
            yield record

    replay = open_replay(problem, resume, trainer.steps, open_source, rank=rank, device=device)
    records = training(
        trainer, replay, problem, resume, agree=agree_on(rank, world, device),
        stop=lambda: stopped or run.stop_file.exists(), urgent=Notices(ray.train.get_preemption_info), total=total,
    )  # fmt: skip
    instruments = Instruments(rank, resume.counts)
    try:
        for record in posted(saved(records, trainer, run)) if rank == 0 else records:
            instruments.show(record.metrics)
            # A barrier, and at most one report per health check of Ray's controller gets through: only
            # where the workers save anyway.
            if record.checkpoint:
                ray.train.report(record.metrics)
    finally:
        replay.source.close()


def sum_over_workers(world: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Sums a tensor over the workers, so that what each learns from it is the same."""

    def reduce(x: torch.Tensor) -> torch.Tensor:
        if world > 1:
            dist.all_reduce(x)
        return x

    return reduce


def counts_together(
    counts: dict[str, float],
    rank: int,
    world: int,
    reduce: Callable[[torch.Tensor], torch.Tensor],
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """What the workers counted, added up; of `stall_fraction` the largest.

    Args:
        counts: of worker `rank` of `world`.
        reduce: sums a tensor over the workers.
    """
    table = torch.zeros(len(counts), world, dtype=torch.float64, device=device)
    table[:, rank] = torch.tensor(list(counts.values()), dtype=torch.float64)
    found: dict[str, float] = {}
    for name, values in zip(counts, reduce(table).tolist(), strict=True):
        if name == "stall_fraction":
            found[name] = max(values)
        else:
            found[name] = sum(values) if name.endswith("seconds") else round(sum(values))
    return found


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
    say: Callable[[str], None] = print,
) -> None:
    """Check that the run fits the cluster, begin it, and train.

    Args:
        on_metrics: called with each new line of `metrics.jsonl`.
        on_start: called once the checks have passed and the run is written.
        say: told what was decided by measurement, and where the cluster can be watched.

    Raises:
        InputError: it does not fit; nothing is written.
        Exception: what ended the training.
    """
    problem, config, run = experiment.problem, experiment.config.train, experiment.run
    with cluster(say) as found:
        use_gpu, simulators = uses_gpu(config, found), config.first_simulators
        data_bytes = experiment.dataset.train.nbytes
        check_budget(found, config, simulators, problem.spec.block_bytes, data_bytes, use_gpu)
        begin(experiment)
        with run.hold():
            data = ray.put(experiment.dataset.train)
            if config.simulators == "auto":
                simulators = calibrated(problem, data, found, use_gpu, say)
            on_start()
            train_on_ray(problem, run, data, on_metrics, found, simulators, use_gpu, say)


def uses_gpu(config: Train, found: Cluster) -> bool:
    """Whether each worker takes a GPU: what the workers' nodes have counts, not this process's."""
    return config.device == "cuda" or (config.device == "auto" and found.gpus >= config.worker_range[0])


def room_for_simulators(problem: Problem, found: Cluster) -> int:
    """Simulators that fit beside as many workers as the run may have."""
    config = problem.config.train
    return found.room_for_simulators(config.worker_range[1], config.window * problem.spec.block_bytes)


def calibrated(problem: Problem, data: Any, found: Cluster, use_gpu: bool, say: Callable[[str], None]) -> int:
    """Simulators that the run needs, by the measured costs of a block and of a step; 0 for none.

    Args:
        data: reference to the training rows.
        say: is told what was measured and decided.
    """
    least, most = problem.config.train.worker_range
    resources = found.worker_resources(use_gpu)
    cpus, gpus = resources.pop("CPU"), resources.pop("GPU", 0)

    def measure(data: np.ndarray) -> Costs:
        torch.set_num_threads(1)
        return measure_costs(problem, data, start(problem, None, least)[0], least)

    costs: Costs = ray.get(
        ray.remote(num_cpus=cpus, num_gpus=gpus, resources=resources)(measure).remote(data)
    )
    room = room_for_simulators(problem, found)
    count = simulators_needed(costs.block, costs.use, most, room, costs.own_block)
    say(
        f"train.simulators auto: a block takes {costs.block:.3g} s and is used up in {costs.use:.3g} s, steps take "
        f"{costs.step:.3g} s: {f'{count} simulators' if count else 'each worker simulates by itself'}"
    )
    return count
