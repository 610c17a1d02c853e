"""A run directory: written and read here, and nothing else knows its layout.

    config.yaml                               the whole resolved configuration
    data.json                                 column names and types, scaling, fingerprint of the rows
    versions.json                             of Python and packages, when the run was begun
    reference.safetensors, reference.json     the mixture
    model.safetensors, model-raw.safetensors  EMA weights; raw weights
    metrics.jsonl                             one line per report
    metrics.json                              the last evaluation
    evaluations.jsonl                         one line per evaluation during the training
    samples.png                               generated rows beside data
    examples.safetensors                      a few of the evaluation's rows
    report.html                               all of this on a page
    tensorboard/                              the same numbers as scalars
    tensorboard/evaluation/                   those of evaluations, and pictures of their samples
    checkpoints/step-000000123.pt             what resuming needs; the newest two are kept
    checkpoints/owner.json                    the process that trains, or trained last; locked while it lives

Every file appears whole or not at all: it is written under another name, flushed and renamed.
"""

import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from ndsm.config import Config, build_config, chosen_values, differences
from ndsm.config.roles import DEFINING, names_of
from ndsm.core.atomic_file import first_foreign, names_below, needs_room, remove_files, write_whole
from ndsm.core.hashing import fingerprint
from ndsm.core.uris import is_uri
from ndsm.core.versions import versions
from ndsm.data import Labels, Scaling, TableSchema
from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.runs.checkpoints import (
    Checkpoint,
    DamagedCheckpoint,
    check_identity,
    checkpoint_bytes,
    newest_readable,
    read_checkpoint,
)
from ndsm.runs.lock import LOCK_FILES, RunLock
from ndsm.runs.mirror import RemoteCopy

FORMAT: dict[str, Any] = {"format": "ndsm-run", "format_version": 1}
"""What `data.json` begins with: it tells a run from another folder with files of the same names."""
DATA_KEYS = {"schema", "scaling", "fingerprint"}
"""By which the `data.json` of a run from before that is known."""
LOCKS = tuple(f"checkpoints/{name}" for name in LOCK_FILES)
"""Who works on the run; kept by whoever does."""
FILES = (
    "config.yaml",
    "versions.json",
    "reference.safetensors",
    "reference.json",
    "model.safetensors",
    "model-raw.safetensors",
    "metrics.jsonl",
    "metrics.json",
    "evaluations.jsonl",
    "samples.png",
    "examples.safetensors",
    "report.html",
    "curve.jsonl",
    "clock.json",
    "tensorboard/events.out.tfevents.*",
    "tensorboard/evaluation/events.out.tfevents.*",
    "checkpoints/step-*.pt",
    "checkpoints/stop",
    "checkpoints/failure.json",
    "checkpoints/ray/**",
    *LOCKS,
    "data.json",
)
"""Every file that a run makes, as `first_foreign` takes them; nothing else in its folder is ever deleted."""


def differing_fields(a: Config, b: Config) -> list[str]:
    """Dotted names of the fields that make b another training than a, each with both values."""
    found = differences(a, b, *DEFINING)
    return [f"{name} ({before} before, {now} now)" for name, (before, now) in found.items()]


def training_hash(config: Config) -> str:
    """Short hash of the fields that make a training what it is.

    Those at their default are left out, so that a later version's new fields do not make another training of it.
    """
    defining = names_of(Config, *DEFINING)
    return fingerprint({name: value for name, value in chosen_values(config).items() if name in defining})


@dataclass(frozen=True)
class RunProgress:
    """How far a run has come."""

    last_metrics: dict[str, Any]
    """The last whole line of `metrics.jsonl`; empty without one."""
    checkpoint: tuple[int, float] | None
    """Step and Unix time of the newest checkpoint."""
    failure: tuple[str, str] | None
    """Type and message of what ended the training for good."""


