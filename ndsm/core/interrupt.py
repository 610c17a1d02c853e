"""Ctrl-C, SIGTERM and SIGHUP as requests to save and stop.

Batch systems, Kubernetes and `ray job stop` send SIGTERM before they end a process, and a terminal that is closed sends SIGHUP. What
Ctrl-C does by `KeyboardInterrupt` those do by `Terminated`.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TextIO

GRACE_SECONDS = 3.0
"""Time for saving after a terminating signal, where its end is looked for: `ray job stop` kills after 3 s, others after 30."""
LOOK_SECONDS = 0.1
TERMINATING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a process from outside, after which it is to be gone soon."""


class Interrupted(Exception):
    """Raised after Ctrl-C or a terminating signal, once the work is saved."""


class Terminated(KeyboardInterrupt):
    """A terminating signal came while there was nothing to save."""


_terminated = False


def is_terminated() -> bool:
    """Whether a terminating signal has come since `terminable` was entered: whoever sent it does not wait for long."""
    return _terminated


class StopFile(Protocol):
    """A file whose presence asks to stop: a path, or something like one."""

    def touch(self) -> None:
        """Have it there."""

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete it."""


@contextmanager
def terminable() -> Iterator[None]:
    """While active, a terminating signal raises `Terminated` in the main thread, so that what is held is given back.

    One that the process ignores, such as SIGHUP under `nohup`, stays ignored. Outside the main thread nothing changes.
    """
    global _terminated
    _terminated = False

    def handle(signum: int, frame: Any) -> None:
        global _terminated
        # What the first one ends may take a moment, and a second one would cut it short.
        if not _terminated:
            _terminated = True
            raise Terminated

    with _handled(handle, _heeded()):
        yield


@contextmanager
def on_interrupt(
    ask: Callable[[], bool], words: str, console: TextIO, saved: Callable[[], bool] | None = None
) -> Iterator[Callable[[], bool]]:
    """While active, the first Ctrl-C or terminating signal asks the work to save and stop; a Ctrl-C after it ends at once.

    Args:
        ask: asks; false if there is nothing to save yet, and the first ends at once too.
        words: say what is being saved.
        console: where they are printed.
        saved: whether everything is saved, of work that takes its time to end beyond that. A terminating signal then ends it by
            `Terminated` once this is true, or after `GRACE_SECONDS`.

    Yields:
        Whether one came.
    """
    pressed, over, hastened = False, threading.Event(), False

    def hasten(signum: int) -> None:
        nonlocal hastened
        assert saved is not None
        deadline = time.monotonic() + GRACE_SECONDS
        while not over.wait(LOOK_SECONDS):
            if time.monotonic() > deadline or saved():
                hastened = True
                # To the main thread, which may wait in a library.
                os.kill(os.getpid(), signum)
                return

    def handle(signum: int, frame: Any) -> None:
        nonlocal pressed
        global _terminated
        terminates = signum in TERMINATING
        if pressed:
            # Batch systems repeat theirs.
            if terminates and not hastened:
                return
            raise Terminated if terminates else KeyboardInterrupt
        pressed, _terminated = True, terminates
        if not ask():
            raise Terminated if terminates else KeyboardInterrupt
        hint = (
            f"{signal.Signals(signum).name} came: {words}"
            if terminates
            else f"\n{words}; Ctrl-C again ends at once without"
        )
        # A closed terminal takes no words.
        with suppress(OSError):
            print(hint, file=console, flush=True)
        if terminates and saved is not None:
            threading.Thread(target=hasten, args=(signum,), daemon=True, name="hasten").start()

    with _handled(handle, (signal.SIGINT, *_heeded())):
        try:
            yield lambda: pressed
        finally:
            over.set()


@contextmanager
def stopping(
    stop_file: StopFile,
    begun: Callable[[], bool],
    words: str,
    console: TextIO,
    saved: Callable[[], bool] | None = None,
) -> Iterator[Callable[[], bool]]:
    """`on_interrupt` for work that looks for a stop file, which is gone at the end.

    Args:
        stop_file: its presence asks the work to save and stop.
        begun: whether there is something to save, and the file's folder.
        words, console, saved: as of `on_interrupt`.

    Yields:
        Whether a signal came.
    """

    def ask() -> bool:
        if has_begun := begun():
            stop_file.touch()
        return has_begun

    try:
        with on_interrupt(ask, words, console, saved) as stopped:
            yield stopped
    finally:
        # If the folder could not be made, there is no file to delete.
        with suppress(OSError):
            stop_file.unlink(missing_ok=True)


def handlers() -> dict[signal.Signals, Any]:
    """The present handlers of terminating signals, for `keep`."""
    return {signum: signal.getsignal(signum) for signum in TERMINATING}


def keep(before: dict[signal.Signals, Any]) -> None:
    """Install handlers again that a library has replaced by its own; where there were none, the library's stay."""
    if threading.current_thread() is threading.main_thread():
        for signum, handler in before.items():
            if handler not in (signal.SIG_DFL, None):
                signal.signal(signum, handler)


def _heeded() -> tuple[signal.Signals, ...]:
    """Terminating signals that the process does not ignore."""
    return tuple(signum for signum in TERMINATING if signal.getsignal(signum) is not signal.SIG_IGN)


@contextmanager
def _handled(handle: Callable[[int, Any], None], signums: tuple[signal.Signals, ...]) -> Iterator[None]:
    """Handle signals while active, where this is the main thread: Python allows it nowhere else."""
    here = threading.current_thread() is threading.main_thread()
    before = {signum: signal.signal(signum, handle) for signum in signums} if here else {}
    try:
        yield
    finally:
        for signum, handler in before.items():
            # None: a handler that was not installed by Python.
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
