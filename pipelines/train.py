"""Training on Ray: the driver, which starts simulators and Ray Train workers and watches them."""

import math
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
import ray.train
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer

from ndsm.config import Config, Train
from ndsm.core.global_state import environment
from ndsm.core.interrupt import is_terminated
from ndsm.core.uris import is_uri
from ndsm.data import Dataset
from ndsm.errors import LeaseLost, Unfinished
from ndsm.processes import Langevin
from ndsm.runs import Run
from ndsm.training import TrainingSetup
from ndsm.workflows.prior_match import prior_match, prior_warning
from ndsm.workflows.resuming import restarts_of
from ndsm.workflows.setup import RunContext, begin, prepare
from pipelines.address import check_address
from pipelines.cluster import cluster, find_nodes, is_joined
from pipelines.controller_callback import AnnounceController, withdraw_request
from pipelines.coordinator import Group
from pipelines.evaluate import Evaluations
from pipelines.growth import grown, let_go
from pipelines.journal import LOSSES, Journal
from pipelines.resources import TRAINER, Cluster, Waiting, check_budget
from pipelines.room import Room, remove_groups_of
from pipelines.simulator_pool import SimulatorPool, calibrated, workers_problem
from pipelines.standby import worker_environment
from pipelines.versions import software
from pipelines.worker import worker

RESIZE_SECONDS = 30.0
"""Between looks at whether more workers would fit; taking them in is a restart from the last checkpoint."""
GRADIENT_SECONDS = 60
"""Beyond `train.block_seconds` and `train.storage_seconds`, after which a worker stops waiting for another one's gradients: one that
waits for a block or for storage keeps the others waiting. Ray itself ends them when a process or node dies."""
REGROUP_SECONDS = 15.0
"""How long workers that start again wait for the room of as many as before, which may be gone, until fewer are tried."""
LOOK_SECONDS = 2.0
"""Between looks at whether Ray Train's workers have room."""
WAY_SECONDS = 10.0
"""How long workers wait for room until simulators make way for them."""
STOP_SECONDS = 2.0
"""How long workers that have not reported yet are waited for when they are to stop."""
END_SECONDS = 30.0
"""Seconds for workers to save and end after a failure of the driver, before their simulators are killed, and for Ray Train to end
when it is told to."""


