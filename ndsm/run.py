"""A run directory: written and read here, and nothing else knows its layout.

    config.yaml                               the whole resolved configuration
    data.json                                 column names and types, scaling, fingerprint of the rows
    versions.json                             of Python and packages, when the run was begun
    reference.safetensors, reference.json     the mixture
    model.safetensors, model-raw.safetensors  EMA weights; raw weights
    metrics.jsonl                             one line per report
    metrics.json                              the last evaluation
    samples.png                               generated rows beside data
    examples.safetensors                      a few of the evaluation's rows
    report.html                               all of this on a page
    checkpoints/step-000000123.pt             what resuming needs; the newest two are kept

Every file appears whole or not at all: it is written under another name, flushed and renamed.
"""

import io
import json
import os
import shutil
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from ndsm.config import Config, build_config, flatten
from ndsm.data import Scaling, TableSchema
from ndsm.errors import InputError
from ndsm.reference import GaussianMixture
from ndsm.training import Resume, Trainer
from ndsm.versions import versions

OPERATIONAL = (
    "data.root",
    "train.workers",
    "train.accumulate",
    "train.simulators",
    "train.window",
    "train.device",
    "train.compile",
    "train.storage",
    "train.checkpoint_seconds",
    "train.report_seconds",
    "sample.",
    "evaluate.",
)
"""Fields that say how a run is executed or looked at, not what is trained: they may differ on resuming."""


def differing_fields(a: Config, b: Config) -> list[str]:
    """Dotted names of the fields that make b another training than a, each with both values."""
    left, right = flatten(a), flatten(b)
    return [
        f"{name} ({left[name]} before, {right[name]} now)"
        for name in left
        if left[name] != right[name] and not name.startswith(OPERATIONAL)
    ]


