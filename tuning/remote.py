"""A search whose folder is a URI: trials train in folders of their machines, and the records and runs are there."""

import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from ndsm.core.atomic_file import write_whole
from ndsm.core.folders import first_foreign, remove_files
from ndsm.core.places import Flag, Place, child
from ndsm.core.uris import is_uri
from ndsm.errors import InputError
from ndsm.runs import Run
from ndsm.runs.layout import removable
from ndsm.runs.lease import EXPIRY_SECONDS, Lease
from ndsm.runs.lock import LOCK_FILES
from ndsm.runs.mirror import LEASE, RemoteCopy
from tuning.folder import LOCK_FILE, OWN, SearchFolder, TrialFolder, TrialRecord

STOP = "run/checkpoints/stop"
_folders: dict[str, tempfile.TemporaryDirectory[str]] = {}
"""This process's folder for each URI, which ends with it."""


def search_folder(where: Path | str) -> SearchFolder:
    """The files of a search at a path or a URI."""
    return RemoteSearch(str(where)) if is_uri(where) else SearchFolder(Path(where))


def trial_folder(where: Path | str) -> TrialFolder:
    """A trial's files at a path or a URI."""
    return RemoteTrial(str(where)) if is_uri(where) else TrialFolder(Path(where))


def _folder_of(uri: str) -> Path:
    if uri not in _folders:
        _folders[uri] = tempfile.TemporaryDirectory(prefix="ndsm-")
    return Path(_folders[uri].name)


class RemoteTrial(TrialFolder):
    """A trial's files at a URI; `path` is where this process works on them.

    Args:
        uri: of its folder.
    """

    def __init__(self, uri: str) -> None:
        super().__init__(_folder_of(uri))
        self.where, self._place = uri, Place(uri)

    @cached_property
    def run(self) -> Run:
        """Its run, brought up to date; waits for the lease of a process that was lost to expire."""
        self._place.delete(STOP)
        deadline = time.monotonic() + EXPIRY_SECONDS
        while True:
            try:
                return Run.at(self.path, str(self.where), "run")
            except InputError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def read(self) -> TrialRecord:
        """The trial's record."""
        try:
            write_whole(self.path / "trial.json", self._place.read("trial.json"))
        except FileNotFoundError:
            (self.path / "trial.json").unlink(missing_ok=True)
        return super().read()

    def exists(self) -> bool:
        """Whether the trial was begun."""
        return self._place.has("trial.json")

    def write(self, record: TrialRecord) -> None:
        """Write the trial's record."""
        super().write(record)
        self._place.write("trial.json", (self.path / "trial.json").read_bytes())

    def ask_to_stop(self) -> None:
        """Have the trial's training save and stop, wherever it runs."""
        if self._place.has("run/config.yaml"):
            Flag(self._place, STOP).touch()

    def take_request(self) -> None:
        """Pass on what `ask_to_stop` asked for, here or on another machine, to this process's run."""
        if self._place.has(STOP):
            self.run.stop_file.touch()

    def forget(self) -> None:
        """Delete what this process has of the run: another one may have replaced it at the URI since."""
        self.__dict__.pop("run", None)
        shutil.rmtree(self.path / "run", ignore_errors=True)

    @contextmanager
    def successor(self, donor: TrialFolder) -> Iterator[Run]:
        """Yield a copy of another trial's run, which is uploaded when the context ends."""
        coming = self._copy("run-next")
        coming.remove(removable(coming.modified()))
        with tempfile.TemporaryDirectory() as folder:
            run = Run(Path(folder))
            RemoteCopy.under(str(donor.where), "run").pull(run.path)
            run.stop_file.unlink(missing_ok=True)
            yield run
            coming.push(run.path)

    def succeed(self) -> None:
        """Have the whole `successor`, if there is one, take the place of the run."""
        coming, run = self._copy("run-next"), self._copy("run")
        if "config.yaml" in (names := coming.names()):
            with tempfile.TemporaryDirectory() as folder:
                coming.pull(Path(folder))
                run.push(Path(folder))
            run.remove(removable(run.modified().keys() - names))
            self.forget()
        # Without the first of them it is known to have been copied.
        coming.remove(sorted(names, key=lambda name: name != "config.yaml"))

    def _copy(self, name: str) -> RemoteCopy:
        return RemoteCopy.under(str(self.where), name)


class Owner(Lease):
    """The lease of a search, with the words of a lock."""

    @property
    def held(self) -> bool:
        """Whether this process holds it."""
        return self.token is not None


class RemoteSearch(SearchFolder):
    """The files of a search at a URI.

    Args:
        uri: of its folder.
    """

    def __init__(self, uri: str) -> None:
        super().__init__(_folder_of(uri))
        self.where, self.place = uri, Place(uri)
        file = f"{self.place.root}/{LOCK_FILE}"
        self.owner = Owner(
            self.place.filesystem, file, f"{self.place} is being searched", "give this search another --name"
        )
        self.stop_file = Flag(self.place, "stop")
        self.tune_storage = {"storage_path": self.place.root, "storage_filesystem": self.place.filesystem}

    def __str__(self) -> str:
        return str(self.place)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes from searching here."""
        with self.owner.hold():
            yield

    def begin(self, settings: dict[str, Any]) -> None:
        """Write what the search is, unless it is there already."""
        self._is_marked()
        super().begin(settings)
        if not self.place.has("search.json"):
            self.place.write("search.json", (self.path / "search.json").read_bytes())

    def _is_marked(self) -> bool:
        if self.place.has("search.json"):
            write_whole(self.path / "search.json", self.place.read("search.json"))
        return super()._is_marked()

    def trains(self) -> bool:
        """Whether a process trains a trial, or did so when it was lost, moments ago."""
        return any(name.endswith(f"/{LEASE}") for name in self.place.names())

    def names(self) -> list[str]:
        """All files of the folder but the leases of runs."""
        return [name for name in self.place.names() if not name.endswith(f"/{LEASE}")]

    def check_place(self) -> None:
        """Raise an error if a search may not be begun here anew."""
        super().check_place()
        if self.trains():
            raise InputError(
                f"{self}: a trial is being trained there: wait for it, or give this search another --name"
            )

    def remove(self) -> None:
        """Delete what a search makes; search.json last."""
        self.check_place()
        for name in sorted(self.names(), key=lambda name: name == "search.json"):
            if name not in LOCK_FILES and first_foreign([name], OWN) is None:
                self.place.delete(name)
        remove_files(self.path, ["search.json"])

    def at(self, name: str) -> TrialFolder:
        """The files of a trial or finalist by its folder's name."""
        return RemoteTrial(child(str(self.where), name))

    def _trial_files(self) -> Iterable[str]:
        return (name for name in self.names() if name.endswith("/trial.json"))

    def population(self) -> dict[str, dict[str, int]]:
        """What `population.json` says."""
        if self.place.has("population.json"):
            self.place.fetch("population.json", self.path)
        return super().population()

    def write_text(self, name: str, content: str) -> None:
        """Write a file of the search."""
        self.place.write(name, content.encode())
