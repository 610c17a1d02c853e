"""Blocks that several trials need: each is simulated once, kept in a file, and read by the others.

    POOL/STAMP/000000012.npy     block number 12 of one (data, mixture, process, grid, records)
    POOL/STAMP/uses              one byte per trial that opened the stamp

A block is a function of its stamp and its index alone, so it does not matter which trial makes it. The trials of one
machine may use a pool at once: a file appears whole or not at all, and of two that need the same block one makes it
while the other waits.
"""

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ndsm.core.atomic_file import whole_file
from ndsm.core.folders import first_foreign, names_below, remove_files

STAMP_FILES = ("[0-9]*.npy", "[0-9]*.lock", "uses")
"""What a stamp's folder holds, as `ndsm.core.folders.first_foreign` takes it."""


class BlockPool:
    """The blocks of one stamp.

    Args:
        path: the pool's folder, the same for all trials.
        stamp: of the blocks.
        make: simulates a block by its index.
        capacity: bytes that the whole pool may take. The least used other stamp makes room; without one the block is
            not kept.
    """

    def __init__(self, path: Path, stamp: str, make: Callable[[int], np.ndarray], capacity: int) -> None:
        self._pool, self._folder = path, path / stamp
        self._make, self._capacity = make, capacity
        self.made = self.read = 0
        """Blocks simulated here, and read."""
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / "uses").open("ab") as f:
            f.write(b".")

    def block(self, index: int) -> np.ndarray:
        """Block number `index`, (rows, width); simulated if no other trial has."""
        file = self._folder / f"{index:09d}.npy"
        if (kept := _load(file)) is not None:
            self.read += 1
            return kept
        with self._alone(f"{index:09d}.lock"):
            # Made by the trial that held the lock until now?
            if (kept := _load(file)) is not None:
                self.read += 1
                return kept
            block = self._make(index)
            self.made += 1
            self._keep(file, block)
            return block

    def _keep(self, file: Path, block: np.ndarray) -> None:
        with self._alone(".lock", self._pool):
            if not self._make_room(block.nbytes):
                return
            # Another trial may have evicted this stamp.
            self._folder.mkdir(exist_ok=True)
            with whole_file(file) as partial, partial.open("wb") as f:
                np.save(f, block, allow_pickle=False)

    def _make_room(self, size: int) -> bool:
        """Whether `size` bytes fit, after other stamps that are used less than this one were removed."""
        while pool_bytes(self._pool) + size > self._capacity:
            others = [p for p in self._pool.iterdir() if p.is_dir() and p != self._folder and _is_own(p)]
            least = min(others, key=_uses, default=None)
            if least is None or _uses(least) > _uses(self._folder):
                return False
            remove_files(least, list(names_below(least)))
        return True

    @contextlib.contextmanager
    def _alone(self, name: str, folder: Path | None = None) -> Iterator[None]:
        """While no other process is inside with the same name; a lock dies with its process."""
        folder = folder or self._folder
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / name).open("ab") as f:
            fcntl.flock(f, fcntl.LOCK_EX)
            yield


def pool_bytes(path: Path) -> int:
    """Bytes of all blocks of a pool."""
    total = 0
    for file in path.glob("*/*.npy"):
        # One that was evicted meanwhile takes none.
        with contextlib.suppress(FileNotFoundError):
            total += file.stat().st_size
    return total


def _is_own(folder: Path) -> bool:
    """Whether all in a folder of the pool is the pool's, which then may be deleted."""
    return first_foreign(names_below(folder), STAMP_FILES) is None


def _uses(folder: Path) -> tuple[int, float]:
    """Trials that opened a stamp, and when the last one did."""
    try:
        found = (folder / "uses").stat()
    except FileNotFoundError:
        return 0, 0.0
    return found.st_size, found.st_mtime


def _load(file: Path) -> np.ndarray | None:
    """A read-only view of a block's file, or None if there is none."""
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        return None