class Run:
    """The files of one run.

    Args:
        path: the run directory; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path | str) -> "Run":
        """An existing run.

        Raises:
            InputError: there is no run at `path`.
        """
        run = cls(Path(path))
        if not run.exists():
            raise InputError(f"{path}: expected a run directory with a config.yaml, found none")
        return run

    def foreign_files(self) -> list[str]:
        """Names in the folder that no run makes; none if a run was begun here."""
        if self.exists() or not self.path.exists():
            return []
        if not self.path.is_dir():
            return [self.path.name]
        # What a run that died while it was begun leaves behind.
        own = ("data.json", "versions.json", "reference.safetensors", "reference.json", "checkpoints")
        return sorted(
            p.name for p in self.path.iterdir() if p.name not in own and not p.name.endswith(".partial")
        )

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.path / "config.yaml").is_file()

    # ---- beginning ----

    def begin(self, config: Config, data: dict[str, Any], mixture: GaussianMixture | None) -> None:
        """Write what a run is: data description, versions, mixture and, last, the configuration."""
        self._write("data.json", json.dumps(data).encode())
        self._write("versions.json", json.dumps(versions(), indent=1).encode())
        if mixture is not None:
            self._save_tensors("reference.safetensors", mixture.tensors())
            self._write("reference.json", json.dumps(mixture.describe(), indent=1).encode())
        tree = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
        self._write("config.yaml", tree.encode())

    def remove(self) -> None:
        """Delete the run directory."""
        shutil.rmtree(self.path, ignore_errors=True)

    # ---- what a run is ----

    def config(self) -> Config:
        """The resolved configuration.

        Raises:
            InputError: `config.yaml` is not a valid configuration.
        """
        path = self.path / "config.yaml"
        try:
            tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(
                f"{path}: expected a configuration, found {' '.join(str(error).split())}"
            ) from None
        return build_config(tree, str(path))

    def data(self) -> dict[str, Any]:
        """Description of the data: `schema`, `scaling`, `fingerprint`, `rows`, `dimension`."""
        found: dict[str, Any] = self._read_json("data.json")
        return found

    def scaling(self) -> Scaling:
        """Between model units and the data's own."""
        return Scaling.from_json(self.data()["scaling"])

    def schema(self) -> TableSchema:
        """Names and types of the data's columns."""
        return TableSchema.from_json(self.data()["schema"])

    def versions(self) -> dict[str, str]:
        """What the run was begun with, package by package; empty for a run of before that was noted."""
        known = (self.path / "versions.json").is_file()
        return self._read_json("versions.json") if known else {}

    def mixture(self) -> GaussianMixture:
        """The fitted mixture."""
        tensors = self._load_tensors("reference.safetensors")
        try:
            return GaussianMixture.from_tensors(tensors, self._read_json("reference.json")["covariance_type"])
        except (KeyError, RuntimeError) as error:
            raise InputError(f"{self.path}/reference: expected a fitted mixture, found {error!r}") from None

    # ---- progress ----

    def append_metrics(self, metrics: dict[str, Any]) -> None:
        """Add a line to `metrics.jsonl`."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / "metrics.jsonl").open("a", encoding="utf-8") as f:
            f.write(json.dumps(metrics) + "\n")

    def metrics_since(self, position: int) -> tuple[list[dict[str, Any]], int]:
        """Whole lines of `metrics.jsonl` from a byte position on, and the position after them."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return [], position
        with path.open("rb") as f:
            f.seek(position)
            whole = f.read().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()], position + len(whole) + bool(whole)

    def metrics_end(self) -> int:
        """Byte length of `metrics.jsonl`."""
        path = self.path / "metrics.jsonl"
        return path.stat().st_size if path.is_file() else 0

    @property
    def stop_file(self) -> Path:
        """Its presence asks a running training to save and stop: seen by workers on any machine."""
        return self.path / "checkpoints" / "stop"

    def write_failure(self, error: Exception) -> None:
        """Note what ended the training and would end it again: a retry is of no use."""
        self._write("checkpoints/failure.json", json.dumps([type(error).__name__, str(error)]).encode())

    def failure(self) -> tuple[str, str] | None:
        """Type and message of what ended the training for good, or None."""
        if not (self.path / "checkpoints" / "failure.json").is_file():
            return None
        kind, message = self._read_json("checkpoints/failure.json")
        return kind, message

    def clear_requests(self) -> None:
        """Forget a request to stop and a failure of an earlier attempt."""
        self.stop_file.parent.mkdir(parents=True, exist_ok=True)
        self.stop_file.unlink(missing_ok=True)
        (self.path / "checkpoints" / "failure.json").unlink(missing_ok=True)

    # ---- checkpoints ----

    def save_checkpoint(self, trainer: Trainer, resume: Resume) -> None:
        """Save what resuming needs; the newest two are kept."""
        buffer = io.BytesIO()
        torch.save({"trainer": trainer.state(), "resume": asdict(resume)}, buffer)
        self._write(f"checkpoints/step-{trainer.steps:09d}.pt", buffer.getvalue())
        for old in self._checkpoints()[:-2]:
            old.unlink(missing_ok=True)

    def load_checkpoint(self) -> tuple[dict[str, Any], Resume] | None:
        """The newest readable checkpoint: the trainer's state, and where the run stands."""
        for path in reversed(self._checkpoints()):
            try:
                # torch.load does not look at the checksums that its own format carries.
                with zipfile.ZipFile(path) as archive:
                    if damaged := archive.testzip():
                        raise zipfile.BadZipFile(f"checksum of {damaged}")
                saved = torch.load(path, weights_only=True, map_location="cpu")
                return saved["trainer"], Resume(**saved["resume"])
            # A damaged file shows in many types; the one before it is whole.
            except Exception as error:
                warnings.warn(
                    f"{path} is damaged ({type(error).__name__}); using the one before it", stacklevel=2
                )
        return None

    def last_step(self) -> int:
        """Step of the newest readable checkpoint, 0 without one."""
        saved = self.load_checkpoint()
        return int(saved[0]["steps"]) if saved else 0

    def _checkpoints(self) -> list[Path]:
        return sorted((self.path / "checkpoints").glob("step-*.pt"))

    # ---- weights ----

    def save_weights(self, ema: nn.Module, raw: nn.Module | None) -> None:
        """Write the averaged weights and, if there are any, the raw ones."""
        if raw is not None:
            self._save_tensors("model-raw.safetensors", raw.state_dict())
        self._save_tensors("model.safetensors", ema.state_dict())

    def load_weights(self, model: nn.Module) -> None:
        """Put the EMA weights into a model of the run's configuration.

        Raises:
            InputError: the run has none yet, or they are another architecture's.
        """
        if not (self.path / "model.safetensors").is_file():
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

    def write_evaluation(self, metrics: dict[str, Any]) -> None:
        """Write `metrics.json`."""
        self._write("metrics.json", json.dumps(metrics, indent=1).encode())

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

    # ---- files ----

    def _write(self, name: str, content: bytes) -> None:
        self._replace(name, lambda path: path.write_bytes(content))

    def _save_tensors(self, name: str, tensors: dict[str, torch.Tensor]) -> None:
        whole = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        self._replace(name, lambda path: save_file(whole, path))

    def _replace(self, name: str, fill: Callable[[Path], Any]) -> None:
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        fill(partial)
        with partial.open("rb") as f:
            os.fsync(f.fileno())
        partial.replace(path)

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
