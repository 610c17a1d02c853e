"""Training on a small Ray cluster: what workers, simulators and their deaths may change, and what not."""

import contextlib
import json
import os
import pickle
import shutil
import signal
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from settle import wait_until_all_is_free

import ndsm
import pipelines.train
from ndsm.cli import main
from ndsm.config import load_config
from ndsm.errors import InputError, Unfinished
from ndsm.processes import Langevin
from ndsm.runs import Run
from ndsm.simulation import rollout
from ndsm.training import Resume, block_index, open_replay
from ndsm.workflows.resuming import start
from ndsm.workflows.setup import RunContext, begin, prepare
from ndsm.workflows.train import train_locally
from pipelines.cluster import metrics_address
from pipelines.instruments import GAUGES
from pipelines.simulators import Simulator

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TINY = {
    "data.n": 400,
    "process.grid.steps": 160,
    "train.steps": 600,
    "train.batch_rows": 64,
    "train.block_mb": 0.02,
    "train.samples_per_insert": 4,
    "train.report_seconds": 0.2,
    "evaluate.n": 100,
    "network.width": 16,
    "objective.kind": "ndsm",
    "objective.epsilon.every": 20,
    "network.depth": 2,
}


def experiment(folder: Path, name: str, **overrides: object) -> RunContext:
    config = load_config("toy-arcs", {**TINY, **overrides})
    made = prepare(config, Run(folder / name))
    begin(made)
    return made


def train_with_ray(ray, made: RunContext) -> list[dict]:
    lines: list[dict] = []
    train_on(ray, made.problem, made.run, made.dataset.train, lines.append)
    return lines


def train_on(ray, problem, run, rows, on_metrics=lambda line: None, say=print) -> None:
    from pipelines.cluster import find_cluster
    from pipelines.train import room_for, train_on_ray

    simulators = problem.config.train.simulators
    with room_for(problem, find_cluster(), rows.nbytes, False, say) as room:
        room.wait(simulators)
        train_on_ray(problem, run, ray.put(rows), on_metrics, room, simulators, say=say)


def weights(run: Run) -> dict[str, torch.Tensor]:
    return run._load_tensors("model.safetensors")


def assert_same_weights(a: Run, b: Run) -> None:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[k], right[k]) for k in left)


def disturbed(after: int, disturb: Callable[[], object]) -> type[Simulator]:
    """A simulator that calls `disturb` whenever it, or one that Ray starts in its place, has answered `after` times."""

    class Disturbed(Simulator):
        answers = 0

        def block(self, index, inputs):
            if self.answers == after:
                disturb()
            self.answers += 1
            return super().block(index, inputs)

    return Disturbed


def test_stops_and_killed_simulators_change_nothing_but_counters(ray_cluster, tmp_path, monkeypatch):
    """A run that is stopped, and goes on while its simulators are killed, has bitwise the weights of an undisturbed one,
    which here even is one without Ray; what was counted adds up over both sittings."""
    fields = {"train.steps": 1200, "train.simulators": 2, "train.block_mb": 0.01}
    calm = experiment(tmp_path, "calm", **fields)
    for _ in train_locally(calm):
        pass
    stormy = experiment(tmp_path, "stormy", **fields)
    rows, stop_file = stormy.dataset.train, stormy.run.stop_file
    monkeypatch.setattr("pipelines.simulators.Simulator", disturbed(2, stop_file.touch))
    train_on(ray_cluster, stormy.problem, stormy.run, rows)
    assert 0 < stormy.run.last_step() < 1200
    first = stormy.run.last_metrics()

    def die() -> None:
        """This process, if fewer than two have: whoever makes a file first has that death."""
        for death in ("first", "second"):
            with contextlib.suppress(FileExistsError):
                (tmp_path / death).touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)

    # Not by the clock: a busy machine may train to the end before a simulator that was killed is there again, but not
    # when both of them are gone. Their last answers may be lost with them, and who was never heard of is not known to
    # have come back; but of eight one has arrived, since a worker waits for no more than that: four blocks of two
    # simulators, and as many again that the other one owed.
    monkeypatch.setattr("pipelines.simulators.Simulator", disturbed(8, die))
    lines: list[dict] = []
    begin(stormy)
    train_on(ray_cluster, stormy.problem, stormy.run, rows, lines.append)
    assert (tmp_path / "second").exists()
    last = lines[-1]
    assert (last["step"], last["restarts"]) == (1200, 1)
    assert sum(line["simulator_restarts"] for line in lines) >= 1
    assert_same_weights(calm.run, stormy.run)
    lost = first["blocks_in_flight"] + first["blocks_waiting"]
    dropped = last["blocks_retried"] + last["blocks_duplicate"]
    assert last["blocks_lost"] == lost
    assert last["blocks_sent"] == last["blocks_received"] + dropped + lost + last["blocks_in_flight"]
    assert last["blocks_taken"] - last["blocks_reused"] == last["next_block"]
    assert last["next_block"] == calm.run.last_metrics()["next_block"]


