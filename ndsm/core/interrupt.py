"""Handling of Ctrl-C as a request to save and stop."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TextIO


class Interrupted(Exception):
    """Raised after Ctrl-C, once the work is saved."""


@contextmanager
def on_interrupt(ask: Callable[[], bool], words: str, console: TextIO) -> Iterator[Callable[[], bool]]:
    """While active, the first Ctrl-C asks the work to save and stop, the second ends at once.

    Args:
        ask: asks; false if there is nothing to save yet, and the first ends at once too.
        words: say what is being saved.
        console: where they are printed.

    Yields:
        Whether it was pressed.
    """
    pressed = False

    def handle(signum: int, frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True
        if not ask():
            raise KeyboardInterrupt
        print(f"\n{words}; Ctrl-C again ends at once without", file=console, flush=True)

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def stopping(
    stop_file: Path, begun: Callable[[], bool], words: str, console: TextIO
) -> Iterator[Callable[[], bool]]:
    """`on_interrupt` for work that looks for a stop file, which is gone at the end.

    Args:
        stop_file: its presence asks the work to save and stop.
        begun: whether there is something to save, and the file's folder.
        words, console: as of `on_interrupt`.

    Yields:
        Whether Ctrl-C was pressed.
    """

    def ask() -> bool:
        if has_begun := begun():
            stop_file.touch()
        return has_begun

    try:
        with on_interrupt(ask, words, console) as stopped:
            yield stopped
    finally:
        # If the folder could not be made, there is no file to delete.
        with suppress(OSError):
            stop_file.unlink(missing_ok=True)