class Run:
    """The files of one run.

    Args:
        path: the run directory; it need not exist yet.
        mirror: the copy of it that outlives this machine, if there is one.
    """

    def __init__(self, path: Path, mirror: RemoteCopy | None = None) -> None:
        self.path, self.mirror = path, mirror
        self._damaged: set[str] = set()

    @classmethod
    def at(cls, out: Path, storage: str | None, name: str, fresh: bool = False) -> "Run":
        """The run of a name in the folder `out`, or as `train.storage` says.

        Args:
            fresh: whether both are to be replaced: the folder is then left as it is until then.

        Raises:
            InputError: the storage does not answer, or there is none of this kind; the run in the folder is another one
                than the copy; or one of the two places holds something else, see `check_place`.
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
    def open(cls, path: Path | str) -> "Run":
        """An existing run.

        Raises:
            InputError: there is no run at `path`.
        """
        run = cls(Path(path))
        if not run.exists():
            there = run._config_file.is_file()
            raise InputError(
                f"{path}: expected a run directory with a config.yaml, found "
                + ("one without the data.json that a run has" if there else "none")
            )
        return run

    def exists(self) -> bool:
        """Whether a run was begun here: `data.json` is one that only a run has, and `config.yaml`, written last, is there.

        Raises:
            InputError: there are both, and `data.json` is damaged.
        """
        return self._config_file.is_file() and self._is_marked()

    def _is_marked(self) -> bool:
        """Whether `data.json` is there, and is one that only a run has: also of a run that is not wholly begun."""
        if not (self.path / "data.json").is_file():
            return False
        found = self._read_json("data.json")
        return isinstance(found, dict) and (
            found.get("format") == FORMAT["format"] or found.keys() >= DATA_KEYS
        )

    def check_place(self, fresh: bool = False) -> None:
        """Raise an error if a run may not be begun here, or may not be begun anew if `fresh`.

        Beside a run that goes on there may be files of the user's; one that is begun anew could be mistaken about whose a
        file is, and what stands in the place of a run that is not there is somebody else's.

        Raises:
            InputError: the folder or the copy has a file that no run makes.
            OSError: the storage does not answer.
        """
        if fresh or not self.exists():
            _check_place(str(self.path), names_below(self.path), self._is_marked())
        if self.mirror is None:
            return
        names = sorted(self.mirror.modified())
        if marked := "data.json" in names:
            with self._copied("data.json") as copy:
                marked = copy._is_marked()
        if fresh or not marked:
            _check_place(self.mirror.uri, names, marked)

    # ---- beginning ----

    def begin(self, config: Config, data: dict[str, Any], mixture: GaussianMixture | None) -> None:
        """Write what a run is: data description, versions, mixture and, last, the configuration.

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
        """Make `config`, which is the same training, the run's; an evaluation by other settings is forgotten."""
        before = self.config()
        if before == config:
            return
        if fields := differing_fields(before, config):
            raise InputError(
                f"{self.path} was begun with another configuration meanwhile: {', '.join(fields)}"
            )
        if differences(before, config, "sampling", "evaluation"):
            self.forget_evaluation()
        self._write_config(config)
        # All of it: the copy may be new, and with a configuration alone it would be no run.
        self.push()

    def remove(self, copy: bool = True) -> None:
        """Delete what a run has made; `data.json` last, by which what is left is known as a run's.

        Args:
            copy: whether its copy is deleted too.

        Raises:
            InputError: there is something else; nothing is deleted.
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
        """Bring the copy up to date, if there is one."""
        if self.mirror is not None:
            self.mirror.push(self.path)

    def pull(self) -> None:
        """Bring the run directory to where its copy stands, if there is one."""
        if self.mirror is not None:
            self.mirror.pull(self.path)

    def check_copy(self) -> None:
        """Nothing, if the copy is of the run that is in the folder, or one of the two is not there.

        Raises:
            InputError: it is another run's, which would take the place of this one.
            OSError: the storage does not answer.
        """
        identity = {"config.yaml", "data.json"}
        if self.mirror is None or not self.exists() or not identity <= self.mirror.names():
            return
        with self._copied(*identity) as copy:
            differing = [field.partition(" ")[0] for field in differing_fields(self.config(), copy.config())]
            if self.data()["fingerprint"] != copy.data()["fingerprint"]:
                differing.append("rows")
        if differing:
            raise InputError(
                f"{self.path}: expected the run that {self.mirror.uri} is a copy of, found another one, with "
                f"other {', '.join(differing)}; give the run another --name or --out"
            )

    @contextmanager
    def _copied(self, *names: str) -> Iterator["Run"]:
        """A run of these files of the copy alone, in a folder of its own."""
        assert self.mirror is not None
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                self.mirror.fetch(name, Path(folder))
            yield Run(Path(folder))

    @contextmanager
    def snapshot(self) -> Iterator["Run"]:
        """The run, to be read while another process may train it: where it has a copy that one, in a folder of its own.

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
        """Nothing, if the run is where it was begun.

        Raises:
            FileNotFoundError: its folder has vanished, or the disk it is on.
        """
        if not self._config_file.is_file():
            raise FileNotFoundError(
                f"{self.path} has vanished while it was trained: bring the folder back, and the same command goes on"
            )
        self.owner.check_held()

    @property
    def owner(self) -> RunLock:
        """Who trains it; held while it is trained."""
        file = self._checkpoint_folder / "owner.json"
        return RunLock(file, f"{self.path} is being trained", "give this run another --name")

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes from training it here and, if it has a copy, on other machines; held already, do nothing.

        Raises:
            InputError: another process trains it, or nothing can be written there.
        """
        with ExitStack() as held:
            try:
                held.enter_context(self.owner.hold())
                if self.mirror is not None:
                    held.enter_context(self.mirror.hold())
            except OSError as error:
                raise self._no_place(error) from None
            yield

    # ---- what a run is ----

    def config(self) -> Config:
        """The resolved configuration.

        Raises:
            InputError: `config.yaml` is not a valid configuration.
        """
        path = self._config_file
        try:
            tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(
                f"{path}: expected a configuration, found {' '.join(str(error).split())}"
            ) from None
        return build_config(tree, str(path))

    def data(self) -> dict[str, Any]:
        """Description of the data: `schema`, `scaling`, `fingerprint`, `rows`, `dimension`.

        Raises:
            InputError: it is damaged, or of a later version.
        """
        found: dict[str, Any] = self._read_json("data.json")
        if (version := found.get("format_version", 1)) > FORMAT["format_version"]:
            raise InputError(
                f"{self.path}: expected a run of format {FORMAT['format_version']} or before, found one of format {version}; "
                "install the version of ndsm that its versions.json names"
            )
        return found

    def scaling(self) -> Scaling:
        """Between model units and the data's own."""
        return Scaling.from_json(self.data()["scaling"])

    def schema(self) -> TableSchema:
        """Names and types of the data's columns."""
        return TableSchema.from_json(self.data()["schema"])

    def labels(self) -> Labels:
        """The labels that were learned; none of a run without."""
        return Labels.of_run(self.data(), self.config().network.class_count)

    def versions(self) -> dict[str, str]:
        """What the run was begun with, package by package; empty for a run of before that was noted."""
        known = (self.path / "versions.json").is_file()
        return self._read_json("versions.json") if known else {}

    @property
    def fitted_in_python(self) -> bool:
        """Whether `ndsm.NDSM` saved it: trained to its end, of rows that no command can read, without reports."""
        return "fitted" in self.data()

    @property
    def has_mixture(self) -> bool:
        """Whether the run has a fitted mixture: not, if it was trained with a process of the caller's own."""
        return (self.path / "reference.safetensors").is_file()

    def mixture(self) -> GaussianMixture:
        """The fitted mixture.

        Raises:
            InputError: the run has none, or its file is damaged.
        """
        if self.exists() and not self.has_mixture:
            raise InputError(
                f"{self.path}: expected a fitted mixture, found none: if the run was trained with a process of your own, read it "
                "with ndsm.load(path, process=...)"
            )
        tensors = self._load_tensors("reference.safetensors")
        try:
            return GaussianMixture.from_tensors(tensors, self._read_json("reference.json")["covariance_type"])
        except (KeyError, RuntimeError) as error:
            raise InputError(f"{self.path}/reference: expected a fitted mixture, found {error!r}") from None

    # ---- progress ----

    def append_metrics(self, metrics: dict[str, Any]) -> None:
        """Add a line to `metrics.jsonl`."""
        self.check_there()
        path = self.path / "metrics.jsonl"
        with needs_room(path), path.open("a+b") as f:
            # A line that a full disk cut short is no line.
            if end := f.tell():
                f.seek(end - 1)
                if f.read(1) != b"\n":
                    f.seek(0)
                    f.truncate(f.read().rfind(b"\n") + 1)
            f.write(json.dumps(metrics).encode() + b"\n")

    def metrics_since(self, position: int) -> tuple[list[dict[str, Any]], int]:
        """Whole lines of `metrics.jsonl` from a byte position on, and the position after them."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return [], position
        with path.open("rb") as f:
            f.seek(position)
            whole = f.read().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()], position + len(whole) + bool(whole)

    def last_metrics(self) -> dict[str, Any]:
        """The last whole line of `metrics.jsonl`; empty without one."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return {}
        with path.open("rb") as f:
            f.seek(max(0, self.metrics_end() - 2**16))
            lines = f.read().rpartition(b"\n")[0].splitlines()
        found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return found

    def metrics_end(self) -> int:
        """Byte length of `metrics.jsonl`."""
        path = self.path / "metrics.jsonl"
        return path.stat().st_size if path.is_file() else 0

    @property
    def stop_file(self) -> Path:
        """Its presence asks a running training to save and stop: seen by workers on any machine."""
        return self._checkpoint_folder / "stop"

    def write_failure(self, error: Exception) -> None:
        """Note what ended the training; of the copy nothing else changes, which may be ahead of this folder."""
        self._write("checkpoints/failure.json", json.dumps([type(error).__name__, str(error)]).encode())
        self._push_files("checkpoints/failure.json")

    def failure(self) -> tuple[str, str] | None:
        """Type and message of what ended the training for good, or None."""
        if not (self._checkpoint_folder / "failure.json").is_file():
            return None
        kind, message = self._read_json("checkpoints/failure.json")
        return kind, message

    def clear_requests(self) -> None:
        """Forget a request to stop and a failure of an earlier attempt."""
        self.stop_file.parent.mkdir(parents=True, exist_ok=True)
        self.stop_file.unlink(missing_ok=True)
        (self._checkpoint_folder / "failure.json").unlink(missing_ok=True)
        if self.mirror is not None:
            self.mirror.delete("checkpoints/failure.json")
        self.push()

    # ---- checkpoints ----

    def save_checkpoint(self, state: dict[str, Any], resume: dict[str, Any]) -> None:
        """Save what resuming needs; the newest two checkpoints are kept, not counting damaged ones.

        Args:
            state: tensors and plain Python types, with the number of `steps` taken.
            resume: plain Python types, see `Checkpoint.resume`.
        """
        self.check_there()
        steps = int(state["steps"])
        self._write_checkpoint(state, resume)
        # One of a later step is none that this training has come from: it was damaged when training went on before it.
        self._damaged.discard(_checkpoint_name(steps))
        whole = [p for p in self._checkpoints() if _step_of(p) <= steps and p.name not in self._damaged]
        kept = {path.name for path in whole[-2:]}
        for path in self._checkpoints():
            if path.name not in kept:
                path.unlink(missing_ok=True)
        # What a killed process was writing is of no use any more.
        for partial in self._checkpoint_folder.glob(".step-*.partial"):
            partial.unlink(missing_ok=True)
        self.push()

    def find_checkpoint(
        self, identity: dict[str, str] | None = None, warn: Callable[[str], object] | None = None
    ) -> Checkpoint | None:
        """Return the newest whole checkpoint, None if there is none at all.

        Args:
            identity: hashes of the training that is to go on from it, by the keys of `IDENTITY`; not compared if None.
            warn: told if the newest file is damaged; a Python warning if not given.

        Raises:
            InputError: all are damaged; or the one found is another version's, of another configuration or of other
                blocks than `identity` says.
            OSError: the disk or the network fails.
        """
        found, self._damaged = newest_readable(self._checkpoints, warn)
        if found is not None and identity is not None:
            check_identity(found, self._checkpoint_folder, identity)
        return found

    def checkpoint_of(self, step: int, digest: str) -> Checkpoint | None:
        """The checkpoint of a step whose file has this hash, fetched from the copy if it is not here; None if there is none.

        Raises:
            InputError: it is another version's.
            OSError: the storage does not answer.
        """
        name = f"checkpoints/{_checkpoint_name(step)}"
        for fetched in (False, True):
            with suppress(DamagedCheckpoint, FileNotFoundError):
                if fetched and self.mirror is not None:
                    self.mirror.fetch(name, self.path)
                if (found := read_checkpoint(self.path / name)).digest == digest:
                    return found
        return None

    def adopt_checkpoint(self) -> None:
        """Make the newest checkpoint, which another run left here, one of this run's configuration."""
        if saved := self.find_checkpoint():
            self._write_checkpoint(saved.state, saved.resume | {"config": training_hash(self.config())})

    def _write_checkpoint(self, state: dict[str, Any], resume: dict[str, Any]) -> None:
        self._write(f"checkpoints/{_checkpoint_name(state['steps'])}", checkpoint_bytes(state, resume))

    def last_step(self) -> int:
        """Step of the newest readable checkpoint, 0 without one."""
        saved = self.find_checkpoint()
        return int(saved.state["steps"]) if saved else 0

    def newest_checkpoint(self) -> tuple[int, float] | None:
        """Step and Unix time of the newest checkpoint, not read; None without one."""
        for path in reversed(self._checkpoints()):
            # It may be replaced by a newer one just now.
            with suppress(FileNotFoundError):
                return _step_of(path), path.stat().st_mtime
        return None

    def progress(self) -> RunProgress:
        """How far the run has come, as far as this folder knows."""
        return RunProgress(self.last_metrics(), self.newest_checkpoint(), self.failure())

    def progress_at(self, storage: str) -> RunProgress:
        """The same, as far as its copy in the folder of runs at the URI `storage` knows; this folder stays as it is.

        Raises:
            InputError: the URI is malformed.
            OSError: the storage does not answer.
        """
        mirror = RemoteCopy.under(storage, self.path.name)
        modified = mirror.modified()
        with tempfile.TemporaryDirectory() as folder:
            copy = Run(Path(folder))
            for name in {"metrics.jsonl", "checkpoints/failure.json"} & modified.keys():
                mirror.fetch(name, copy.path)
            last, failure = copy.last_metrics(), copy.failure()
        checkpoints = [
            (_step_of(Path(name)), when)
            for name, when in modified.items()
            if Path(name).match("checkpoints/step-*.pt")
        ]
        return RunProgress(last, max(checkpoints, default=None), failure)

    @property
    def _checkpoint_folder(self) -> Path:
        return self.path / "checkpoints"

    def _checkpoints(self) -> list[Path]:
        return sorted(self._checkpoint_folder.glob("step-*.pt"))

    # ---- weights ----

    def save_weights(self, ema: nn.Module, raw: nn.Module | None) -> None:
        """Write the averaged weights and, if there are any, the raw ones."""
        if raw is not None:
            self._save_tensors("model-raw.safetensors", raw.state_dict())
        self._save_tensors("model.safetensors", ema.state_dict())

    @property
    def has_weights(self) -> bool:
        """Whether there are averaged weights: of a run that came to its end."""
        return (self.path / "model.safetensors").is_file()

    def weights_stamp(self) -> str:
        """Short hash of the EMA weights.

        Raises:
            InputError: the run has none yet.
        """
        tensors = self._load_tensors("model.safetensors")
        return fingerprint(*(tensors[name].numpy() for name in sorted(tensors)))

    def load_weights(self, model: nn.Module) -> None:
        """Put the EMA weights into a model of the run's configuration.

        Raises:
            InputError: the run has none yet, or they are another architecture's.
        """
        if not self.has_weights:
            raise InputError(
                f"{self.path}: expected model.safetensors, found none: the run has not finished training"
            )
        tensors = self._load_tensors("model.safetensors")
        try:
            model.load_state_dict(tensors)
        except RuntimeError as error:
            raise InputError(
                f"{self.path}/model.safetensors: expected the weights of its config.yaml's network, found "
                f"{' '.join(str(error).split())[:200]}"
            ) from None

    # ---- results ----

    def append_evaluation(self, metrics: dict[str, Any]) -> None:
        """Add a line to `evaluations.jsonl`; with it a copy gets the event files of evaluations."""
        path = self.path / "evaluations.jsonl"
        with needs_room(path), path.open("a", encoding="utf-8") as f:
            f.write(json.dumps(metrics) + "\n")
        events = (str(p.relative_to(self.path)) for p in self.tensorboard_evaluations.glob("*"))
        self._push_files(path.name, *events)

    def write_evaluation(self, metrics: dict[str, Any]) -> None:
        """Write `metrics.json`."""
        self._write("metrics.json", json.dumps(metrics, indent=1).encode())

    def forget_evaluation(self) -> None:
        """Delete `metrics.json`, of the copy too: the weights that it is of are replaced."""
        (self.path / "metrics.json").unlink(missing_ok=True)
        if self.mirror is not None:
            self.mirror.delete("metrics.json")

    def evaluation(self) -> dict[str, Any] | None:
        """`metrics.json`, or None before the first evaluation."""
        return self._read_json("metrics.json") if (self.path / "metrics.json").is_file() else None

    def write_examples(self, **rows: np.ndarray) -> None:
        """Keep some rows (m, d) of the evaluation by name, model units."""
        self._save_tensors("examples.safetensors", {k: torch.from_numpy(v) for k, v in rows.items()})

    def examples(self) -> dict[str, np.ndarray]:
        """What `write_examples` kept; empty before the first evaluation."""
        if not (self.path / "examples.safetensors").is_file():
            return {}
        return {k: v.numpy() for k, v in self._load_tensors("examples.safetensors").items()}

    @property
    def tensorboard(self) -> Path:
        """Folder of the event files."""
        return self.path / "tensorboard"

    @property
    def tensorboard_evaluations(self) -> Path:
        """Folder of the event files of evaluations."""
        return self.tensorboard / "evaluation"

    @property
    def samples_png(self) -> Path:
        """Where the picture of samples goes."""
        return self.path / "samples.png"

    @property
    def report_html(self) -> Path:
        """Where the report goes."""
        return self.path / "report.html"

    def write_report(self, markup: str) -> None:
        """Write `report.html`."""
        self._write("report.html", markup.encode())
        self._push_files("report.html")

    # ---- files ----

    @property
    def _config_file(self) -> Path:
        return self.path / "config.yaml"

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

    def _read_json(self, name: str) -> Any:
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: expected a JSON file, found {' '.join(str(error).split())}") from None

    def _load_tensors(self, name: str) -> dict[str, torch.Tensor]:
        path = self.path / name
        try:
            tensors: dict[str, torch.Tensor] = load_file(path)
            return tensors
        except (OSError, SafetensorError) as error:
            raise InputError(
                f"{path}: expected a safetensors file, found {' '.join(str(error).split())}"
            ) from None


def _check_place(place: str, names: Iterable[str], marked: bool) -> None:
    """Raise an error if one of the files at a place is not a run's.

    Args:
        marked: whether a run's `data.json` is among them; without it no file is taken for a run's.
    """
    if foreign := first_foreign(names, FILES if marked else LOCKS):
        expected = "only files of the run that --fresh starts over" if marked else "a new or a run's folder"
        raise InputError(
            f"{place}: expected {expected}, found one with other files in it: {foreign}; move them away, or choose another "
            "--name or --out"
        )


def removable(names: Iterable[str]) -> list[str]:
    """A run's files among these, in the order to delete them: first what makes it a run, last what marks it as one."""
    own = [name for name in names if first_foreign([name], FILES) is None]
    return sorted(own, key=lambda name: (name == "data.json", name != "config.yaml", name))


def _checkpoint_name(step: int) -> str:
    return f"step-{step:09d}.pt"


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("step-"))
