"""Whether every node sees the files that the work on it needs: a node that does not is named before any work starts."""

import hashlib
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ndsm.core.atomic_file import PARTIAL
from ndsm.errors import InputError

LOOKS = 3
"""Looks at a path, a second apart: a network file system may show a new file a little later."""
ANSWER_SECONDS = 120.0
"""In which a node starts a process and looks; one that hangs on a path never answers."""
HEAD_BYTES = 1 << 16
"""Bytes of a file that are compared, beside its size."""


def check_seen(written: Sequence[Path] = (), read: Sequence[Path] = ()) -> None:
    """Raise if a node with CPUs does not see these paths as this process does.

    Args:
        written: folders that nodes will write to, which need not exist yet: a file that is made there for the moment has to
            be seen by every node.
        read: existing files or folders that nodes will read.

    Raises:
        InputError: a node sees another file or none; names the node and the path.
    """
    here = ray.get_runtime_context().get_node_id()
    others = [n for n in ray.nodes() if n["Alive"] and n["NodeID"] != here and n["Resources"].get("CPU", 0)]
    if not others or not (written or read):
        return
    with ExitStack() as probes:
        files = [probes.enter_context(_probe(folder)) for folder in written] + [p.resolve() for p in read]
        expected = [(str(path), _fingerprint(path)) for path in files]
        tasks = {}
        for node in others:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            task = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(_first_unseen)
            tasks[task.remote(expected)] = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        answered, silent = ray.wait(list(tasks), num_returns=len(tasks), timeout=ANSWER_SECONDS)
        if silent:
            raise InputError(
                f"node {tasks[silent[0]]}: expected an answer whether it sees {files[0]} within {ANSWER_SECONDS:g} s, found none"
            )
        for ref in answered:
            try:
                unseen = ray.get(ref)
            # A node that is gone by now will do no work.
            except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError):
                continue
            if unseen is not None:
                shown = written[unseen] if unseen < len(written) else files[unseen]
                raise InputError(
                    f"node {tasks[ref]} does not see {shown}: expected a path that all nodes share, at the same place on each"
                )


def seen(read: Sequence[Path]) -> bool:
    """Whether every node with CPUs sees existing files or folders as this process does."""
    try:
        check_seen(read=read)
    except InputError:
        return False
    return True


@contextmanager
def _probe(folder: Path) -> Iterator[Path]:
    """A file in a folder while this is active; folders that were made for it go with it if they are still empty."""
    folder = folder.resolve()
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    file = folder / f".{uuid.uuid4().hex}{PARTIAL}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(file.name, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: expected a folder that can be written to, found {error}") from None
    try:
        yield file
    finally:
        file.unlink(missing_ok=True)
        for path in made:
            try:
                path.rmdir()
            except OSError:
                break


def _first_unseen(expected: list[tuple[str, str]]) -> int | None:
    """Index of the first path that is not here what it is there; None if all are."""
    for index, (path, fingerprint) in enumerate(expected):
        for look in range(LOOKS):
            if _fingerprint(Path(path)) == fingerprint:
                break
            if look + 1 < LOOKS:
                time.sleep(1)
        else:
            return index
    return None


def _fingerprint(path: Path) -> str:
    """Size and beginning of a file, names in a folder; nothing of what is not there."""
    try:
        if path.is_dir():
            return repr(sorted(p.name for p in path.iterdir()))
        with path.open("rb") as f:
            return f"{path.stat().st_size} {hashlib.blake2s(f.read(HEAD_BYTES)).hexdigest()}"
    except OSError:
        return ""
