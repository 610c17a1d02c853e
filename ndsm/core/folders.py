"""List the files below a folder, find those that the program did not write, and delete those that it did."""

import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path


def names_below(folder: Path) -> Iterator[str]:
    """Yield the files below a folder as relative names with `/`; none if there is no folder.

    A link counts as a file, wherever it leads. Of a file in the folder's place its name.
    """
    if folder.exists() and not folder.is_dir():
        yield folder.name
    for parent, folders, files in os.walk(folder):
        below = Path(parent).relative_to(folder)
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        yield from ((below / name).as_posix() for name in sorted(files + links))


def first_foreign(names: Iterable[str], own: Collection[str]) -> str | None:
    """The first of the relative names that matches none of the patterns, None without one.

    A file that a killed process was writing counts as the one it was to become.

    Args:
        own: patterns such as `checkpoints/step-*.pt`, in which `*` stays within a name; `folder/**` is all below a folder.
    """
    wanted = [pattern.split("/") for pattern in own]
    others = (name for name in names if not any(_matches(_complete(name).split("/"), w) for w in wanted))
    return next(others, None)


def remove_files(folder: Path, names: Iterable[str]) -> None:
    """Delete these files of a folder in this order, then the folders that this leaves empty, and `folder` if it is.

    Raises:
        OSError: one cannot be deleted.
    """
    emptied = {folder}
    for name in names:
        (folder / name).unlink(missing_ok=True)
        emptied.update(p for p in (folder / name).parents if folder in p.parents)
    for parent in sorted(emptied, key=lambda p: len(p.parts), reverse=True):
        # A folder that is not empty stays, and so does a link to a folder.
        with suppress(OSError):
            parent.rmdir()


def _complete(name: str) -> str:
    """Final name of a file that may be partially written."""
    return re.sub(r"(^|/)\.([^/]+)\.\d+\.partial$|\.partial$", r"\1\2", name)


def _matches(parts: list[str], wanted: list[str]) -> bool:
    if wanted[-1] == "**":
        wanted = wanted[:-1]
        if len(parts) <= len(wanted):
            return False
        parts = parts[: len(wanted)]
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
