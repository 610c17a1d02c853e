"""A run directory as a training uses it: begun, held against other processes, written, copied and deleted."""

import json
import tempfile
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save
from torch import nn

from ndsm.config import Config, differences
from ndsm.config.roles import continuable_names
from ndsm.core.atomic_file import needs_room, write_whole
from ndsm.core.folders import names_below, remove_files
from ndsm.core.places import shown
from ndsm.core.uris import is_uri, one_line
from ndsm.core.versions import versions
from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.runs.checkpoints import Checkpoint
from ndsm.runs.contents import RunContents
from ndsm.runs.identity import changes_of_continuation, differing_fields, training_hash
from ndsm.runs.layout import FORMAT, LOCKS, check_place, checkpoint_name, removable, step_of
from ndsm.runs.lock import RunLock
from ndsm.runs.mirror import RemoteCopy
from ndsm.runs.outage import Outage

_downloads: list[tempfile.TemporaryDirectory[str]] = []
"""Folders of runs that were opened by a URI, which end with the process."""


class Run(RunContents):
    """The files of one run.

    Args:
        path: the run directory; it need not exist yet.
        mirror: the copy of it that outlives this machine, if there is one.
    """

    def __init__(self, path: Path, mirror: RemoteCopy | None = None) -> None:
        super().__init__(path)
        self.mirror = mirror
        self.outage = Outage(mirror.uri if mirror else "", path)
        """How long the mirror is waited for, not at all unless that is changed: a command fails at once where it begins."""

    @classmethod
    def at(cls, out: Path, storage: str | None, name: str, fresh: bool = False) -> "Run":
        """Return the run called `name`, in the folder `out` or where `train.storage` puts it.

        Args:
            fresh: whether the run and its copy are to be replaced; the folder is then not brought up to date first.

        Raises:
            InputError: the storage does not answer, or its kind is unknown; the copy is of another run than the folder; or
                one of the two places holds something else, see `check_place`.
        """
        if storage is None or not is_uri(storage):
            return cls(Path(storage or out) / name)
        mirror = RemoteCopy.under(storage, name)
        run = cls(out / name, mirror)
        # The copy is older than the folder in which a run trains.
        run.owner.check_free()
        try:
            run.check_place(fresh)
            if not fresh:
                run.check_copy()
                run.pull()
        except OSError as error:
            raise InputError(f"train.storage: expected {storage} to answer, found {error}") from None
        return run

    @classmethod
    def open(cls, path: Path | str, parts: Collection[str] | None = None) -> "Run":
        """Return an existing run.

        Args:
            path: its directory, or the URI where `train.storage` has put it: the run is then a download, which this process deletes at
                its end, with that copy as its `mirror`.
            parts: files that are needed of a URI, which are downloaded alone and without that mirror; all if not given.

        Raises:
            InputError: there is no run at `path`, or a URI does not answer.
        """
        if is_uri(path):
            return cls._downloaded(str(path), parts)
        run = cls(Path(path))
        if not run.exists():
            there = run._config_file.is_file()
            raise InputError(
                f"{path}: expected a run directory with a config.yaml, found "
                + ("one without the data.json that a run has" if there else "none")
            )
        return run

    @classmethod
    def _downloaded(cls, uri: str, parts: Collection[str] | None) -> "Run":
        mirror = RemoteCopy(uri)
        folder = tempfile.TemporaryDirectory(prefix="ndsm-")
        run = cls(
            Path(folder.name) / shown(uri).rstrip("/").rpartition("/")[2], mirror if parts is None else None
        )
        _downloads.append(folder)
        try:
            names = mirror.names()
            if not {"config.yaml", "data.json"} <= names:
                raise InputError(f"{shown(uri)}: expected a run with a config.yaml, found none")
            if parts is None:
                run.pull()
            else:
                for name in names & set(parts):
                    mirror.fetch(name, run.path)
        except OSError as error:
            raise InputError(
                f"{shown(uri)}: expected the storage to answer, found {one_line(error)}"
            ) from None
        return run

    def check_place(self, fresh: bool = False) -> None:
        """Raise an error if a run may not be begun here, or not started over if `fresh`.

        Beside a run that goes on, the folder may hold the user's own files. One that is begun or started over may not: its
        files could be confused with the user's.

        Raises:
            InputError: the folder or the copy has a file that no run makes.
            OSError: the storage does not answer.
        """
        if fresh or not self.exists():
            check_place(str(self.path), names_below(self.path), self.is_marked())
        if self.mirror is None:
            return
        names = sorted(self.mirror.modified())
        if marked := "data.json" in names:
            with self._copied("data.json") as copy:
                marked = copy.is_marked()
        if fresh or not marked:
            check_place(self.mirror.uri, names, marked)

    # ---- beginning ----

    def begin(self, config: Config, data: dict[str, Any], mixture: GaussianMixture | None) -> None:
        """Write the description of the data, the versions, the mixture and, last, the configuration.

        Raises:
            InputError: nothing can be written there.
        """
        try:
            self._write("data.json", json.dumps({**FORMAT, **data}).encode())
            self._write("versions.json", json.dumps(versions(), indent=1).encode())
            if mixture is not None:
                self._save_tensors("reference.safetensors", mixture.tensors())
                self._write("reference.json", json.dumps(mixture.describe(), indent=1).encode())
            self._write_config(config)
            self.push()
        except OSError as error:
            raise self._no_place(error) from None

    def _no_place(self, error: OSError) -> InputError:
        place = self.mirror.uri if self.mirror else self.path
        return InputError(f"{place}: expected a folder that can be written to, found {error}")

    def update(self, config: Config) -> None:
        """Replace the configuration by another one of the same training; an evaluation by other settings is deleted.

        Raises:
            InputError: the two are of different trainings.
        """
        before = self.config()
        if before == config:
            return
        if fields := differing_fields(before, config):
            raise InputError(
                f"{self.path} was begun with another configuration meanwhile: {', '.join(fields)}"
            )
        self._replace_config(before, config)

    def continue_with(self, config: Config) -> None:
        """Replace the configuration by one that the training continues with; a line of `continuations.jsonl` says what changed.

        Raises:
            InputError: another field differs than a continuation may change.
        """
        before = self.config()
        if changed := changes_of_continuation(before, config):
            # Before the configuration: with the line alone the run is still the one that it was.
            line = {"step": self.last_step(), "time": round(time.time(), 3), "config": training_hash(before)}
            append_line(self.path / "continuations.jsonl", line | {"changed": changed})
        if before != config:
            self._replace_config(before, config)

    def _replace_config(self, before: Config, config: Config) -> None:
        if differences(before, config, "sampling", "evaluation"):
            self.forget_evaluation()
        self._write_config(config)
        # Everything, not the configuration alone: the copy may be new.
        self.push()

    def remove(self, copy: bool = True) -> None:
        """Delete the files that a run makes; `data.json`, which marks them as a run's, last.

        Args:
            copy: whether the remote copy is deleted too.

        Raises:
            InputError: there are other files; nothing is deleted.
            OSError: a file cannot be deleted, or the storage does not answer.
        """
        self.check_place(fresh=True)
        names = removable(names_below(self.path))
        if self.owner.held:
            names = [name for name in names if name not in LOCKS]
        remove_files(self.path, names)
        if copy and self.mirror is not None:
            self.mirror.remove(removable(self.mirror.modified()))

    def push(self) -> None:
        """Upload what has changed to the remote copy, if there is one, as soon as it answers."""
        if (mirror := self.mirror) is not None:
            self.outage.wait(lambda: mirror.push(self.path), self.stop_file.exists)

    def pull(self) -> None:
        """Make the run directory equal to its remote copy, if there is one, unless the directory is ahead of it."""
        if self.mirror is not None:
            self.outage.wait(self._pull, self.stop_file.exists)

    def _pull(self) -> None:
        assert self.mirror is not None
        if step := self._ahead():
            self.outage.say(
                f"{self.path}: its checkpoint of step {step} is newer than those of {self.mirror.uri} and is gone on from"
            )
            self.mirror.look()
        else:
            self.mirror.pull(self.path)

    def steps_ahead(self) -> int:
        """Return the step of the newest whole checkpoint if the remote copy is an earlier state of this directory, without it; else 0.

        A copy whose `metrics.jsonl` is not the beginning of this directory's has been trained elsewhere since.
        """
        return self.outage.wait(self._ahead, self.stop_file.exists) if self.mirror is not None else 0

    def _ahead(self) -> int:
        assert self.mirror is not None
        try:
            saved = self.checkpoints.find(warn=lambda _: None) if self.exists() else None
        except InputError:
            # What is damaged here may be whole there.
            return 0
        names = self.mirror.names()
        there = max((step_of(Path(n)) for n in names if n.startswith("checkpoints/step-")), default=0)
        if saved is None or saved.state["steps"] <= there or "config.yaml" not in names:
            return 0
        uploaded = b""
        if "metrics.jsonl" in names:
            with self._copied("metrics.jsonl") as copy:
                uploaded = (copy.path / "metrics.jsonl").read_bytes()
        metrics = self.path / "metrics.jsonl"
        continues = metrics.is_file() and metrics.read_bytes().startswith(uploaded)
        return int(saved.state["steps"]) if continues else 0

    def check_copy(self) -> None:
        """Raise an error if the folder and the remote copy hold different runs.

        Raises:
            InputError: they do: pulling would replace this run by another one.
            OSError: the storage does not answer.
        """
        identity = {"config.yaml", "data.json"}
        if self.mirror is None or not self.exists() or not identity <= self.mirror.names():
            return
        with self._copied(*identity) as copy:
            # A continuation may have been interrupted before the copy knew of it.
            fields = differing_fields(self.config(), copy.config(), continuable_names(Config))
            differing = [field.partition(" ")[0] for field in fields]
            if self.data()["fingerprint"] != copy.data()["fingerprint"]:
                differing.append("rows")
        if differing:
            raise InputError(
                f"{self.path}: expected the run that {self.mirror.uri} is a copy of, found another one, with "
                f"other {', '.join(differing)}; give the run another --name or --out"
            )

    @contextmanager
    def _copied(self, *names: str) -> Iterator["Run"]:
        """Yield a temporary run that consists of these files of the remote copy."""
        assert self.mirror is not None
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                self.mirror.fetch(name, Path(folder))
            yield Run(Path(folder))

    @contextmanager
    def snapshot(self) -> Iterator["Run"]:
        """Yield a read-only snapshot of the run: a temporary download of the remote copy if there is one, else the run itself.

        Raises:
            OSError: the storage does not answer.
        """
        if self.mirror is None:
            yield self
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = Run(Path(folder) / self.path.name, RemoteCopy(self.mirror.uri))
            copy.pull()
            yield copy

    def check_there(self) -> None:
        """Raise an error if the folder has gone since the run was begun, or another process has taken the lease over.

        Raises:
            FileNotFoundError: the folder, or the disk that it is on, has vanished.
            LeaseLost: another process holds the lease.
        """
        if not self._config_file.is_file():
            raise FileNotFoundError(
                f"{self.path} has vanished while it was trained: bring the folder back, and the same command goes on"
            )
        self.owner.check_held()

    @contextmanager
    def _there(self) -> Iterator[None]:
        """Check as `check_there` before something is written, and again if the folder goes meanwhile."""
        self.check_there()
        try:
            yield
        except FileNotFoundError:
            self.check_there()
            raise

    @property
    def owner(self) -> RunLock:
        """Lock of the process that trains the run."""
        file = self.checkpoints.folder / "owner.json"
        return RunLock(file, f"{self.path} is being trained", "give this run another --name")

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes from training the run, here and to its remote copy; reentrant.

        Raises:
            InputError: another process trains it, or nothing can be written there.
        """
        with ExitStack() as held:
            try:
                held.enter_context(self.owner.hold())
                if (mirror := self.mirror) is not None:
                    self.outage.wait(lambda: held.enter_context(mirror.hold()), self.stop_file.exists)
            except OSError as error:
                raise self._no_place(error) from None
            yield

    # ---- progress ----

    def append_metrics(self, metrics: dict[str, Any]) -> None:
        """Add a line to `metrics.jsonl`."""
        with self._there():
            append_line(self.path / "metrics.jsonl", metrics)

    def begin_sitting(self, started: float) -> None:
        """Note that the run was started, or started again, at a Unix time."""
        if not (self.path / "sittings.jsonl").is_file():
            # What is known of a run that an earlier version began is how long it trained.
            last = self.last_metrics()
            started = min(started, last.get("time", started) - last.get("seconds", 0.0))
        append_line(self.path / "sittings.jsonl", {"started": round(started, 3)})

    def end_sitting(self) -> None:
        """Note that the run is trained, or was stopped in order, now."""
        append_line(self.path / "sittings.jsonl", {"ended": round(time.time(), 3)})

    def skip_block(self, index: int, reason: str) -> None:
        """Add a line to `skipped_blocks.jsonl`."""
        line = {"block": index, "time": round(time.time(), 3), "reason": reason}
        append_line(self.path / "skipped_blocks.jsonl", line)
        # What the storage does not take now goes with the next checkpoint.
        self.outage.attempt(lambda: self._push_files("skipped_blocks.jsonl"))

    def write_failure(self, error: Exception) -> None:
        """Write `failure.json`, here and to the remote copy, which may be ahead of this folder and is left as it is otherwise."""
        self._write("checkpoints/failure.json", json.dumps([type(error).__name__, str(error)]).encode())
        self._push_files("checkpoints/failure.json")

    def clear_requests(self) -> None:
        """Delete a request to stop and the failure of an earlier attempt."""
        self.stop_file.parent.mkdir(parents=True, exist_ok=True)
        self.stop_file.unlink(missing_ok=True)
        (self.checkpoints.folder / "failure.json").unlink(missing_ok=True)
        if (mirror := self.mirror) is not None:
            self.outage.wait(lambda: mirror.delete("checkpoints/failure.json"))
        self.push()

    def save_checkpoint(self, state: dict[str, Any], resume: dict[str, Any], last: bool = True) -> None:
        """Save what resuming needs; the newest two checkpoints are kept, not counting damaged ones.

        Args:
            state: tensors and plain Python types, with the number of `steps` taken.
            resume: plain Python types, see `Checkpoint.resume`.
            last: whether the upload is waited for; else the next checkpoint makes up for one that the storage did not take.
        """
        with self._there():
            self.checkpoints.save(state, resume)
        if last:
            self.push()
        elif (mirror := self.mirror) is not None:
            self.outage.attempt(lambda: mirror.push(self.path))

    def checkpoint_of(self, step: int, digest: str) -> Checkpoint | None:
        """Return the checkpoint of a step whose file has this hash, downloaded if need be; None if there is none.

        Raises:
            InputError: it is another version's.
            OSError: the storage does not answer.
        """
        found = self.checkpoints.read(step, digest)
        if found is not None or self.mirror is None:
            return found
        with suppress(FileNotFoundError):
            self.mirror.fetch(f"checkpoints/{checkpoint_name(step)}", self.path)
        return self.checkpoints.read(step, digest)

    def adopt_checkpoint(self) -> None:
        """Make the newest checkpoint, copied from another run, one of this run's configuration."""
        if saved := self.find_checkpoint():
            self.checkpoints.write(saved.state, saved.resume | {"config": training_hash(self.config())})

    # ---- weights and results ----

    def save_weights(self, ema: nn.Module, raw: nn.Module | None) -> None:
        """Write the averaged weights and, if there are any, the raw ones."""
        if raw is not None:
            self._save_tensors("model-raw.safetensors", raw.state_dict())
        self._save_tensors("model.safetensors", ema.state_dict())

    def append_event(self, text: str) -> None:
        """Add a line to `events.jsonl`, and upload it."""
        append_line(self.path / "events.jsonl", {"time": round(time.time(), 3), "event": text})
        self._push_files("events.jsonl")

    def append_evaluation(self, metrics: dict[str, Any]) -> None:
        """Add a line to `evaluations.jsonl`, and upload it with the event files of evaluations."""
        append_line(self.path / "evaluations.jsonl", metrics)
        events = [str(p.relative_to(self.path)) for p in self.tensorboard_evaluations.glob("*")]
        # What is not taken now goes with the next checkpoint.
        self.outage.attempt(lambda: self._push_files("evaluations.jsonl", *events))

    def write_evaluation(self, metrics: dict[str, Any]) -> None:
        """Write `metrics.json`."""
        self._write("metrics.json", json.dumps(metrics, indent=1).encode())

    def forget_evaluation(self) -> None:
        """Delete `metrics.json`, also of the remote copy: the weights that it describes are replaced."""
        (self.path / "metrics.json").unlink(missing_ok=True)
        if (mirror := self.mirror) is not None:
            # Else the next push does.
            self.outage.attempt(lambda: mirror.delete("metrics.json"))

    def write_examples(self, **rows: np.ndarray) -> None:
        """Write some rows (m, d) of the evaluation by name, model units."""
        self._save_tensors("examples.safetensors", {k: torch.from_numpy(v) for k, v in rows.items()})

    def write_report(self, markup: str) -> None:
        """Write `report.html`."""
        self._write("report.html", markup.encode())
        self.outage.wait(lambda: self._push_files("report.html"))

    # ---- files ----

    def _write_config(self, config: Config) -> None:
        tree = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        self._write("config.yaml", tree.encode())

    def _write(self, name: str, content: bytes) -> None:
        write_whole(self.path / name, content)

    def _push_files(self, *names: str) -> None:
        if self.mirror is not None:
            self.mirror.push_files(self.path, *names)

    def _save_tensors(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        self._write(name, save({k: v.detach().cpu().contiguous() for k, v in tensors.items()}))


def append_line(path: Path, entry: dict[str, Any]) -> None:
    """Add a line to a file of JSON lines; one that a full disk cut short is removed first."""
    with needs_room(path), path.open("a+b") as f:
        if end := f.tell():
            f.seek(end - 1)
            if f.read(1) != b"\n":
                f.seek(0)
                f.truncate(f.read().rfind(b"\n") + 1)
        f.write(json.dumps(entry).encode() + b"\n")
