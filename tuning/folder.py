"""A search's folder: written and read here, and nothing else of `tuning` knows its layout.

search.json                       what is searched, how, and from which configuration
owner.json                        the process that searches, or searched last; locked while it lives
trials/0007/trial.json            a trial: its values, where it stands, its scores
trials/0007/run                   its run directory
finalists/NAME-seed1/             as a trial, on a fresh seed
population.json                   of a population: after each generation, who took over from whom
pool/                             blocks that trials share
ray/                              Ray Tune's own bookkeeping, and one TensorBoard log per trial
summary.json, tune-report.html, best.yaml
"""

import json
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from ndsm.config import Config, build_config, chosen_values
from ndsm.config.roles import names_of
from ndsm.core.atomic_file import write_whole
from ndsm.core.folders import first_foreign, names_below, remove_files
from ndsm.errors import InputError
from ndsm.runs import Run
from ndsm.runs.layout import FILES, removable
from ndsm.runs.lock import LOCK_FILES, RunLock
from tuning.pool import STAMP_FILES

Status = Literal["running", "done", "stopped", "failed", "invalid", "died"]
FINISHED: tuple[Status, ...] = ("done", "stopped", "failed")
"""What counts as a trial: an invalid combination of values is replaced by another one, and a trial that died of a lost process
or node is taken up again by the next command."""
UNFINISHED: tuple[Status, ...] = ("running", "died")
"""What the next command goes on with."""


LOCK_FILE = "owner.json"
FORMAT = "ndsm-search"
"""By which search.json is known, or by having all of `SETTINGS`."""
SETTINGS = {"preset", "config", "space", "trial_kind"}
TRIALS = ("trials/[0-9]*", "finalists/*-seed*")
"""Folders of trials."""
OWN = (
    *LOCK_FILES,
    "population.json",
    "ray/**",
    "stop",
    "summary.json",
    "tune-report.html",
    "best.yaml",
    "search.json",
    "pool/.lock",
    *(f"pool/*/{name}" for name in STAMP_FILES),
    *(f"{trial}/trial.json" for trial in TRIALS),
    *(f"{trial}/{run}/{name}" for trial in TRIALS for run in ("run", "run-next") for name in FILES),
)
"""Every file that a search makes, as `first_foreign` takes them; nothing else in its folder is ever deleted."""


@dataclass
class Score:
    """A trial's held-out metric at one moment."""

    step: int
    share: float
    """Of the trial's steps."""
    score: float


@dataclass
class TrialRecord:
    """A trial: what it tries, and what came of it."""

    number: int
    params: dict[str, Any]
    """Values by field; the rest is the preset's."""
    time: float = 1.0
    """Training time it is given, in units of the search's."""
    status: Status = "running"
    reason: str = ""
    """Why it failed, died, was stopped or is invalid."""
    scores: list[Score] = field(default_factory=list)
    steps: int = 0
    """Optimiser steps that fit its training time."""
    cost: float = 0.0
    """Time of one of its steps, with the simulation of its rows, in units of the preset's."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """Of its last score: floor, mixture alone, further numbers."""
    starts: int = 0
    """How often its training was begun or resumed."""
    blocks_made: int = 0
    blocks_read: int = 0
    """Blocks simulated by this trial, and taken from others."""
    changes: list[dict[str, Any]] = field(default_factory=list)
    """Of a population's member: the generations after which it took over from another one, from which, and its values since."""

    @property
    def score(self) -> float | None:
        """The last score."""
        return self.scores[-1].score if self.scores else None

    def score_at(self, share: float) -> float | None:
        """The score after a share of its steps."""
        return next((s.score for s in self.scores if s.share == share), None)

    @property
    def name(self) -> str:
        """What tables call it."""
        return "preset" if self.number == 0 else f"trial {self.number}"


class TrialFolder:
    """A trial's files.

    Args:
        path: its folder; it need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where: Path | str = path
        """By which `tuning.remote.trial_folder` finds it in another process."""

    @cached_property
    def run(self) -> Run:
        """Its run."""
        return Run(self.path / "run")

    def read(self) -> TrialRecord:
        """The trial's record.

        Raises:
            InputError: it is damaged.
        """
        tree = read_json(self.path / "trial.json")
        try:
            return TrialRecord(**{**tree, "scores": [Score(**s) for s in tree["scores"]]})
        except (TypeError, KeyError) as error:
            raise InputError(f"{self.path / 'trial.json'}: expected a trial, found {error!r}") from None

    def exists(self) -> bool:
        """Whether the trial was begun."""
        return (self.path / "trial.json").is_file()

    def write(self, record: TrialRecord) -> None:
        """Write the trial's record."""
        write_json(self.path / "trial.json", asdict(record))

    def ask_to_stop(self) -> None:
        """Have the trial's training save and stop, wherever it runs."""
        if self.run.exists():
            self.run.stop_file.touch()

    def take_request(self) -> None:
        """Pass on what `ask_to_stop` asked for to this process's run, if it does not see that by itself."""

    def forget(self) -> None:
        """Delete what only this process has of the run, which may have been replaced since."""

    @contextmanager
    def successor(self, donor: "TrialFolder") -> Iterator[Run]:
        """Yield a copy of another trial's run, which `succeed` has take the place of this one's; it is whole when the context ends."""
        coming = self._coming
        remove_files(coming, removable(names_below(coming)))
        shutil.copytree(
            donor.run.path, coming, ignore=shutil.ignore_patterns(*LOCK_FILES), dirs_exist_ok=True
        )
        yield Run(coming)

    def succeed(self) -> None:
        """Have the whole `successor`, if there is one, take the place of the run; a call after a kill ends as the first one would have."""
        if self._coming.is_dir():
            self.run.remove()
            self._coming.rename(self.run.path)

    @property
    def _coming(self) -> Path:
        return self.path / "run-next"