@pytest.mark.nightly
def test_a_trained_run_goes_on_by_the_word_as_it_does_without_ray(ray_cluster, tmp_path, capsys):
    """`--continue` with more steps and another rate: bitwise the same on Ray and in one process."""
    fields = {**TINY, "train.steps": 200, "train.simulators": 1, "reference.n_init": 1}
    more = {**fields, "train.steps": 400, "train.lr": 3e-4, "train.lr_schedule": "constant"}

    def command(where: str, fields: dict[str, object], *words: str) -> int:
        options = [text for key, value in fields.items() for text in (f"--{key}", str(value))]
        return main(["train", "toy-arcs", "--name", "mine", "--out", str(tmp_path / where), *options, *words])

    runs = {where: Run(tmp_path / where / "mine") for where in ("ray", "local")}
    for where, run in runs.items():
        local = ("--local",) * (where == "local")
        assert command(where, fields, *local) == 0
        assert command(where, more, *local) == 2
        assert "go on with these values by --continue" in capsys.readouterr().err
        assert command(where, more, "--continue", *local) == 0
        assert "continuing mine at step 200 with train.steps (200 before, 400 now)" in capsys.readouterr().out
        assert run.last_step() == 400
        assert run.metrics_since(0)[0][-1]["lr"] == 3e-4
        assert [line["step"] for line in run.continuations()] == [200]
    assert_same_weights(runs["ray"], runs["local"])


@pytest.mark.nightly
def test_a_killed_simulator_of_images_comes_back(ray_cluster, tmp_path, mnist_root):
    """Though its modes are more than Ray sends along with a constructor, and warns of for restarts."""
    from pipelines.simulators import start_simulators

    fields = {
        "data.root": mnist_root,
        "reference.n_components": 40,
        "reference.n_init": 1,
        "reference.reg_covar": 0.1,
    }
    made = prepare(load_config("mnist", fields), Run(tmp_path / "images"))
    spec = made.problem.spec
    assert len(pickle.dumps(spec)) > 100_000
    (simulator,) = start_simulators(1, spec, ray_cluster.put(made.dataset.train))
    try:
        first = ray_cluster.get(simulator.block(0))
        os.kill(first["life"], signal.SIGKILL)
        second = ray_cluster.get(simulator.block(0))
        assert second["life"] != first["life"]
        np.testing.assert_array_equal(first["rows"], second["rows"])
    finally:
        simulator.stop()


def test_simulators_that_crash_again_and_again_end_the_run_with_a_sentence(
    ray_cluster, tmp_path, monkeypatch
):
    """Ray starts them and repeats their calls for ever; the worker warns, and then gives up or blames the block."""
    from ndsm.errors import BadBlock
    from pipelines.ingest import Ingest, NoAnswer
    from pipelines.simulators import start_simulators

    monkeypatch.setattr("pipelines.simulators.Simulator", disturbed(0, lambda: os._exit(1)))
    made = experiment(tmp_path, "crashing")
    handles = start_simulators(1, made.problem.spec, ray_cluster.put(made.dataset.train))
    said: list[str] = []
    ingest = Ingest(
        lambda: handles, lambda number: number, 0, 2, made.problem.spec.stamp, limit=5.0, warn=said.append
    )
    expected = (
        r"expected block 0 from Actor\(.*\) within train\.block_seconds \(5 s\), found no answer to . calls|"
        r"block 0 could not be simulated in 3 tries: Actor\(.*\) crashed or did not return"
    )
    try:
        with pytest.raises((NoAnswer, BadBlock), match=expected):
            ingest.take(0)
        assert said[0].startswith("expected block 0")
    finally:
        ingest.close()
        handles[0].stop()


