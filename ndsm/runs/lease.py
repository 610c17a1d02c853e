"""Leases: small files that say who may write to a place that no lock of the operating system covers.

A lease is renewed while its holder lives, and can be taken over once it has expired. Object stores and Arrow's file systems
have no atomic "create if absent": a lease is written and read again after a moment, and whoever's token is there holds it.
`filelock` has leases too, but of local files only, and they do not say who holds them.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pyarrow import fs

from ndsm.core.atomic_file import PARTIAL
from ndsm.errors import InputError, LeaseLost

EXPIRY_SECONDS = 120.0
"""Seconds from the last renewal after which a lease can be taken over; machines' clocks must agree to a fraction of it."""
RENEWAL_SECONDS = 30.0
FILE_BYTES = 1024
"""Size of every lease, padded with spaces. A reader asks an object store for the size and then for the bytes: if the lease grew
in between it would read a part, which is not a lease, and take the place for free."""
SETTLE_SECONDS = 0.5
"""Minimal seconds between writing a lease and reading it again: a competing write has arrived by then."""
GONE_SECONDS = 0.2
"""Seconds after which a lease that was not there is looked for again: some file systems replace a file in two steps."""

_tokens: set[str] = set()
"""Tokens of the leases that this process holds: one that it could not delete no longer counts."""


@dataclass(frozen=True)
class Holder:
    """Content of a lease file."""

    host: str
    pid: int
    machine: str
    """Identifies the machine and the container that `pid` belongs to."""
    token: str
    started: float
    expires: float
    """Unix times."""

    @property
    def alive(self) -> bool:
        """Whether the lease is valid: it has not expired, and its process is not known to have ended."""
        if self.machine and self.machine == _machine():
            if self.pid == os.getpid():
                return self.token in _tokens
            try:
                os.kill(self.pid, 0)
            except ProcessLookupError:
                return False
            except PermissionError:
                pass
        return time.time() < self.expires


class Lease:
    """A lease at a path of a file system.

    Args:
        where: the file system.
        path: of the lease's file in it.
        what: the beginning of the sentence that another process gets, such as "runs/mine is being trained".
        remedy: its end: what to do but wait for the other process or stop it.
    """

    def __init__(self, where: fs.FileSystem, path: str, what: str, remedy: str) -> None:
        self._fs, self._path, self._what, self._remedy = where, path, what, remedy
        self.token: str | None = None
        """Token of this holder; None while it holds no lease."""
        self._started = 0.0
        self._lost: str | None = None

    def read(self) -> Holder | None:
        """Return who holds it or held it last; None if it was released or never held.

        Raises:
            OSError: the storage does not answer.
        """
        try:
            with self._fs.open_input_stream(self._path) as stream:
                return Holder(**json.loads(stream.read()))
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError):
            return None

    def check_free(self) -> None:
        """Raise an error if another process holds it.

        Raises:
            InputError: it does.
            OSError: the storage does not answer.
        """
        found = self.read()
        if found is not None and found.token != self.token and found.alive:
            raise InputError(self._sentence(found))

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Hold the lease, renewed in the background; reentrant. A local folder that it is to lie in is made.

        Raises:
            InputError: another process holds it.
            OSError: the storage does not answer.
        """
        if self.token is not None:
            yield
            return
        self.check_free()
        token, self._started, self._lost = secrets.token_hex(16), time.time(), None
        _tokens.add(token)
        try:
            with self._taken(token):
                yield
        finally:
            _tokens.discard(token)

    @contextmanager
    def _taken(self, token: str) -> Iterator[None]:
        # Object stores have no folders.
        if self._fs.type_name == "local":
            Path(self._path).parent.mkdir(parents=True, exist_ok=True)
        before = time.monotonic()
        self._write(token)
        # Who read an old lease before this one was written has had time to write its own.
        time.sleep(max(SETTLE_SECONDS, 4 * (time.monotonic() - before)))
        found = self.read()
        if found is None or found.token != token:
            raise InputError(self._sentence(found))
        self.token, done = token, threading.Event()
        renewal = threading.Thread(target=self._renew, args=(done,), name="lease", daemon=True)
        renewal.start()
        try:
            yield
        finally:
            done.set()
            renewal.join()
            self.token = None
            # Storage that does not answer leaves it to its expiry.
            with suppress(OSError):
                if (found := self.read()) is not None and found.token == token:
                    self._fs.delete_file(self._path)

    def check_held(self) -> None:
        """Raise an error if another process has taken the lease over, after this one did not renew it in time.

        Raises:
            LeaseLost: it has.
            OSError: the storage does not answer.
        """
        if self.token is None:
            return
        found = None if self._lost else self.read()
        if found is not None and found.token == self.token:
            return
        if found is None and not self._lost:
            # One that is gone was taken over and released since, unless the storage itself is away or was just then writing it.
            if self._fs.type_name == "local":
                Path(self._path).parent.stat()
            time.sleep(GONE_SECONDS)
            found = self.read()
            if found is not None and found.token == self.token:
                return
        self._lost = self._lost or self._sentence(found)
        raise LeaseLost(
            f"{self._lost}; it took over from this process, which was not heard of for {EXPIRY_SECONDS:g} s, and now writes "
            "nothing more"
        )

    def _renew(self, done: threading.Event) -> None:
        while not done.wait(RENEWAL_SECONDS):
            # Tried again at the next renewal; where it is lost, the next write tells.
            with suppress(OSError):
                try:
                    self.check_held()
                except LeaseLost:
                    return
                if self.token is not None:
                    self._write(self.token)

    def _write(self, token: str) -> None:
        expires = time.time() + EXPIRY_SECONDS
        mine = Holder(socket.gethostname(), os.getpid(), _machine(), token, self._started, expires)
        content = json.dumps(asdict(mine)).encode().ljust(FILE_BYTES)
        if self._fs.type_name == "local":
            path = Path(self._path)
            # Processes of two containers may have one number.
            partial = path.with_name(f".{path.name}.{int(token[:8], 16)}{PARTIAL}")
            partial.write_bytes(content)
            partial.replace(path)
        else:
            with self._fs.open_output_stream(self._path) as stream:
                stream.write(content)

    def _sentence(self, found: Holder | None) -> str:
        if found is None:
            return f"{self._what} by another process: {self._remedy}"
        until = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(found.expires))
        return (
            f"{self._what} by process {found.pid} on {found.host}, which holds it until {until} and renews that while it lives: "
            f"wait for it, stop it, or {self._remedy}"
        )


def _machine() -> str:
    """Return an identifier of the machine's boot and of the process namespace; empty if the system does not tell."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""
