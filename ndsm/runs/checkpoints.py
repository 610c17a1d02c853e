"""Checkpoint files: what a readable one holds, and which one training goes on from."""

import errno
import hashlib
import io
import pickle
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ndsm.core.versions import version_of
from ndsm.errors import InputError


class Checkpoint(NamedTuple):
    """What a checkpoint file holds."""

    state: dict[str, Any]
    """Weights, optimiser and `steps`, the number of steps taken."""
    resume: dict[str, Any]
    """Which training it belongs to (the keys of `IDENTITY`), and where its data and clock stand."""
    name: str
    """File name."""
    digest: str
    """BLAKE2 hash of the file's bytes, hexadecimal."""
    version: str
    """Version of ndsm that wrote it."""


class DamagedCheckpoint(Exception):
    """The file is not a whole checkpoint."""


IDENTITY = {"config": "configuration", "stamp": "data, mixture, process and time grid"}
"""Keys of `Checkpoint.resume` that say which training a checkpoint belongs to, and what each is a hash of."""


def checkpoint_bytes(state: dict[str, Any], resume: dict[str, Any]) -> bytes:
    """Return the content of a checkpoint file: tensors and plain Python types only, read back without unpickling."""
    buffer = io.BytesIO()
    torch.save({"trainer": state, "resume": resume, "ndsm": version_of("ndsm")}, buffer)
    return buffer.getvalue()


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint file's content; its hash is of the bytes that were read, whatever takes the file's place meanwhile.

    Raises:
        DamagedCheckpoint: it is not whole.
        InputError: it is whole, and another version's.
        OSError: it cannot be read: there is none, or the disk or the network fails, which says nothing about the file.
    """
    with path.open("rb") as f:
        digest = hashlib.file_digest(f, hashlib.blake2b).hexdigest()
        try:
            # torch.load does not look at the checksums that its own format carries.
            with zipfile.ZipFile(f) as archive:
                if damaged := archive.testzip():
                    raise zipfile.BadZipFile(f"checksum of {damaged}")
            f.seek(0)
            saved = torch.load(f, weights_only=True, map_location="cpu")
        except pickle.UnpicklingError as error:
            raise _of_another_version(path, None, error) from None
        # Damage shows in many types, also as a seek to a place before the file's beginning.
        except Exception as error:
            if isinstance(error, OSError) and error.errno != errno.EINVAL:
                raise
            raise DamagedCheckpoint(f"{path.name} ({type(error).__name__}: {_line(error)})") from None
    try:
        state, resume = saved["trainer"], dict(saved["resume"])
        int(state["steps"])
    except (TypeError, KeyError, ValueError) as error:
        raise _of_another_version(path, saved, error) from None
    return Checkpoint(state, resume, path.name, digest, _writer(saved))


def check_identity(checkpoint: Checkpoint, folder: Path, identity: dict[str, str]) -> None:
    """Raise an error if a checkpoint belongs to another training; one without a hash is taken for any.

    Args:
        identity: the hashes of this training, by the keys of `IDENTITY`.

    Raises:
        InputError: a hash differs.
    """
    for key, what in IDENTITY.items():
        found, expected = checkpoint.resume.get(key), identity[key]
        if found and found != expected:
            raise InputError(
                f"{folder / checkpoint.name}: expected a checkpoint of this run's {what} ({expected}), found one of another "
                f"run's ({found}); bring back the run's own, or start it over with --fresh"
            )


def newest_readable(
    list_files: Callable[[], Sequence[Path]], warn: Callable[[str], object] | None = None
) -> tuple[Checkpoint | None, set[str]]:
    """The newest checkpoint that is whole, None if there is none at all; and the names of newer ones that are damaged.

    Args:
        list_files: gives the checkpoint files, the oldest first; called again if one is deleted while this reads.
        warn: told if the newest is damaged; a Python warning if not given.

    Raises:
        InputError: all are damaged, or the newest that is whole is another version's.
    """
    damaged: dict[str, str] = {}
    paths = list_files()
    while paths:
        for path in reversed(paths):
            try:
                found = read_checkpoint(path)
            except DamagedCheckpoint as error:
                damaged[path.name] = str(error)
            except FileNotFoundError:
                continue
            else:
                if damaged:
                    text = f"{path.parent}: damaged: {', '.join(damaged.values())}; going on from {path.name}"
                    # From one place, so that Python shows the same warning once.
                    (warn or warnings.warn)(text)
                return found, set(damaged)
        again = list_files()
        if list(again) == list(paths):
            break
        paths = again
    if damaged:
        raise InputError(
            f"{paths[0].parent if paths else 'checkpoints'}: expected a whole checkpoint, found only damaged ones: "
            f"{', '.join(damaged.values())}; bring one back from a backup, or start the run over with --fresh"
        )
    return None, set()


def _of_another_version(path: Path, saved: Any, error: Exception) -> InputError:
    return InputError(
        f"{path}: expected a checkpoint of ndsm {version_of('ndsm')}, found a whole one of {_writer(saved)} with other content "
        f"({type(error).__name__}: {_line(error)}); install the version that wrote it, or start the run over with --fresh"
    )


def _writer(saved: Any) -> str:
    return saved.get("ndsm", "an earlier version") if isinstance(saved, dict) else "an unknown version"


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
