"""A study whose results are kept at a URI: each machine works in a folder of its own, and what others need is there."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from ndsm.core.folders import first_foreign, names_below
from ndsm.core.places import Place, Transfers
from ndsm.errors import InputError
from ndsm.runs.layout import FILES
from ndsm.runs.lease import Lease
from ndsm.runs.mirror import LEASE as RUN_LEASE

LEASE = "lease.json"
RESULTS = ("results.json", "figure.png", "samples/*")
"""Files that the command itself writes; those of runs are written by who trains them."""


class StudyCopy:
    """The files of a study at a URI.

    Args:
        uri: of the study's folder.
        runs: names of the study's runs.
    """

    def __init__(self, uri: str, runs: Collection[str]) -> None:
        self.place = Place(uri)
        self._own = (
            LEASE,
            *RESULTS,
            "runs/stop",
            *(f"runs/{run}/{name}" for run in runs for name in (*FILES, RUN_LEASE)),
        )
        self._transfers = Transfers(self.place)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes from running the study.

        Raises:
            InputError: another one does.
        """
        path = f"{self.place.root}/{LEASE}"
        with Lease(
            self.place.filesystem, path, f"{self.place} is being written", "give another --out"
        ).hold():
            yield

    def pull(self, folder: Path, fresh: bool) -> None:
        """Download the results; or delete them and all runs if `fresh`.

        Raises:
            InputError: there are files that no study makes.
        """
        names = self.place.names()
        if foreign := first_foreign(names, self._own):
            raise InputError(
                f"{self.place}: expected a new folder or one of `ndsm reproduce`, found one with other files in it: {foreign}"
            )
        if fresh:
            # results.json, which says what has been done, first.
            for name in sorted(set(names) - {LEASE}, key=lambda name: name != "results.json"):
                self.place.delete(name)
            return
        for name in names:
            if first_foreign([name], RESULTS) is None:
                self._transfers.fetch(name, folder)

    def push(self, folder: Path) -> None:
        """Upload the results that have changed; results.json, which says that the others are there, last.

        Raises:
            OSError: the storage does not take them.
        """
        names = [name for name in names_below(folder) if first_foreign([name], RESULTS) is None]
        for name in sorted(names, key=lambda name: name == "results.json"):
            self._transfers.send(name, folder)
