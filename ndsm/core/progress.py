"""Progress of a piece of work, shown to a person: a bar on a terminal, plain lines elsewhere, both on the standard error."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import TextIO

Stage = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]
"""Progress of one stage: called with its name and its total; yields a callback that takes the number done since the last call."""

PLAIN_SECONDS = 5.0
"""Seconds between plain lines."""

_quiet: ContextVar[bool] = ContextVar("quiet", default=False)


def set_quiet(quiet: bool) -> None:
    """Show no progress in the rest of this context, which a command has for itself: what its `--quiet` and `--json` do."""
    _quiet.set(quiet)


def say(words: str, to: TextIO | None = None) -> None:
    """A line of progress, nothing if quiet.

    Args:
        to: where it is printed, the standard output if not given.
    """
    if not _quiet.get():
        print(words, file=to, flush=True)


def is_quiet() -> bool:
    """Whether `set_quiet` was called in this context."""
    return _quiet.get()


def no_progress(name: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    """No-op progress callback."""
    return nullcontext(lambda done: None)


@contextmanager
def stage(name: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """While a stage of the work lasts: a bar on a terminal, plain lines elsewhere, nothing if quiet.

    Args:
        name: what is done.
        total: of rows or of what else is counted; a bar without an end if it is not known.

    Yields:
        What is called with the number done since the last call.
    """
    if _quiet.get() or not sys.stderr.isatty():
        say(name, sys.stderr)
        done, said = 0, time.monotonic()

        def count(more: int) -> None:
            nonlocal done, said
            done += more
            if total and time.monotonic() - said >= PLAIN_SECONDS:
                said = time.monotonic()
                say(f"{name}: {done} of {total}", sys.stderr)

        yield count
        return
    # Workers on a cluster, which have no terminal, should not spend the time that its import takes.
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task(name, total=total)
        yield lambda done: bar.advance(task, done)
        bar.update(task, total=total or 1, completed=total or 1)
