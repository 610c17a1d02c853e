"""A run directory as a training uses it: begun, held against other processes, written, copied and deleted."""

import json
import time
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import save
from torch import nn

from ndsm.config import Config, differences
from ndsm.core.atomic_file import needs_room, write_whole
from ndsm.core.folders import names_below, remove_files
from ndsm.core.uris import is_uri
from ndsm.core.versions import versions
from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.runs.copied import CopiedRun
from ndsm.runs.identity import changes_of_continuation, differing_fields, training_hash
from ndsm.runs.layout import FORMAT, LOCKS, check_place, removable
from ndsm.runs.lock import RunLock
from ndsm.runs.mirror import RemoteCopy


class Run(CopiedRun):
    """The files of one run.

    Args:
        path: the run directory; it need not exist yet.
        mirror: the copy of it that outlives this machine, if there is one.
    """

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