@pytest.mark.nightly
@pytest.mark.parametrize("how", ["hangs", "crashes", "fails"])
def test_a_block_that_no_simulator_can_make_is_left_out(ray_cluster, tmp_path, monkeypatch, how):
    """The simulators go on, and all other blocks are those of a run without it."""
    from ndsm.training.bad_blocks import SUBSTITUTES, BadBlocks
    from pipelines.handles import BlockFailed
    from pipelines.ingest import Ingest
    from pipelines.simulators import start_simulators

    class Poisoned(Simulator):
        def block(self, index, inputs):
            while index == 3 and how == "hangs":
                pass
            if index == 3 and how == "crashes":
                os._exit(1)
            if index == 3:
                raise BlockFailed(index, "ZeroDivisionError: at 3", False)
            return super().block(index, inputs)

    monkeypatch.setattr("pipelines.simulators.Simulator", Poisoned)
    made, kept = experiment(tmp_path, "poisoned"), []
    handles = start_simulators(2, made.problem.spec, ray_cluster.put(made.dataset.train))
    bad = BadBlocks(1, (), lambda index, reason: not kept.append((index, reason)))
    ingest = Ingest(
        lambda: handles, lambda number: number, 0, 2, made.problem.spec.stamp, limit=600.0, bad=bad
    )
    try:
        for number in range(8):
            if number == 3:
                # Only starting takes so long.
                ingest._limit = 60.0
            index = number if number != 3 else 3 + SUBSTITUTES
            np.testing.assert_array_equal(
                ingest.take(number), rollout(made.problem.spec, made.dataset.train, index)
            )
        ((index, reason),) = kept
        assert index == 3
        assert {"fails": "ZeroDivisionError: at 3"}.get(how, "crashed or did not return") in reason
        assert ingest.counters()["blocks_skipped"] == 1
    finally:
        ingest.close()
        for handle in handles:
            handle.stop()


@pytest.mark.nightly
def test_workers_whose_room_is_taken_after_a_loss_wait_and_the_run_ends(ray_cluster, tmp_path):
    """Another job's process has waited for three CPUs, and gets them when the worker dies: that is said, and has an end."""
    made = experiment(
        tmp_path, "outdone",
        **{"train.steps": 10**6, "train.checkpoint_seconds": 0.5, "train.start_seconds": 1.0, "train.max_failures": 9},
    )  # fmt: skip

    @ray_cluster.remote(num_cpus=3)
    class Other:
        pass

    waiting, said = [], []

    def on_metrics(line: dict) -> None:
        if not waiting and made.run.last_step():
            waiting.append(Other.remote())
            (worker,) = [p for p in psutil.process_iter(["cmdline"]) if is_worker(p)]
            worker.kill()

    def is_worker(process: psutil.Process) -> bool:
        ours = psutil.Process().children(recursive=True)
        return process in ours and "RayTrainWorker" in " ".join(process.info["cmdline"] or ())

    try:
        with pytest.raises(Unfinished, match=r"gave up after train\.start_seconds .* for 1 training workers"):
            train_on(ray_cluster, made.problem, made.run, made.dataset.train, on_metrics, said.append)
    finally:
        ray_cluster.kill(waiting[0])
    assert "waiting for 1 CPU: 3 of 4 in use by others" in " ".join(said)
    # Its own processes are gone, and it goes on from its checkpoint.
    assert made.run.last_step() > 0
    wait_until_all_is_free()


@pytest.mark.nightly
def test_a_failing_driver_has_the_workers_save_and_end_before_their_simulators(ray_cluster, tmp_path):
    made = experiment(tmp_path, "failing", **{"train.steps": 10**6, "train.checkpoint_seconds": 1000.0})

    def show(line: dict) -> None:
        raise ValueError("no such column")

    with pytest.raises(ValueError, match="no such column"):
        train_on(ray_cluster, made.problem, made.run, made.dataset.train, show)
    assert made.run.last_step() > 0
    wait_until_all_is_free()