class SearchFolder:
    """The files of one search.

    Args:
        path: its folder; it need not exist yet.
    """

    owner: Any
    """Lock of the process that searches."""
    stop_file: Any
    """Its presence asks the search to stop; a path or a `Flag`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where: Path | str = path
        """By which `tuning.remote.search_folder` finds it in another process."""
        self.pool = path / "pool"
        self.owner = RunLock(path / LOCK_FILE, f"{path} is being searched", "give this search another --name")
        self.stop_file = path / "stop"
        self.tune_storage: dict[str, Any] = {"storage_path": str(path)}
        """Where Ray Tune keeps its files, in a folder `ray`."""

    def __str__(self) -> str:
        return str(self.path)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes from searching here.

        Raises:
            InputError: another one does.
        """
        with self.owner.hold():
            yield

    def names(self) -> list[str]:
        """All files of the folder."""
        return list(names_below(self.path))

    def begin(self, settings: dict[str, Any]) -> None:
        """Write what the search is, unless it is there already."""
        if not (self.path / "search.json").is_file():
            write_json(self.path / "search.json", {"format": FORMAT, **settings})
        self.stop_file.unlink(missing_ok=True)

    def check(self, settings: dict[str, Any]) -> None:
        """Check that a search with these settings can begin or go on here.

        Raises:
            InputError: the folder has another search, or something else.
        """
        if self._is_marked():
            known = read_json(self.path / "search.json")
            differing = [name for name in settings if _deciding(known).get(name) != _deciding(settings)[name]]
            if differing:
                raise InputError(
                    f"{self} was begun as another search: {', '.join(differing)} differ; give the search another "
                    "--name, or start it over with --fresh"
                )
        else:
            self.check_place()

    def _is_marked(self) -> bool:
        """Whether there is a search's search.json.

        Raises:
            InputError: it is damaged.
        """
        if not (self.path / "search.json").is_file():
            return False
        found = read_json(self.path / "search.json")
        return isinstance(found, dict) and (found.get("format") == FORMAT or found.keys() >= SETTINGS)

    def check_place(self) -> None:
        """Raise an error if a search may not be begun here anew.

        Raises:
            InputError: the folder has a file that no search makes, or a trial's process still works in it.
        """
        names = self.names()
        if foreign := first_foreign(names, OWN if self._is_marked() else LOCK_FILES):
            expected = (
                "only a search's files for --fresh" if self._is_marked() else "a new or a search's folder"
            )
            raise InputError(f"{self}: expected {expected}, found one with other files in it: {foreign}")
        for pattern in TRIALS:
            for trial in self.path.glob(pattern):
                TrialFolder(trial).run.owner.check_free()

    def remove(self) -> None:
        """Delete what a search makes; search.json last, by which what is left is known as a search's.

        Raises:
            InputError: there is something else; nothing is deleted.
        """
        self.check_place()
        names = sorted(names_below(self.path), key=lambda name: name == "search.json")
        if self.owner.held:
            names = [name for name in names if name not in LOCK_FILES]
        remove_files(self.path, names)

    def trial(self, number: int) -> TrialFolder:
        """A trial's files."""
        return self.at(f"trials/{number:04d}")

    def finalist(self, name: str) -> TrialFolder:
        """A finalist's files."""
        return self.at(f"finalists/{name}")

    def at(self, name: str) -> TrialFolder:
        """The files of a trial or finalist by its folder's name."""
        return TrialFolder(self.path / name)

    def records(self) -> list[TrialRecord]:
        """All trials, by number."""
        return [self.at(name).read() for name in self._begun("trials/[0-9]*")]

    def trains(self) -> bool:
        """Whether a process trains a trial."""
        owners = [self.trial(r.number).run.owner.read() for r in self.records() if r.status == "running"]
        return any(owner is not None and owner.alive for owner in owners)

    def finalists(self) -> list[str]:
        """Names of the finalists that were begun."""
        return [name.partition("/")[2] for name in self._begun("finalists/*-seed*")]

    def _begun(self, pattern: str) -> list[str]:
        """Names of the folders of begun trials, in order."""
        found = (name.removesuffix("/trial.json") for name in self._trial_files())
        return sorted(name for name in found if fnmatchcase(name, pattern) and name.count("/") == 1)

    def _trial_files(self) -> Iterable[str]:
        found = (file for kind in ("trials", "finalists") for file in self.path.glob(f"{kind}/*/trial.json"))
        return (str(file.relative_to(self.path)) for file in found)

    def population(self) -> dict[str, dict[str, int]]:
        """What `population.json` says: by generation, members and those that they took over from."""
        path = self.path / "population.json"
        donors: dict[str, dict[str, int]] = read_json(path) if path.is_file() else {}
        return donors

    def write_population(self, takeovers: dict[str, dict[str, int]]) -> None:
        """Write `population.json`."""
        self.write_json("population.json", takeovers)

    def write_json(self, name: str, content: Any) -> None:
        """Write a file of the search."""
        self.write_text(name, json.dumps(content, indent=1))

    def write_text(self, name: str, content: str) -> None:
        """Write a file of the search."""
        write_whole(self.path / name, content.encode())


def _deciding(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings, of whose configuration only what makes another search: not where files are, nor a default that is new."""
    if "config" not in settings:
        return settings
    storage = names_of(Config, "storage")
    chosen = chosen_values(build_config(settings["config"], "search.json"))
    return {**settings, "config": {name: v for name, v in chosen.items() if name not in storage}}


def read_json(path: Path) -> Any:
    """A JSON file's content.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a JSON file, found {' '.join(str(error).split())}") from None


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, which appears whole or not at all."""
    write_whole(path, json.dumps(content, indent=1).encode())
