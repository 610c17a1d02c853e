"""How many cores this process may use, which is often fewer than the machine has: batch systems bind, containers limit."""

import os
from pathlib import Path


def usable_cores() -> int:
    """Return the cores that this process may use: those it is bound to, and no more than its control group's limit."""
    bound = bound_cores()
    limit = group_limit(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    # Of half a core nothing can be made, and of what is beyond whole ones threads would wait for one another.
    return bound if limit is None else max(1, min(bound, int(limit)))


def bound_cores() -> int:
    """Return the cores that this process is bound to, all of the machine's where it is bound to none."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def given_threads() -> int | None:
    """Return the threads that OMP_NUM_THREADS asks for, None if it does not."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else None


def group_limit(membership: Path, root: Path) -> float | None:
    """Return the limit on cores of a control group or of one that it is in, None if there is none.

    Args:
        membership: a process's groups, as /proc/PID/cgroup names them.
        root: where control groups are mounted; version 2, or the controllers of version 1 in folders.
    """
    limits = []
    try:
        lines = membership.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        # In a container the path may be the host's, and the group itself the root.
        group = Path(path.lstrip("/"))
        for mounted in (root / controllers, root / "cpu") if controllers else (root,):
            for folder in (mounted / group, *(mounted / parent for parent in group.parents)):
                limits += _limit_of(folder)
    return min(limits, default=None)


def _limit_of(folder: Path) -> list[float]:
    """The limit of one group, by either version's files; empty if it has none."""
    try:
        words = (folder / "cpu.max").read_text(encoding="utf-8").split()
    except OSError:
        try:
            words = [
                (folder / f"cpu.cfs_{name}_us").read_text(encoding="utf-8").strip()
                for name in ("quota", "period")
            ]
        except OSError:
            return []
    # "max" and -1 are none.
    numeric = len(words) == 2 and all(word.isdecimal() and int(word) for word in words)
    return [int(words[0]) / int(words[1])] if numeric else []
