"""Paths and URIs: file systems that Arrow knows, such as S3, Google Cloud Storage and the local one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.fs

from ndsm.errors import InputError

COMPRESSED = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd", ".lz4": "lz4", ".br": "brotli"}
"""Arrow's names of compressions, by the extensions of files."""


def is_uri(path: str | Path) -> bool:
    """Whether this is a URI and not a path."""
    # Python's `Path` collapses the two slashes of a URI.
    return "://" in str(path)


def at_home(path: str | Path, field: str) -> Path:
    """A path, with the home folder in place of a `~` at its beginning.

    Args:
        field: where the path was given, for error messages.

    Raises:
        InputError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(
            f"{field}: expected a path in the home folder of a user of this machine, found {str(path)!r}"
        ) from None


def open_uri(uri: str, field: str, example: str) -> tuple[pa.fs.FileSystem, str]:
    """The file system of a URI, and the path in it.

    Args:
        uri: options of the file system may follow a `?`, such as
            s3://bucket/folder?endpoint_override=localhost:9000&scheme=http.
        field: where the URI was given, for error messages.
        example: a right one, for error messages.

    Raises:
        InputError: the URI is malformed, its scheme is unknown, or it holds a key.
    """
    if "@" in uri.partition("?")[0]:
        raise InputError(
            f"{field}: expected a URI without a key, which would be written into config.yaml, found one with '@'; "
            "give keys by the environment, such as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    try:
        filesystem, path = pa.fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, ValueError, OSError) as error:
        raise InputError(
            f"{field}: expected a path or a URI such as {example}, found {uri!r}: {one_line(error)}"
        ) from None
    return filesystem, path


def one_line(error: BaseException, length: int = 200) -> str:
    """The beginning of an error's message, or its type if it has none."""
    return " ".join(str(error).split())[:length] or type(error).__name__


@dataclass(frozen=True)
class Location:
    """A file or folder in a file system."""

    name: str
    """The path or URI as given, for messages."""
    filesystem: pa.fs.FileSystem
    path: str
    """Path in the file system."""

    @classmethod
    def of(cls, path: str | Path, field: str, example: str) -> Self:
        """The location of a path or URI; `~` is the home folder. The other arguments are those of `open_uri`.

        Raises:
            InputError: as `open_uri` and `at_home`.
        """
        if is_uri(path):
            filesystem, inner = open_uri(str(path), field, example)
            return cls(str(path), filesystem, inner.rstrip("/"))
        return cls(str(path), pa.fs.LocalFileSystem(), str(at_home(path, field)))

    @property
    def is_local(self) -> bool:
        """Whether it is in this machine's file system."""
        return bool(self.filesystem.type_name == "local")

    def info(self) -> pa.fs.FileInfo:
        """Whether there is a file or a folder, and its size.

        Raises:
            InputError: the storage does not answer.
        """
        try:
            return self.filesystem.get_file_info(self.path)
        except OSError as error:
            raise InputError(
                f"{self.name}: expected the storage to answer, found {one_line(error)}"
            ) from None

    def open(self) -> pa.NativeFile:
        """The file for reading at any place.

        Raises:
            OSError: it cannot be read.
        """
        return self.filesystem.open_input_file(self.path)

    def stream(self) -> pa.NativeFile:
        """The file for reading from its beginning; decompressed, if its extension says that it is compressed.

        Raises:
            OSError: it cannot be read.
        """
        # Arrow detects lower-case extensions only.
        codec = COMPRESSED.get(Path(self.path).suffix.lower())
        return self.filesystem.open_input_stream(self.path, compression=codec)
