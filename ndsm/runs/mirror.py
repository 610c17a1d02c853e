"""A copy of a run's folder in any file system that Arrow knows: S3, Google Cloud Storage, HDFS, or a local path."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from ndsm.core.atomic_file import PARTIAL
from ndsm.core.folders import first_foreign, remove_files
from ndsm.core.places import Place, Transfers, child
from ndsm.runs.lease import Holder, Lease
from ndsm.runs.lock import LOCK_FILES

LEASE = "checkpoints/lease.json"
"""Says who may write to the copy; part of no run."""
LOCAL_ONLY = (*LOCK_FILES, "stop")
"""Files that say something about processes of this machine."""


class RemoteCopy:
    """A run folder's copy at a URI.

    A file appears there whole or not at all: it is written under another name and moved, on object stores too, since
    Arrow ends an upload that an exception interrupts as if it were complete. Only one process at a time may `push`, that
    which holds the lease; any may `push_files` that no other one writes. What a copy that holds the lease writes, also one
    that was sent to another process, fails with `LeaseLost` once somebody else holds it.

    Args:
        uri: of the folder; options of the file system may follow a `?`, such as
            s3://bucket/runs/mine?endpoint_override=localhost:9000&scheme=http.

    Raises:
        InputError: as `open_uri`.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._place = Place(uri, "train.storage")
        self._fs, self._root = self.arrow
        self._transfers = Transfers(self._place)
        self._pulled: dict[str, float] | None = None
        what, remedy = (
            f"{uri.partition('?')[0]} is being trained to",
            "give this run another --name or train.storage",
        )
        if self._fs.type_name == "local":
            what = what.removeprefix("file://")
        self._lease = Lease(self._fs, f"{self._root}/{LEASE}", what, remedy)

    @classmethod
    def under(cls, uri: str, name: str) -> "RemoteCopy":
        """Return the copy of the run called `name` in the folder of runs at `uri`."""
        return cls(child(uri, name))

    def __reduce__(self) -> Any:
        """Pickle the URI and the lease's token, by which another process of the same training may write."""
        return _sent, (self.uri, self._lease.token)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep others from writing to the copy, by its lease; reentrant.

        Raises:
            InputError: another process holds it.
            OSError: the storage does not answer.
        """
        with self._lease.hold():
            yield

    def holder(self) -> Holder | None:
        """Return who holds the lease, or held it last without releasing it.

        Raises:
            OSError: the storage does not answer.
        """
        return self._lease.read()

    def check_free(self) -> None:
        """Raise an error if another process holds the lease.

        Raises:
            InputError: it does.
            OSError: the storage does not answer.
        """
        self._lease.check_free()

    @property
    def arrow(self) -> tuple[pa.fs.FileSystem, str]:
        """The file system, and the folder's path in it."""
        return self._place.filesystem, self._place.root

    def modified(self) -> dict[str, float]:
        """Return the files in the copy, relative to it, with the Unix times of their last changes.

        Raises:
            OSError: the storage does not answer.
        """
        selector = pa.fs.FileSelector(self._root, allow_not_found=True, recursive=True)
        found = self._fs.get_file_info(selector)
        times = {
            info.path[len(self._root) :].lstrip("/"): info.mtime_ns / 1e9
            for info in found
            if info.type == pa.fs.FileType.File
        }
        return {name: when for name, when in times.items() if first_foreign([name], (LEASE,))}

    def changed(self) -> bool:
        """Return whether the copy has changed since the last pull.

        Raises:
            OSError: the storage does not answer.
        """
        return self._pulled is not None and self._pulled != self.modified()

    def names(self) -> set[str]:
        """Return the whole files in the copy, relative to it.

        Raises:
            OSError: the storage does not answer.
        """
        return {name for name in self.modified() if not name.endswith(PARTIAL)}

    def push(self, folder: Path) -> None:
        """Upload the files that have changed since the last push or pull, and delete what is out of date in the copy: old
        checkpoints, and an evaluation of earlier weights.

        Raises:
            OSError: the storage does not take them.
        """
        files = [p for p in folder.rglob("*") if p.is_file() and p.name not in LOCAL_ONLY]
        names = {str(p.relative_to(folder)) for p in files if not p.name.endswith(PARTIAL)}
        names = {name for name in names if not name.startswith("checkpoints/ray/")}
        self.push_files(folder, *sorted(names, key=_order))
        for name in self.modified().keys() - names:
            if name.startswith("checkpoints/step-") or name == "metrics.json":
                self._fs.delete_file(f"{self._root}/{name}")

    def push_files(self, folder: Path, *names: str) -> None:
        """Upload those of these files that have changed since the last push or pull.

        Raises:
            OSError: the storage does not take them.
        """
        self._lease.check_held()
        for name in names:
            self._transfers.send(name, folder)

    def delete(self, name: str) -> None:
        """Delete a file of the copy, if it is there."""
        self._lease.check_held()
        if self._fs.get_file_info(f"{self._root}/{name}").type == pa.fs.FileType.File:
            self._fs.delete_file(f"{self._root}/{name}")

    def look(self) -> None:
        """Take note of what the copy holds now, for `changed`.

        Raises:
            OSError: the storage does not answer.
        """
        self._pulled = self.modified()

    def pull(self, folder: Path) -> None:
        """Download the run into `folder`, if the copy holds one.

        Raises:
            OSError: the storage does not answer.
        """
        self.look()
        assert self._pulled is not None
        names = {name for name in self._pulled if not name.endswith(PARTIAL)}
        if "config.yaml" not in names:
            return
        for name in sorted(names, key=_order):
            # An old checkpoint may go while this reads.
            with suppress(FileNotFoundError) if name.startswith("checkpoints/step-") else nullcontext():
                self._transfers.fetch(name, folder)
        # Of a state that the copy has left behind: see `Run.steps_ahead`.
        for checkpoint in (folder / "checkpoints").glob("step-*.pt"):
            if f"checkpoints/{checkpoint.name}" not in names:
                checkpoint.unlink(missing_ok=True)

    def fetch(self, name: str, folder: Path) -> None:
        """Download one file into `folder`.

        Raises:
            FileNotFoundError: it is not there.
            OSError: the storage does not answer.
        """
        self._place.fetch(name, folder)

    def remove(self, names: Iterable[str]) -> None:
        """Delete these files of the copy, in this order.

        Raises:
            OSError: the storage does not answer.
        """
        self._lease.check_held()
        self._transfers.forget()
        if self._fs.type_name == "local":
            remove_files(Path(self._root), names)
        else:
            for name in names:
                self._fs.delete_file(f"{self._root}/{name}")


def _sent(uri: str, token: str | None) -> RemoteCopy:
    mirror = RemoteCopy(uri)
    mirror._lease.token = token
    return mirror


def _order(name: str) -> tuple[bool, bool, str]:
    """Sort key of transfers: `data.json`, which marks a run, first; `config.yaml`, which completes it, last."""
    return name == "config.yaml", name != "data.json", name