def train(
    config: Config,
    path: str | Path,
    *,
    process: Langevin | None = None,
    fresh: bool = False,
    continued: bool = False,
    on_metrics: Callable[[dict[str, Any]], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Train on Ray what the configuration says, as `ndsm train` does, and with a process of your own if one is given.

    Returns when `train.steps` are done; `ndsm.load(path, process=process)` is then the fitted model. Called again, it goes
    on from the last checkpoint, and of a trained run returns at once. The process is sent to every node: its class is either defined in the script itself or
    in a module that all nodes can import. Evaluations beside the training see it too.

    Args:
        config: with its data, e.g. `load_config("table-langevin", {"data.path": "rows.npy", "train.simulators": 2})`.
        path: the run directory; on several machines a path they all see, or with a URI as `train.storage` any: the run is
            then kept there under the folder's name.
        process: in place of the fitted mixture's, in standardised units, e.g. `ndsm.Langevin(drift=f, prior=p)`. Its
            drift is simulated by `train.simulators` actors with a core each.
        fresh: delete a run that is there and start over.
        continued: go on from the last checkpoint of the run that is there, with other values of `train.steps`, `train.lr`,
            `train.lr_schedule`, `train.ema` or `train.grad_clip`, also if it is trained.
        on_metrics: called with each new line of `metrics.jsonl`.
        say: told what was decided by measurement, and where the cluster can be watched.

    Raises:
        InputError: bad data or settings, or the run does not fit the cluster; nothing is written.
        Exception: what ended the training.
    """
    check_address()
    path, storage = Path(path), config.train.storage
    # A path as `train.storage` is a folder of runs, in place of which there is `path` here.
    run = Run.at(path.parent, storage, path.name, fresh) if storage and is_uri(storage) else Run(path)
    experiment = prepare(config, run, fresh, process, continued)
    for notice in filter(None, [experiment.column_notice, *experiment.notices]):
        say(notice)
    if (fresh or not experiment.run.last_step()) and (
        warning := prior_warning(prior_match(experiment.problem, experiment.dataset.train))
    ):
        say(f"warning: {warning}")
    if fresh or experiment.run.last_step() < config.train.steps:
        run_on_ray(experiment, on_metrics, say=say)


def run_on_ray(
    experiment: RunContext,
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
        Unfinished: other work has held what it needs for `train.start_seconds`.
        Exception: what ended the training.
    """
    problem, config, run = experiment.problem, experiment.config.train, experiment.run
    with cluster(say) as found:
        simulators, data_bytes = config.first_simulators, experiment.dataset.train.nbytes

        def check(there: Cluster) -> None:
            gpu = uses_gpu(config, there)
            check_budget(there, config, simulators, problem.spec.block_bytes, data_bytes, gpu)

        before = found
        found = grown(found, machines_for(config, simulators), check, config.start_seconds, say)
        use_gpu = uses_gpu(config, found)
        with room_for(problem, found, data_bytes, use_gpu, say) as room:
            # Before anything is written, or an older run removed.
            room.wait(simulators)
            if found is not before:
                let_go()
            with run.hold():
                begin(experiment)
                data = ray.put(experiment.dataset.train)
                if config.simulators == "auto":
                    simulators = calibrated(problem, data, room, use_gpu, say)
                on_start()
                train_on_ray(
                    problem, run, data, on_metrics, room, simulators, use_gpu, say, experiment.dataset
                )


def machines_for(config: Train, simulators: int) -> list[dict[str, float]]:
    """Return what an autoscaler is to be asked for: a bundle for each of the least number of workers, and for each simulator."""
    least, _ = config.worker_range
    any_kind = Cluster(0, 0, 0, trainers=1, simulators=1)
    worker = any_kind.worker_resources(config.device == "cuda", config.cpus_per_worker)
    return [worker] * least + [any_kind.simulator_resources()] * simulators


def room_for(
    problem: TrainingSetup, found: Cluster, data_bytes: int, use_gpu: bool, say: Callable[[str], None] = print
) -> Room:
    """The room of a run, of which nothing is held yet.

    Args:
        found: what the cluster has.
        data_bytes: of the training rows.
        use_gpu: one GPU for each worker.
        say: told what is waited for.
    """
    config = problem.config.train
    return Room(found, config, use_gpu, config.window * problem.spec.block_bytes, data_bytes, say)


def uses_gpu(config: Train, found: Cluster) -> bool:
    """Return whether each worker takes a GPU, by what the workers' nodes have."""
    return config.device == "cuda" or (config.device == "auto" and found.gpus >= config.worker_range[0])


def train_on_ray(
    problem: TrainingSetup,
    run: Run,
    data: Any,
    on_metrics: Callable[[dict[str, Any]], None],
    room: Room,
    simulators: int,
    use_gpu: bool = False,
    say: Callable[[str], None] = print,
    dataset: Dataset | None = None,
) -> None:
    """Train on the cluster this process is connected to; returns when the run is done or stopped.

    Training runs on a thread of its own: the main thread stays free for Ctrl-C, which asks the workers to
    save and stop.

    Args:
        data: reference to the training rows, (N, d) float32.
        on_metrics: called with each new line of `metrics.jsonl`.
        room: holds the workers' room and the simulators' places.
        simulators: to begin with; 0 lets each worker simulate by itself.
        use_gpu: one GPU for each worker.
        say: told what makes workers start again, and what is waited for.
        dataset: for evaluations beside the training, on nodes that may not see its files; they read it again if None.

    Raises:
        Unfinished: workers that were to start again had no room for `train.start_seconds`.
        Exception: what ended the training.
    """
    config = problem.config.train
    told: list[str] = []

    def note(text: str) -> None:
        say(text)
        told.append(text)
        # Training goes on without the line.
        with suppress(OSError, LeaseLost):
            run.append_event(text)

    room.waiting = Waiting(note, config.start_seconds)
    last = run.last_metrics()
    journal = Journal(note, {name: last[name] for name in LOSSES if name in last})
    pool = SimulatorPool(problem, data, room, simulators, note)
    evaluations = Evaluations(run, problem, dataset)
    pool.coordinator.keep_skips.remote(run.skipped_blocks())
    # The state to resume from is the run's own checkpoint; Ray keeps only its bookkeeping here.
    if run.mirror is None:
        storage: dict[str, Any] = {"storage_path": str((run.path / "checkpoints").resolve())}
    else:
        filesystem, root = run.mirror.arrow
        storage = {"storage_path": f"{root}/checkpoints", "storage_filesystem": filesystem}
    settings = {
        "problem": workers_problem(problem, use_gpu),
        "run": Run(run.path.resolve(), run.mirror),
        "coordinator": pool.coordinator,
        "simulators": simulators,
        "data": [data],
        "software": software(),
        "restarts": restarts_of(run),
        "lost": dict(journal.lost),
    }
    where = run.mirror.uri if run.mirror is not None else str(run.path.resolve())
    withdraw_request(where)
    least, most = config.worker_range
    if simulators and not use_gpu and TRAINER not in room.worker_bundle:
        # Ray Train counts whole CPUs, also those that simulators hold, and would ask for more workers than fit for ever.
        most = least + room.more_workers()
    trainer = TorchTrainer(
        worker,
        train_loop_config=settings,
        torch_config=TorchConfig(
            backend="nccl" if use_gpu else "gloo",
            timeout_s=math.ceil(max(config.block_seconds, config.storage_seconds) + GRADIENT_SECONDS),
        ),
        scaling_config=ScalingConfig(
            num_workers=least if least == most else (least, most),
            use_gpu=use_gpu,
            resources_per_worker=room.worker_bundle,
            elastic_resize_monitor_interval_s=RESIZE_SECONDS,
        ),
        run_config=RunConfig(
            name="ray",
            failure_config=FailureConfig(max_failures=config.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            callbacks=[AnnounceController(pool.coordinator, where)],
            # A cluster of this command's own is one machine, which rarely loses a worker and has better use for the memory.
            worker_runtime_env=worker_environment(software()) if is_joined() else {},
            **storage,
        ),
    )
    failures: list[BaseException] = []

    def fit() -> None:
        try:
            seconds = {
                "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(min(REGROUP_SECONDS, config.start_seconds))
            }
            with warnings.catch_warnings(), environment(**seconds):
                warnings.simplefilter("ignore")
                trainer.fit()
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=fit, name="ray-train", daemon=True)
    room.let_workers_in()
    thread.start()
    looked, controller = time.monotonic(), None
    stop = StopWatch()
    try:
        while thread.is_alive():
            thread.join(timeout=0.3)
            # Workers cannot see that a lease in the folder is lost.
            run.owner.check_held()
            if asked := run.stop_file.exists():
                pool.coordinator.ask_to_stop.remote()
            # After the last join too: the run's last line comes just before its thread ends.
            (lines, warned), group = ray.get(
                [pool.coordinator.take_news.remote(), pool.coordinator.group.remote()]
            )
            for text in warned:
                note(text)
            if skips := ray.get(pool.coordinator.skips_to_keep.remote()):
                for index, reason in skips.items():
                    run.skip_block(index, reason)
                # The worker waits for it: what it trains on next has to be known after a crash.
                pool.coordinator.keep_skips.remote(list(skips))
            journal.workers(group)
            for line in lines:
                on_metrics(line)
                pool.adapt(line)
                journal.simulators(len(pool.handles), line["simulator_restarts"])
            evaluations.look(bool(lines))
            if asked and thread.is_alive() and stop.is_over(group):
                # Ray Train would take its time to end in order what has nothing more to do.
                if controller := ray.get(pool.coordinator.controller.remote()):
                    end_controller(controller, thread)
                    run.pull()
                    return
                # One that is still starting ends with this process.
                if is_terminated():
                    return
            if time.monotonic() - looked > LOOK_SECONDS and thread.is_alive():
                looked, controller = time.monotonic(), ray.get(pool.coordinator.controller.remote())
                waits = room.watch(controller and controller[1])
                alive = {node.id: node.name for node in find_nodes()}
                journal.nodes(alive, Counter(place.node for place in room.places))
                if not waits:
                    pool.look(group.nodes)
                # What a worker held before is free again a moment after its end.
                elif room.waiting.seconds > WAY_SECONDS and (left := pool.make_way()) is not None:
                    note(left)
                pool.coordinator.note_events.remote(told, journal.lost | {"nodes": len(alive)})
                told = []
        failure = ray.get(pool.coordinator.failure.remote())
    except Unfinished:
        # It would go on asking for room.
        if controller is not None:
            end_controller(controller, thread)
        raise
    except Exception as error:
        # Workers without simulators and a coordinator would be started again and again.
        with suppress(Exception):
            pool.coordinator.fail.remote(RuntimeError(f"the driver failed: {error!r}"))
            pool.coordinator.ask_to_stop.remote()
            thread.join(timeout=END_SECONDS)
        raise
    finally:
        evaluations.stop()
        pool.stop()
    # What ended one worker comes before what that did to the others.
    if failure is not None:
        # A note for `ndsm status`, if there still is a place for it.
        with suppress(OSError, LeaseLost):
            run.check_there()
            run.write_failure(failure)
        raise failure
    if failures:
        raise cause(failures[0])
    run.pull()


class StopWatch:
    """Whether workers that were asked to stop have done so, or have nothing to save.

    Args:
        clock: seconds, never going back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._since = clock, math.inf

    def is_over(self, group: Group) -> bool:
        """Return whether nothing is waited for any more, for the workers there are; asked from the request on."""
        self._since = min(self._since, self._clock())
        if group.saved or not group.nodes:
            return True
        # Without a report they have trained for a moment at most, or load and compile.
        return not group.reports and self._clock() - self._since > STOP_SECONDS


def end_controller(controller: tuple[list[Any], str], thread: threading.Thread) -> None:
    """End Ray Train while it waits for its workers' room, and take back what it asked for.

    Args:
        controller: its actor's handle, sealed, and id.
        thread: in which it was started; ends with it.
    """
    (handle,), actor = controller
    # Its own death took the handle with it.
    with suppress(ray.exceptions.RayError):
        ray.kill(ray.get(handle))
    thread.join(timeout=END_SECONDS)
    remove_groups_of(actor)


def cause(error: BaseException) -> BaseException:
    """The worker's own exception inside what Ray Train raised, or that itself."""
    failures = getattr(error, "worker_failures", None) or {}
    for inner in failures.values():
        found = getattr(inner, "base_exc", inner)
        while getattr(found, "cause", None) is not None:
            found = found.cause
        return found
    return error
