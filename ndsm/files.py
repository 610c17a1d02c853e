"""Files that appear whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to, whose file becomes `path` when the context ends without an exception.

    It is flushed to the disk before it is renamed: whenever the process or the machine dies, `path` is the old file
    or the new one. Processes that write the same file at the same time do not disturb each other; the last wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
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
