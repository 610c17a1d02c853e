"""Files that appear whole or not at all."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"
"""Suffix of files that are being written, or were by a process that was killed."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Error numbers of a full disk, an exceeded quota, and an exceeded limit on a file's size."""


@contextmanager
def needs_room(path: Path | str) -> Iterator[None]:
    """Within the context, a write that runs out of space raises one sentence with the path and a remedy.

    Raises:
        OSError: one sentence; or as it was, if something else is wrong.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        full = OSError(
            f"{path}: expected room on the disk to write it, found none ({os.strerror(error.errno)}); free some, and the "
            "same command goes on"
        )
        # Given to the constructor it would become a part of the sentence.
        full.errno = error.errno
        raise full from None


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, whose file becomes `path` when the context ends without an exception.

    It is flushed to the disk before it is renamed: whenever the process or the machine dies, `path` is the old file
    or the new one. Processes that write the same file at the same time do not disturb each other; the last wins.

    Raises:
        OSError: it cannot be written; see `needs_room`.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}{PARTIAL}")
    with needs_room(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            with partial.open("rb") as f:
                os.fsync(f.fileno())
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Make `content` the file `path`."""
    with whole_file(path) as partial:
        partial.write_bytes(content)