@pytest.mark.nightly
def test_a_trial_has_workers_of_its_own_and_is_scored_by_its_checkpoints(ray_cluster, tmp_path):
    from tuning.nested import train_nested

    made, seen = experiment(tmp_path, "nested", **{"train.checkpoint_seconds": 0.2}), []

    def score(line: dict, weights: Callable[[], torch.nn.Module]) -> None:
        seen.append((line["step"], {p.device.type for p in weights().parameters()}))

    train_nested(made, score)
    assert made.run.last_step() == TINY["train.steps"]
    assert 0 < seen[-1][0] <= TINY["train.steps"]
    assert all(devices == {"cpu"} for _, devices in seen)
    wait_until_all_is_free()


def test_two_workers_train_what_one_process_trains_on_their_rows(ray_cluster, tmp_path):
    """Disjoint blocks, every step, and the weights of one process that is given both workers' rows at once; here with a
    drift of its own, which the public function sends to workers and simulators."""

    class Well:
        """Of exp(-V), V(x) = (x² - 1)² in each coordinate; defined here, so that it travels by value."""

        def drift(self, y, t):
            return 4 * y * (y**2 - 1)

        def sample(self, n, generator):
            return (
                1
                - 2 * torch.randint(2, (n, 2), generator=generator)
                + 0.3 * torch.randn(n, 2, generator=generator)
            )

    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(0, 1, (400, 2)).astype(np.float32))
    fields = {
        **{name: value for name, value in TINY.items() if name != "data.n"},
        "data.path": str(tmp_path / "rows.npy"),
        "train.workers": 2,
        "train.simulators": 2,
        "train.steps": 150,
        "train.accumulate": 2,
        "objective.kind": "ndsm-cv",
        "sample.steps": 50,
    }
    config = load_config("table-langevin", fields)
    well = Well()
    process = Langevin(drift=well.drift, prior=well, horizon=0.5)
    lines: list[dict] = []
    pipelines.train.train(config, tmp_path / "two", process=process, on_metrics=lines.append)
    made = prepare(config, Run(tmp_path / "one"), process=process)
    last, problem = lines[-1], made.problem
    assert (last["step"], last["simulators"]) == (150, 2)
    # Each worker draws 32 of the 64 rows of a step and inserts as many blocks as that asks for.
    assert last["blocks_inserted"] == problem.limiter(2).blocks_for(150)
    assert last["samples_per_insert"] <= TINY["train.samples_per_insert"]
    trainer, _ = start(problem, None)
    replays = [
        open_replay(problem, Resume(2), 0, lambda first, rank=rank: Rollouts(made, rank), rank=rank)
        for rank in range(2)
    ]
    initial = {name: w.clone() for name, w in trainer.ema.state_dict().items()}
    for step in range(150):
        trainer.step(torch.cat([replay.batch(step) for replay in replays]))
    # Sums in another order differ by float32's 6e-8, which 150 steps amplify; observed 3e-7.
    assert distance(weights(Run(tmp_path / "two")), trainer.ema.state_dict()) < 1e-5
    assert distance(initial, trainer.ema.state_dict()) > 1e-2
    # The folder is read with the same process; a run that is there goes on, and this one is done.
    rows = ndsm.load(tmp_path / "two", process=process).sample(50)
    assert np.isfinite(rows).all()
    pipelines.train.train(config, tmp_path / "two", process=process)


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    """Largest difference of a weight."""
    return max(float((a[name] - b[name]).abs().max()) for name in b)


