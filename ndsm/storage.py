"""A copy of a run's folder in any file system that Arrow knows: S3, Google Cloud Storage, HDFS, or a local path."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from ndsm.errors import InputError
from ndsm.files import whole_file

CHUNK = 1 << 22
"""Bytes copied at a time."""
LOCAL_ONLY = ("owner.json", "stop")
"""Files that say something about processes of this machine."""


def is_uri(storage: str) -> bool:
    """Whether `train.storage` is a URI and not a path."""
    return "://" in storage


class Mirror:
    """The copy at a URI.

    A file appears there whole or not at all: object stores show an object when its upload is complete, and on a local
    path it is renamed.

    Args:
        uri: of the folder; options of the file system may follow a `?`, such as
            s3://bucket/runs/mine?endpoint_override=localhost:9000&scheme=http.

    Raises:
        InputError: the URI is malformed or its scheme unknown.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        if "@" in uri.partition("?")[0]:
            raise InputError(
                "train.storage: expected a URI without a key, which would be written into config.yaml, found one with '@'; "
                "give keys by the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        try:
            self._fs, self._root = pa.fs.FileSystem.from_uri(uri)
        except (pa.ArrowException, ValueError, OSError) as error:
            raise InputError(
                f"train.storage: expected a path or a URI such as s3://bucket/folder, found {uri!r}: {error}"
            ) from None
        self._pushed: dict[str, tuple[int, int]] = {}

    @classmethod
    def under(cls, uri: str, name: str) -> "Mirror":
        """The copy of run `name` in the folder of runs at `uri`."""
        base, mark, options = uri.partition("?")
        return cls(f"{base.rstrip('/')}/{name}{mark}{options}")

    def __reduce__(self) -> Any:
        """Travels as its URI."""
        return Mirror, (self.uri,)

    @property
    def arrow(self) -> tuple[pa.fs.FileSystem, str]:
        """The file system, and the folder's path in it."""
        return self._fs, self._root

    def names(self) -> set[str]:
        """Files in the copy, relative to it.

        Raises:
            OSError: the storage does not answer.
        """
        selector = pa.fs.FileSelector(self._root, allow_not_found=True, recursive=True)
        found = self._fs.get_file_info(selector)
        files = (info.path for info in found if info.type == pa.fs.FileType.File)
        return {
            name for path in files if not (name := path[len(self._root) :].lstrip("/")).endswith(".partial")
        }

    def push(self, folder: Path) -> None:
        """Copy the files that have changed since the last push; forget old checkpoints.

        Raises:
            OSError: the storage does not take them.
        """
        files = {
            str(p.relative_to(folder)): p
            for p in folder.rglob("*")
            if p.is_file() and not p.name.endswith(".partial") and p.name not in LOCAL_ONLY
        }
        files = {name: p for name, p in files.items() if not name.startswith("checkpoints/ray/")}
        # The configuration comes last: with it there is a run.
        for name in sorted(files, key=lambda name: (name == "config.yaml", name)):
            stat = files[name].stat()
            if self._pushed.get(name) != (stat.st_size, stat.st_mtime_ns):
                self._upload(files[name], name)
                self._pushed[name] = (stat.st_size, stat.st_mtime_ns)
        for name in self.names() - files.keys():
            if name.startswith("checkpoints/") and not name.startswith("checkpoints/ray/"):
                self._fs.delete_file(f"{self._root}/{name}")

    def pull(self, folder: Path) -> None:
        """Make `folder` the run that the copy is, if it is one.

        Raises:
            OSError: the storage does not answer.
        """
        names = self.names()
        if "config.yaml" not in names:
            return
        for name in names:
            with (
                self._fs.open_input_stream(f"{self._root}/{name}") as source,
                whole_file(folder / name) as path,
                path.open("wb") as target,
            ):
                while chunk := source.read(CHUNK):
                    target.write(chunk)
        # A checkpoint that never got there: on another machine it would not be found.
        for checkpoint in (folder / "checkpoints").glob("step-*.pt"):
            if f"checkpoints/{checkpoint.name}" not in names:
                checkpoint.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete the copy."""
        if self._fs.get_file_info(self._root).type == pa.fs.FileType.Directory:
            self._fs.delete_dir(self._root)

    def _upload(self, file: Path, name: str) -> None:
        target = f"{self._root}/{name}"
        local = self._fs.type_name == "local"
        written = f"{target}.partial" if local else target
        if local:
            self._fs.create_dir(target.rpartition("/")[0])
        with file.open("rb") as source, self._fs.open_output_stream(written) as sink:
            while chunk := source.read(CHUNK):
                sink.write(chunk)
        if local:
            self._fs.move(written, target)
