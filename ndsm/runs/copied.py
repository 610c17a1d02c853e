"""A run directory beside its copy at a URI: which of the two is newer, and files on their way between them."""

import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from ndsm.config import Config
from ndsm.config.roles import continuable_names
from ndsm.core.places import shown
from ndsm.core.uris import one_line
from ndsm.errors import InputError
from ndsm.runs.checkpoints import Checkpoint
from ndsm.runs.contents import RunContents
from ndsm.runs.identity import differing_fields
from ndsm.runs.layout import checkpoint_name, step_of
from ndsm.runs.mirror import RemoteCopy
from ndsm.runs.outage import Outage

_downloads: list[tempfile.TemporaryDirectory[str]] = []
"""Folders of runs that were opened by a URI, which end with the process."""


class CopiedRun(RunContents):
    """The files of one run, of which there may be a copy that outlives this machine.

    Args:
        path: the run directory; it need not exist yet.
        mirror: the copy, if there is one.
    """

    def __init__(self, path: Path, mirror: RemoteCopy | None = None) -> None:
        super().__init__(path)
        self.mirror = mirror
        self.outage = Outage(mirror.uri if mirror else "", path)
        """How long the mirror is waited for, not at all unless that is changed: a command fails at once where it begins."""

    @classmethod
    def _downloaded(cls, uri: str, parts: Collection[str] | None) -> Self:
        """Return the run of a URI as a download, see `Run.open`."""
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
    def _copied(self, *names: str) -> Iterator[RunContents]:
        """Yield a temporary run that consists of these files of the remote copy."""
        assert self.mirror is not None
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                self.mirror.fetch(name, Path(folder))
            yield RunContents(Path(folder))

    @contextmanager
    def snapshot(self) -> Iterator[Self]:
        """Yield a read-only snapshot of the run: a temporary download of the remote copy if there is one, else the run itself.

        Raises:
            OSError: the storage does not answer.
        """
        if self.mirror is None:
            yield self
            return
        with tempfile.TemporaryDirectory() as folder:
            copy = type(self)(Path(folder) / self.path.name, RemoteCopy(self.mirror.uri))
            copy.pull()
            yield copy

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

    def _push_files(self, *names: str) -> None:
        if self.mirror is not None:
            self.mirror.push_files(self.path, *names)