class Rollouts:
    """Blocks of worker `rank` of two, made when asked for."""

    def __init__(self, made: RunContext, rank: int) -> None:
        self._made, self._rank = made, rank

    def take(self, number: int) -> np.ndarray:
        spec, data = self._made.problem.spec, self._made.dataset.train
        return rollout(spec, data, block_index(Resume(2), self._rank, number))

    def counters(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        pass


@pytest.mark.nightly
def test_a_simulation_error_ends_the_run_with_its_own_message(ray_cluster, tmp_path):
    made = experiment(tmp_path, "bad")
    poisoned = made.dataset.train.copy()
    poisoned[:, 0] = float("inf")
    with pytest.raises(InputError, match="expected finite trajectories"):
        train_on(ray_cluster, made.problem, made.run, poisoned)
    # The run that it leaves goes on, here by this process alone.
    begin(made)
    assert [record.step for record in train_locally(made)][-1] == TINY["train.steps"]


def test_foreign_blocks_are_dropped_and_counted(ray_cluster, tmp_path):
    from pipelines.ingest import MAX_FAILURES_IN_A_ROW, Ingest
    from pipelines.simulators import start_simulators

    made = experiment(tmp_path, "foreign")
    handles = start_simulators(1, made.problem.spec, ray_cluster.put(made.dataset.train))
    ingest = Ingest(lambda: handles, lambda number: number, 0, 2, stamp="another run's")
    try:
        with pytest.raises(RuntimeError, match="another run"):
            ingest.take(0)
        assert ingest.counters()["blocks_foreign"] == MAX_FAILURES_IN_A_ROW
    finally:
        ingest.close()
        handles[0].stop()


def test_simulators_wait_when_they_are_a_window_ahead(ray_cluster, tmp_path):
    from pipelines.ingest import Ingest
    from pipelines.simulators import start_simulators

    made = experiment(tmp_path, "window")
    handles = start_simulators(2, made.problem.spec, ray_cluster.put(made.dataset.train))
    ingest = Ingest(lambda: handles, lambda number: number, 0, 3, made.problem.spec.stamp)
    try:
        ingest.take(0)
        while ingest.counters()["blocks_received"] < 7:
            time.sleep(0.05)
        time.sleep(0.5)
        assert ingest.counters()["blocks_received"] == 7
    finally:
        ingest.close()
        for handle in handles:
            handle.stop()


@pytest.mark.parametrize("own", ["two", "one"])
def test_a_simulator_that_never_answers_is_worked_around(ray_cluster, tmp_path, monkeypatch, own):
    """As one whose node is gone and that no other node has room for: its calls stay open for ever. Another one of the
    worker's takes its place or, if it has none, another worker's."""
    from pipelines.handles import SimulatorHandle
    from pipelines.ingest import Ingest
    from pipelines.simulators import start_simulators

    class Mute(SimulatorHandle):
        def block(self, index):
            return never.remote()

    @ray_cluster.remote(resources={"nowhere": 1})
    def never():
        raise AssertionError

    made = experiment(tmp_path, "mute")
    (alive,) = start_simulators(1, made.problem.spec, ray_cluster.put(made.dataset.train))
    mute = Mute("no actor", [])
    monkeypatch.setattr("pipelines.ingest.FIRST_PATIENCE", 0.5)
    mine, others = ([mute, alive], []) if own == "two" else ([mute], [alive])
    ingest = Ingest(lambda: mine, lambda number: number, 0, 2, made.problem.spec.stamp, lambda: others)
    try:
        for number in range(12):
            np.testing.assert_array_equal(
                ingest.take(number), rollout(made.problem.spec, made.dataset.train, number)
            )
        counts = ingest.counters()
        assert counts["blocks_in_flight"] >= 2
        dropped = counts["blocks_retried"] + counts["blocks_foreign"] + counts["blocks_duplicate"]
        assert counts["blocks_sent"] == counts["blocks_received"] + dropped + counts["blocks_in_flight"]
        assert counts["blocks_received"] == 12 + counts["blocks_waiting"]
    finally:
        ingest.close()
        alive.stop()


def test_simulators_may_come_and_go(ray_cluster, tmp_path):
    """Blocks stay those of their numbers while the list of simulators changes under the worker."""
    from pipelines.coordinator import Membership, open_coordinator, sealed
    from pipelines.ingest import Ingest
    from pipelines.simulators import start_simulators

    made = experiment(tmp_path, "changing")
    data = ray_cluster.put(made.dataset.train)
    first, second = (start_simulators(1, made.problem.spec, data) for _ in range(2))
    coordinator = open_coordinator(first)
    members = Membership(coordinator, 0, 1)
    ingest = Ingest(members.look, lambda number: number, 0, 2, made.problem.spec.stamp)
    try:
        ingest.take(0)
        ray_cluster.get(coordinator.set_simulators.remote(sealed(second)))
        number = 1
        while members.mine[0].actor != second[0].actor:
            ingest.take(number)
            number += 1
        assert [handle.actor for handle in members.mine] == [second[0].actor]
        first[0].stop()
        for n in range(number, number + 8):
            np.testing.assert_array_equal(ingest.take(n), rollout(made.problem.spec, made.dataset.train, n))
        # A handle loads its actor's class, and with it PyTorch, of which the coordinator has no use.
        assert not ray_cluster.get(
            coordinator.__ray_call__.remote(lambda coordinator: "torch" in sys.modules)
        )
    finally:
        ingest.close()
        second[0].stop()
        ray_cluster.kill(coordinator)


def test_a_simulator_with_other_software_says_so(ray_cluster, tmp_path, monkeypatch):
    from pipelines.simulators import start_simulators

    made = experiment(tmp_path, "versions")
    monkeypatch.setattr("pipelines.simulators.software", lambda: {"ndsm": "0.0.1"})
    (handle,) = start_simulators(1, made.problem.spec, ray_cluster.put(made.dataset.train))
    expected = r"has ndsm .*, expected the driver's 0\.0\.1: install the same version"
    try:
        with pytest.raises(InputError, match=expected):
            ray_cluster.get(handle.block(0))
    finally:
        handle.stop()


def test_a_worker_alone_fetches_the_run_from_a_uri_and_keeps_it_there(ray_cluster, s3, tmp_path):
    """And without simulators it makes the rows that one process makes."""
    fields = {**TINY, "train.simulators": 0, "train.steps": 150}
    made = prepare(load_config("toy-arcs", fields), Run.at(tmp_path / "here", s3, "mine"))
    begin(made)
    # As on another machine than the driver's.
    shutil.rmtree(made.run.path)
    last = train_with_ray(ray_cluster, made)[-1]
    assert (last["step"], last["simulators"]) == (150, 0)
    names = made.run.mirror.names()
    assert any(name.startswith("checkpoints/ray/") for name in names)
    assert {"config.yaml", "metrics.jsonl", "model.safetensors"} <= names
    elsewhere = Run.at(tmp_path / "there", s3, "mine")
    assert elsewhere.last_step() == 150
    assert_same_weights(elsewhere, made.run)
    local = experiment(tmp_path, "local", **fields)
    for _ in train_locally(local):
        pass
    assert_same_weights(elsewhere, local.run)


@pytest.mark.nightly
def test_a_run_is_evaluated_and_measured_beside_its_training_until_its_folder_vanishes(ray_cluster, tmp_path):
    """From its checkpoints, into its folder and TensorBoard's; Prometheus finds its numbers where the console says.

    Without its folder it ends at once: workers that were started again would say that their node does not see the run.
    """
    address = metrics_address()
    assert address is not None
    made = experiment(
        tmp_path, "watched",
        **{"evaluate.seconds": 0.1, "evaluate.n": 50, "train.checkpoint_seconds": 0.5, "train.steps": 10**6, "sample.steps": 100},
    )  # fmt: skip
    path, unplugged = made.run.path / "evaluations.jsonl", Run(tmp_path / "unplugged")

    def on_metrics(line: dict) -> None:
        if path.exists() and len(path.read_text().splitlines()) >= 2:
            made.run.path.rename(unplugged.path)

    with pytest.raises(FileNotFoundError, match="watched has vanished while it was trained"):
        train_on(ray_cluster, made.problem, made.run, made.dataset.train, on_metrics)
    path = unplugged.path / path.name
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert len(steps) >= 2
    assert steps == sorted(set(steps))
    assert all(line["n"] == 50 and line["swd2"] > 0 for line in lines)
    assert pictured_steps(unplugged) == steps
    expected = [f"ray_ndsm_{name}" for name in GAUGES] + ["ray_ndsm_blocks_received_total"]
    # Ray exports them when it gets to it; pytest's own limit ends a wait for ever.
    while [name for name in expected if f"\n{name}{{" not in scraped(address)]:
        time.sleep(0.5)


def scraped(address: str) -> str:
    """What Prometheus would read; Ray asks for its token."""
    token = Path.home() / ".ray" / "auth_token"
    headers = {"Authorization": f"Bearer {token.read_text().strip()}"} if token.is_file() else {}
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=10) as answer:
        return answer.read().decode()


def pictured_steps(run: Run) -> list[int]:
    """Steps whose samples TensorBoard shows."""
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    shown = events.EventAccumulator(str(run.tensorboard_evaluations)).Reload()
    assert [e.step for e in shown.Scalars("evaluation/swd2")] == [e.step for e in shown.Images("samples")]
    return [e.step for e in shown.Images("samples")]
