"""Who works on a folder: its process holds a lock of the operating system, which whatever ends the process releases."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ndsm.errors import InputError


@dataclass(frozen=True)
class Owner:
    """The process that works on a folder, or did last."""

    pid: int
    host: str
    started: float
    """Unix time."""
    alive: bool = False
    """Whether it holds the lock."""


class OwnerFile:
    """A file that says who works on a folder, and is locked meanwhile.

    Args:
        path: the file; it need not exist yet.
        what: the beginning of the sentence that another process gets, such as "runs/mine is being trained".
        remedy: its end: what to do but wait for the other process or stop it.
    """

    def __init__(self, path: Path, what: str, remedy: str) -> None:
        self._path, self._what, self._remedy = path, what, remedy

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keep other processes out, and let them see who is at work; nothing if this process holds it already.

        Raises:
            InputError: another process holds it.
        """
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a+", encoding="utf-8") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self.check_free()
                yield
                return
            f.truncate(0)
            json.dump({"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}, f)
            f.flush()
            yield

    def read(self) -> Owner | None:
        """Who is at work or was last; None before the first time."""
        try:
            with self._path.open(encoding="utf-8") as f:
                try:
                    fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
                    alive = False
                except BlockingIOError:
                    alive = True
                return Owner(**json.load(f), alive=alive)
        except (OSError, ValueError, TypeError):
            return None

    def check_free(self) -> None:
        """Nothing, if no other process is at work.

        Raises:
            InputError: one is.
        """
        owner = self.read()
        if owner and owner.alive and (owner.pid, owner.host) != (os.getpid(), socket.gethostname()):
            raise InputError(
                f"{self._what} by process {owner.pid} on {owner.host}: wait for it, stop it, or {self._remedy}"
            )
