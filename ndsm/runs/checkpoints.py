"""Checkpoint files: writing, reading, and the choice of the one that training goes on from."""

import errno
import hashlib
import io
import pickle
import warnings
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ndsm.core.atomic_file import write_whole
from ndsm.core.versions import version_of
from ndsm.errors import InputError
from ndsm.runs.layout import checkpoint_name, step_of


class Checkpoint(NamedTuple):
    """Content of a checkpoint file."""

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


class Checkpoints:
    """The checkpoint files of a run.

    Args:
        folder: the directory that holds them; it need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._damaged: set[str] = set()

    def save(self, state: dict[str, Any], resume: dict[str, Any]) -> None:
        """Write a checkpoint, and delete all but the newest two, not counting damaged ones."""
        self.write(state, resume)
        steps = int(state["steps"])
        # A file of a later step was damaged when training went on before it.
        self._damaged.discard(checkpoint_name(steps))
        whole = [p for p in self.files() if step_of(p) <= steps and p.name not in self._damaged]
        kept = {path.name for path in whole[-2:]}
        for path in self.files():
            if path.name not in kept:
                path.unlink(missing_ok=True)
        # Left by a process that was killed while it wrote.
        for partial in self.folder.glob(".step-*.partial"):
            partial.unlink(missing_ok=True)

    def write(self, state: dict[str, Any], resume: dict[str, Any]) -> None:
        """Write a checkpoint, in place of one of the same step."""
        write_whole(self.folder / checkpoint_name(state["steps"]), checkpoint_bytes(state, resume))

    def find(
        self,
        identity: dict[str, str] | None = None,
        warn: Callable[[str], object] | None = None,
        before: Sequence[str] = (),
    ) -> Checkpoint | None:
        """Return the newest whole checkpoint, None if there is no file at all.

        Args:
            identity: hashes of the training that is to go on from it, by the keys of `IDENTITY`; not compared if None.
            warn: told if the newest file is damaged; a Python warning if not given.
            before: hashes of the configurations that the training had before it was continued with other values.

        Raises:
            InputError: all are damaged; or the one found is another version's, or of another training than `identity`.
            OSError: the disk or the network fails.
        """
        found, self._damaged = newest_readable(self.files, warn)
        if found is not None and identity is not None and found.resume.get("config") in before:
            identity = identity | {"config": found.resume["config"]}
        if found is not None and identity is not None:
            check_identity(found, self.folder, identity)
        return found

    def read(self, step: int, digest: str) -> Checkpoint | None:
        """Return the checkpoint of a step whose file has this hash, None if there is none.

        Raises:
            InputError: it is another version's.
        """
        with suppress(DamagedCheckpoint, FileNotFoundError):
            found = read_checkpoint(self.folder / checkpoint_name(step))
            return found if found.digest == digest else None
        return None

    def newest(self) -> tuple[int, float] | None:
        """Return step and Unix time of the newest file, not read; None without one."""
        for path in reversed(self.files()):
            # It may be replaced by a newer one just now.
            with suppress(FileNotFoundError):
                return step_of(path), path.stat().st_mtime
        return None

    def files(self) -> list[Path]:
        """Return the checkpoint files, the oldest first."""
        return sorted(self.folder.glob("step-*.pt"))


def checkpoint_bytes(state: dict[str, Any], resume: dict[str, Any]) -> bytes:
    """Return the content of a checkpoint file: tensors and plain Python types only, read back without unpickling."""
    buffer = io.BytesIO()
    torch.save({"trainer": state, "resume": resume, "ndsm": version_of("ndsm")}, buffer)
    return buffer.getvalue()


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file; the hash is that of the bytes read, also if the file is replaced meanwhile.

    Raises:
        DamagedCheckpoint: it is not whole.
        InputError: it is whole, and another version's.
        OSError: it is not there, or the disk or the network fails.
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
    """Return the newest whole checkpoint, None if there is no file, and the names of newer ones that are damaged.

    Args:
        list_files: returns the checkpoint files, oldest first; called again if one is deleted meanwhile.
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
