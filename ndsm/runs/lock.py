"""Lock of a folder: a process holds a lock of the operating system, which is released however the process ends.

A file system without such locks has a lease instead.
"""

import errno
import fcntl
import json
import os
import socket
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from pyarrow import fs

from ndsm.errors import InputError
from ndsm.runs.lease import Lease

READER_SECONDS = 2.0
"""Seconds to wait for a lock that may be a reader's, who holds a shared one for a moment."""
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
"""Errors of file systems without locks."""

LOCK_FILES = ("owner.json", "lease.json")
"""Lock file and lease file; the lease only where there are no locks, or at a URI."""

_held: dict[tuple[int, Path], Lease | None] = {}
"""Locks that this process holds, by its number (a fork holds none) and path; with their leases, if any."""


@dataclass(frozen=True)
class Owner:
    """Process that holds a lock, or held it last."""

    pid: int
    host: str
    started: float
    """Unix time."""
    alive: bool = False
    """Whether it holds the lock now."""


class RunLock:
    """A lock file, which names the process that holds it.

    Args:
        path: the file; it need not exist yet.
        what: the beginning of the sentence that another process gets, such as "runs/mine is being trained".
        remedy: its end: what to do but wait for the other process or stop it.
    """

    def __init__(self, path: Path, what: str, remedy: str) -> None:
        self._path, self._what, self._remedy = path, what, remedy

    @property
    def held(self) -> bool:
        """Whether this process holds the lock."""
        return self._key in _held

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lock and write this process's name into it; reentrant.

        Raises:
            InputError: another process holds it.
        """
        if self.held:
            yield
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        lease: Lease | None = None
        try:
            file = self._lock()
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            lease = self._lease()
            warnings.warn(
                f"{self._path.parent}: the file system has no locks ({os.strerror(error.errno)}); a lease in lease.json takes "
                "their place",
                stacklevel=3,
            )
        if lease is not None:
            with lease.hold(), self._path.open("w", encoding="utf-8") as file:
                yield from self._work(file, lease)
        else:
            with file:
                yield from self._work(file, None)

    def _work(self, file: TextIO, lease: Lease | None) -> Iterator[None]:
        file.truncate(0)
        json.dump({"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}, file)
        file.flush()
        key = self._key
        _held[key] = lease
        try:
            yield
        finally:
            _held.pop(key, None)

    def _lock(self) -> TextIO:
        """Open the file and lock it for this process alone.

        Raises:
            InputError: another process holds the lock for longer than a reader does.
            OSError: there are no locks here.
        """
        deadline = time.monotonic() + READER_SECONDS
        while True:
            file = self._path.open("a+", encoding="utf-8")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # Unless it was deleted meanwhile, and another one is in its place.
                if self._path.exists() and os.path.samestat(os.fstat(file.fileno()), self._path.stat()):
                    return file
                file.close()
            except BlockingIOError:
                file.close()
                if time.monotonic() > deadline:
                    raise InputError(self._sentence(self.read())) from None
            except BaseException:
                file.close()
                raise
            time.sleep(0.02)

    def read(self) -> Owner | None:
        """Return the process that holds the lock or held it last; None before the first time."""
        try:
            with self._path.open(encoding="utf-8") as file:
                try:
                    # It gets in the way of an owner for a moment, and only while there is none.
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    alive = False
                except BlockingIOError:
                    alive = True
                except OSError as error:
                    if error.errno not in NO_LOCKS:
                        raise
                    found = self._lease().read()
                    alive = found is not None and found.alive
                try:
                    return Owner(**json.load(file), alive=alive)
                except (ValueError, TypeError):
                    # An owner that has just come and has not said yet who it is.
                    return Owner(0, "", 0.0, alive) if alive else None
        except OSError:
            return None

    def check_free(self) -> None:
        """Raise an error if another process holds the lock.

        Raises:
            InputError: one is.
        """
        owner = self.read()
        if owner and owner.alive and not self.held:
            raise InputError(self._sentence(owner))

    def check_held(self) -> None:
        """Raise an error if this process holds a lease that another one has taken over.

        Raises:
            LeaseLost: it has.
        """
        if (lease := _held.get(self._key)) is not None:
            lease.check_held()

    @property
    def _key(self) -> tuple[int, Path]:
        return os.getpid(), self._path.resolve()

    def _lease(self) -> Lease:
        path = str(self._path.with_name(LOCK_FILES[1]).absolute())
        return Lease(fs.LocalFileSystem(), path, self._what, self._remedy)

    def _sentence(self, owner: Owner | None) -> str:
        who = f"process {owner.pid} on {owner.host}" if owner and owner.pid else "another process"
        return f"{self._what} by {who}: wait for it, stop it, or {self._remedy}"
