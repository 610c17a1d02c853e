"""Folders of results: paths, and URIs of any file system that Arrow knows, in which files too appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.fs

from ndsm.core.atomic_file import PARTIAL, needs_room, whole_file, write_whole
from ndsm.core.folders import names_below
from ndsm.core.uris import is_uri, one_line, open_uri
from ndsm.errors import InputError

CHUNK = 1 << 22
"""Bytes copied at a time."""
EXAMPLE = "s3://bucket/folder"
JOBS_FOLDER = "working_dir_files"
"""Folder of Ray's in which the working directories of jobs are."""


def upload(file: Path, filesystem: pa.fs.FileSystem, target: str) -> None:
    """Make `file` the file `target` of a file system.

    It is written under another name and moved, on object stores too, since Arrow ends an upload that an exception interrupts as
    if it were complete.

    Raises:
        OSError: the storage does not take it.
    """
    # Object stores have no folders.
    if filesystem.type_name == "local":
        filesystem.create_dir(target.rpartition("/")[0])
    with needs_room(target):
        with file.open("rb") as source, filesystem.open_output_stream(target + PARTIAL) as sink:
            while chunk := source.read(CHUNK):
                sink.write(chunk)
        filesystem.move(target + PARTIAL, target)


def child(place: str, name: str) -> str:
    """Return the path or URI of what is called `name` in a folder; options of the file system stay behind."""
    if not is_uri(place):
        return str(Path(place) / name)
    base, mark, options = place.partition("?")
    return f"{base.rstrip('/')}/{name}{mark}{options}"


def shown(place: str) -> str:
    """Return a path or URI for people, without the options of the file system."""
    return place.partition("?")[0] if is_uri(place) else place


def check_lasting(place: str, field: str) -> None:
    """Raise if a path is relative in the working directory of a Ray job, which is Ray's temporary copy.

    Raises:
        InputError: it is: the next submission, which has another copy, would find nothing there.
    """
    here = Path.cwd()
    if is_uri(place) or Path(place).expanduser().is_absolute() or JOBS_FOLDER not in here.parts:
        return
    raise InputError(
        f"{field}: expected an absolute path or a URI in a Ray job, found {place!r}, which would lie in {here}, a temporary copy "
        "that the next submission does not have"
    )


class Place:
    """A folder, which need not exist yet.

    Args:
        where: a path, or a URI; options of the file system may follow a `?`.
        field: where it was given, for error messages.

    Raises:
        InputError: as `open_uri`.
    """

    def __init__(self, where: str | Path, field: str = "--out") -> None:
        self.where, self.field = str(where), field
        self.path = None if is_uri(where) else Path(where).resolve()
        """The folder on this machine; None at a URI."""
        if self.path is None:
            self.filesystem, self.root = open_uri(self.where, field, EXAMPLE)
            self.root = self.root.rstrip("/")
        else:
            self.filesystem, self.root = pa.fs.LocalFileSystem(), str(self.path)

    def __reduce__(self) -> tuple[type["Place"], tuple[str, str]]:
        """Pickle what it was made from: a file system would take its keys along."""
        return Place, (self.where if self.path is None else str(self.path), self.field)

    def __str__(self) -> str:
        return shown(self.where)

    def names(self) -> list[str]:
        """Return the files below it, relative to it.

        Raises:
            InputError: the storage does not answer.
        """
        if self.path is not None:
            return list(names_below(self.path))
        selector = pa.fs.FileSelector(self.root, allow_not_found=True, recursive=True)
        try:
            found = self.filesystem.get_file_info(selector)
        except OSError as error:
            raise InputError(f"{self.field}: expected {self} to answer, found {one_line(error)}") from None
        files = [info.path for info in found if info.type == pa.fs.FileType.File]
        return sorted(path[len(self.root) :].lstrip("/") for path in files)

    def exists(self) -> bool:
        """Return whether there is a folder, or a file in its place."""
        if self.path is not None:
            return self.path.exists()
        return bool(self.names()) or self.filesystem.get_file_info(self.root).type != pa.fs.FileType.NotFound

    def has(self, name: str) -> bool:
        """Return whether it has this file."""
        return bool(self.filesystem.get_file_info(f"{self.root}/{name}").type == pa.fs.FileType.File)

    def read(self, name: str) -> bytes:
        """Return a file's content.

        Raises:
            OSError: it is not there, or the storage does not answer.
        """
        with self.filesystem.open_input_stream(f"{self.root}/{name}") as stream:
            return bytes(stream.read())

    def fetch(self, name: str, folder: Path) -> None:
        """Download one file to the same name in `folder`.

        Raises:
            FileNotFoundError: it is not there.
            OSError: the storage does not answer.
        """
        with (
            self.filesystem.open_input_stream(f"{self.root}/{name}") as source,
            whole_file(folder / name) as path,
            path.open("wb") as target,
        ):
            while chunk := source.read(CHUNK):
                target.write(chunk)

    def write(self, name: str, content: bytes) -> None:
        """Make `content` the file `name`.

        Raises:
            OSError: it cannot be written.
        """
        with self.new_file(name) as file:
            write_whole(file, content)

    @contextmanager
    def new_file(self, name: str) -> Iterator[Path]:
        """A path on this machine, of the same extension, to write a whole file to, which is then uploaded if this is a URI.

        Raises:
            OSError: it cannot be uploaded.
        """
        if self.path is not None:
            (self.path / name).parent.mkdir(parents=True, exist_ok=True)
            yield self.path / name
            return
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / Path(name).name
            yield path
            upload(path, self.filesystem, f"{self.root}/{name}")

    def delete(self, name: str) -> None:
        """Delete a file, if it is there; a folder of this machine that is then empty goes with it."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(f"{self.root}/{name}")
        if self.path is not None:
            with suppress(OSError):
                os.rmdir(self.path)


class Transfers:
    """Transfers between folders of this machine and a place; a file that has not changed since its last one is not sent again.

    Args:
        place: where files are sent to and fetched from.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._states: dict[str, tuple[int, int]] = {}
        """Size and time of change of each file when it was transferred, which differ once it is written again."""

    def send(self, name: str, folder: Path) -> None:
        """Upload a file of `folder`, if it has changed.

        Raises:
            OSError: the storage does not take it.
        """
        state = _state(folder / name)
        if self._states.get(name) != state:
            upload(folder / name, self._place.filesystem, f"{self._place.root}/{name}")
            self._states[name] = state

    def fetch(self, name: str, folder: Path) -> None:
        """Download a file to `folder`; errors as of `Place.fetch`."""
        self._place.fetch(name, folder)
        self._states[name] = _state(folder / name)

    def forget(self) -> None:
        """Take every file as changed."""
        self._states.clear()


def _state(file: Path) -> tuple[int, int]:
    stat = file.stat()
    return stat.st_size, stat.st_mtime_ns


class Flag:
    """A file of a URI whose presence says something, with the methods of a path.

    Args:
        place: its folder.
        name: the file's.
    """

    def __init__(self, place: Place, name: str) -> None:
        self._place, self._name = place, name

    def touch(self) -> None:
        """Have it there."""
        self._place.write(self._name, b"\n")

    def exists(self) -> bool:
        """Return whether it is there."""
        return self._place.has(self._name)

    def unlink(self, missing_ok: bool = True) -> None:
        """Delete it."""
        self._place.delete(self._name)
