"""Reading of a run directory."""

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ndsm.config import Config, build_config
from ndsm.core.hashing import fingerprint
from ndsm.data import Labels, Scaling, TableSchema
from ndsm.errors import InputError
from ndsm.mixture import GaussianMixture
from ndsm.runs.checkpoints import Checkpoint, Checkpoints
from ndsm.runs.layout import DATA_KEYS, FORMAT, NEWEST_VERSION


class RunContents:
    """The files of one run, to be read.

    Args:
        path: the run directory; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = Checkpoints(path / "checkpoints")

    def exists(self) -> bool:
        """Return whether a run was begun here: there are a run's `data.json` and `config.yaml`, which is written last.

        Raises:
            InputError: `data.json` is damaged.
        """
        return self._config_file.is_file() and self.is_marked()

    def is_marked(self) -> bool:
        """Return whether there is a run's `data.json`, also of a run whose beginning was interrupted."""
        if not (self.path / "data.json").is_file():
            return False
        found = self._read_json("data.json")
        return isinstance(found, dict) and (
            found.get("format") == FORMAT["format"] or found.keys() >= DATA_KEYS
        )

    # ---- what a run is ----

    def config(self) -> Config:
        """Return the resolved configuration.

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
        """Return the description of the data: `schema`, `scaling`, `fingerprint`, `rows`, `dimension`.

        Raises:
            InputError: it is damaged, or of a later version.
        """
        found: dict[str, Any] = self._read_json("data.json")
        if (version := found.get("format_version", 1)) > NEWEST_VERSION:
            raise InputError(
                f"{self.path}: expected a run of format {NEWEST_VERSION} or before, found one of format {version}; "
                "install the version of ndsm that its versions.json names"
            )
        return found

    def scaling(self) -> Scaling:
        """Return the map between model units and those of the data."""
        return Scaling.from_json(self.data()["scaling"])

    def schema(self) -> TableSchema:
        """Return names and types of the data's columns."""
        return TableSchema.from_json(self.data()["schema"])

    def labels(self) -> Labels:
        """Return the labels that were learned; empty for a run without."""
        return Labels.of_run(self.data(), self.config().network.class_count)

    def versions(self) -> dict[str, str]:
        """Return the versions of Python and packages that the run was begun with; empty if they were not noted."""
        known = (self.path / "versions.json").is_file()
        return self._read_json("versions.json") if known else {}

    @property
    def fitted_in_python(self) -> bool:
        """Whether `ndsm.NDSM` saved the run: trained to its end, on rows that no command can read, without `metrics.jsonl`."""
        return "fitted" in self.data()

    @property
    def has_mixture(self) -> bool:
        """Whether the run has a fitted mixture; not if it was trained with a process of the caller's own."""
        return (self.path / "reference.safetensors").is_file()

    def mixture(self) -> GaussianMixture:
        """Return the fitted mixture.

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

    def metrics_since(self, position: int) -> tuple[list[dict[str, Any]], int]:
        """Return the whole lines of `metrics.jsonl` from a byte position on, and the position after them."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return [], position
        with path.open("rb") as f:
            f.seek(position)
            whole = f.read().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()], position + len(whole) + bool(whole)

    def last_metrics(self) -> dict[str, Any]:
        """Return the last whole line of `metrics.jsonl`; empty without one."""
        path = self.path / "metrics.jsonl"
        if not path.is_file():
            return {}
        with path.open("rb") as f:
            f.seek(max(0, self.metrics_end() - 2**16))
            lines = f.read().rpartition(b"\n")[0].splitlines()
        found: dict[str, Any] = json.loads(lines[-1]) if lines else {}
        return found

    def events(self, count: int) -> list[dict[str, Any]]:
        """Return the last lines of `events.jsonl`, each with `time` and `event`; empty without any."""
        path = self.path / "events.jsonl"
        whole = path.read_bytes().rpartition(b"\n")[0] if path.is_file() else b""
        return [json.loads(line) for line in whole.splitlines()[-count:]]

    def continuations(self) -> list[dict[str, Any]]:
        """Return the lines of `continuations.jsonl`, see `Run.continue_with`; empty for a run that was never continued."""
        return self._lines("continuations.jsonl")

    def skipped_blocks(self) -> list[int]:
        """Return the indices of the blocks that could not be simulated, and that others took the place of."""
        return [line["block"] for line in self._lines("skipped_blocks.jsonl")]

    def begun(self) -> float:
        """Return the Unix time of the first start, later by the time in which the run was stopped in order; 0 if it is not known.

        A crash is no stop: the time until the run goes on counts.
        """
        lines = self._lines("sittings.jsonl")
        if not lines:
            return 0.0
        pairs = pairwise(lines)
        stopped = (b["started"] - a["ended"] for a, b in pairs if "ended" in a and "started" in b)
        return float(lines[0]["started"] + sum(max(0.0, seconds) for seconds in stopped))

    def _lines(self, name: str) -> list[dict[str, Any]]:
        """Return the whole lines of a file; none if it is not there."""
        path = self.path / name
        whole = path.read_bytes().rpartition(b"\n")[0] if path.is_file() else b""
        return [json.loads(line) for line in whole.splitlines()]

    def metrics_end(self) -> int:
        """Return the length of `metrics.jsonl` in bytes."""
        path = self.path / "metrics.jsonl"
        return path.stat().st_size if path.is_file() else 0

    @property
    def stop_file(self) -> Path:
        """File whose presence asks a running training, on any machine, to save and stop."""
        return self.checkpoints.folder / "stop"

    def failure(self) -> tuple[str, str] | None:
        """Return type and message of the error that ended the training for good, or None."""
        if not (self.checkpoints.folder / "failure.json").is_file():
            return None
        kind, message = self._read_json("checkpoints/failure.json")
        return kind, message

    def find_checkpoint(
        self, identity: dict[str, str] | None = None, warn: Callable[[str], object] | None = None
    ) -> Checkpoint | None:
        """Return the newest whole checkpoint, None without one; see `Checkpoints.find`.

        A run that was continued goes on from checkpoints of the configurations that it had before, too.
        """
        before = [line["config"] for line in self.continuations()] if identity is not None else []
        return self.checkpoints.find(identity, warn, before)

    def last_step(self) -> int:
        """Return the step of the newest whole checkpoint, 0 without one."""
        saved = self.find_checkpoint()
        return int(saved.state["steps"]) if saved else 0

    def newest_checkpoint(self) -> tuple[int, float] | None:
        """Return step and Unix time of the newest checkpoint file, not read; None without one."""
        return self.checkpoints.newest()

    # ---- weights and results ----

    @property
    def has_weights(self) -> bool:
        """Whether there are averaged weights, which a finished run has."""
        return (self.path / "model.safetensors").is_file()

    def weights_stamp(self) -> str:
        """Return a short hash of the EMA weights.

        Raises:
            InputError: the run has none yet.
        """
        tensors = self._load_tensors("model.safetensors")
        return fingerprint(*(tensors[name].numpy() for name in sorted(tensors)))

    def load_weights(self, model: nn.Module) -> None:
        """Load the EMA weights into a model of the run's configuration.

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

    def evaluation(self) -> dict[str, Any] | None:
        """Return `metrics.json`, or None before the first evaluation."""
        return self._read_json("metrics.json") if (self.path / "metrics.json").is_file() else None

    def examples(self) -> dict[str, np.ndarray]:
        """Return the rows of `Run.write_examples` by name; empty before the first evaluation."""
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
        """Path of the picture of samples."""
        return self.path / "samples.png"

    @property
    def report_html(self) -> Path:
        """Path of the report."""
        return self.path / "report.html"

    # ---- files ----

    @property
    def _config_file(self) -> Path:
        return self.path / "config.yaml"

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
