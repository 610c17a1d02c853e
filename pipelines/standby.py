"""A process on each node that has the imports of a training worker done, from which workers that start again are forked.

Starting a worker takes seconds of processor time, nearly all of them for importing PyTorch and Ray Train. Ray starts the process of each
worker by a command of ours, `worker_environment`: it asks the node's standby, a process without threads, for a fork of itself,
and where there is none becomes the worker in the ordinary way and leaves a standby behind for the next one. The standby ends with its raylet,
and once there has been no worker for a while.

Run as a file, not imported, so that the command costs no import.
"""

import fcntl
import gc
import hashlib
import importlib
import json
import os
import runpy
import select
import shlex
import socket
import struct
import sys
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

IDLE_SECONDS = 120.0
"""For which a standby stays without a worker, while those of its job wait for room."""
QUIET_SECONDS = 10.0
"""Until a standby begins to import: the worker that it was left behind by starts first."""
HARMLESS_THREADS = {"jemalloc_bg_thd"}
"""Threads of libraries that start anew after a fork by themselves."""
MODULES = ("ray._private.workers.default_worker", "pipelines.worker")
"""What a worker imports."""
LOOK_SECONDS = 0.5
"""Between looks at which workers have ended."""
ANSWER_SECONDS = 5.0
"""In which a request has to have come."""


def worker_environment(software: dict[str, str]) -> dict[str, str]:
    """Return the runtime environment of Ray for workers that are forked where there is a standby.

    Where this file or this Python is not at the same place as here, or NDSM_STANDBY is 0, Ray's ordinary command is taken.

    Args:
        software: of the driver; a standby that may have another one is not asked.
    """
    digest = hashlib.blake2s(repr(sorted(software.items())).encode(), digest_size=4)
    file = Path(__file__).resolve()
    for path in sorted(file.parent.glob("*.py")):
        digest.update(path.read_bytes())
    python = sys.executable
    unwanted = os.environ.get("NDSM_STANDBY") == "0"
    if unwanted or sys.platform != "linux" or any(shlex.quote(word) != word for word in (python, str(file))):
        return {}
    # The raylet, whose child this is, has the command for its workers among its arguments.
    ordinary = r"tr '\0' '\n' < /proc/$PPID/cmdline | sed -n 's/^--python_worker_command=\([^ ]*\) .*/\1/p'"
    ours = f"echo {python} {file} {digest.hexdigest()}"
    return {"py_executable": f"$(test -x {python} && test -e {file} && {ours} || {ordinary})"}


def start_worker(key: str, arguments: list[str]) -> None:
    """Be the worker of this command: wait for the one that the standby has forked, or become it. Does not return.

    Args:
        key: of the software.
        arguments: Ray's file for workers and its arguments.
    """
    raylet = next(a.partition("=")[2] for a in arguments if a.startswith("--raylet-name="))
    folder, name = os.path.dirname(raylet), f"{os.path.basename(raylet)}-standby-{standby_key(key)}"
    if worker := ask(folder, name, arguments):
        worker.recv(1)
        sys.exit()
    parent = os.getppid()
    if (child := os.fork()) == 0:
        # No child of the worker: Ray ends those with it.
        if os.fork():
            os._exit(0)
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for number in range(3):
            os.dup2(nowhere, number)
        os.execv(sys.executable, [sys.executable, __file__, "--serve", folder, name, str(parent)])
    os.waitpid(child, 0)
    os.execv(sys.executable, [sys.executable, *arguments])


def standby_key(key: str) -> str:
    """Return the key with what a fork keeps of its standby besides: where modules are looked for, and the job, by Ray's native code."""
    kept = os.getcwd(), os.environ.get("PYTHONPATH"), os.environ.get("RAY_JOB_ID")
    return f"{key}-{zlib.crc32(repr(kept).encode()):08x}"


def ask(folder: str, name: str, arguments: list[str]) -> socket.socket | None:
    """Have a standby fork a worker with this process's environment, folder and output.

    Returns:
        A connection that the worker closes at its end; None if there is no standby.
    """
    there = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        there.connect(short(folder, name))
        if not same_user(there):
            return None
        request = {"arguments": arguments, "environment": dict(os.environ), "folder": os.getcwd()}
        text = json.dumps(request).encode()
        socket.send_fds(there, [len(text).to_bytes(8, "big")], [0, 1, 2])
        there.sendall(text)
        return there if there.recv(1) else None
    except OSError:
        return None


def short(folder: str, name: str) -> str:
    """Path of a socket in the folder, which may be longer than the system lets a socket's path be."""
    return f"/proc/self/fd/{os.open(folder, os.O_PATH)}/{name}"


def same_user(connection: socket.socket) -> bool:
    """Whether the other end is a process of this one's user: it says what is run."""
    size = struct.calcsize("3i")
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return bool(user == os.getuid())


def serve(folder: str, name: str, raylet: int) -> None:
    """Be the standby: import, then fork a worker for each request until the raylet has ended or there was none for a while.

    Args:
        folder, name: of the socket.
        raylet: its process.
    """
    lock = os.open(os.path.join(folder, f"{name}.lock"), os.O_CREAT | os.O_RDWR, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        alive = os.pidfd_open(raylet)
    except OSError:
        # Another one is there, or the raylet has ended.
        return
    if select.select([alive], [], [], QUIET_SECONDS)[0]:
        return
    for module in MODULES:
        importlib.import_module(module)
    if threads() - HARMLESS_THREADS:
        return
    gc.freeze()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        path = short(folder, name)
        with suppress(FileNotFoundError):
            os.unlink(path)
        before = os.umask(0o077)
        listener.bind(path)
        os.umask(before)
        listener.listen(64)
        workers: set[int] = set()
        busy = time.monotonic()
        while time.monotonic() - busy < IDLE_SECONDS:
            ready, _, _ = select.select([alive, listener.fileno()], [], [], LOOK_SECONDS)
            if alive in ready:
                return
            if listener.fileno() in ready:
                connection, _ = listener.accept()
                with connection, suppress(OSError, ValueError):
                    connection.settimeout(ANSWER_SECONDS)
                    request, files = received(connection)
                    if (worker := os.fork()) == 0:
                        listener.close()
                        os.close(lock)
                        os.close(alive)
                        become(request, files, connection)
                    workers.add(worker)
                    for file in files:
                        os.close(file)
            workers = {worker for worker in workers if os.waitpid(worker, os.WNOHANG)[0] == 0}
            if workers:
                busy = time.monotonic()
        os.unlink(path)


def received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """A request and the output files that came with it.

    Raises:
        OSError, ValueError: it is none, or from another user.
    """
    length, files, _, _ = socket.recv_fds(connection, 8, 3)
    text = b""
    while (
        same_user(connection)
        and len(text) < int.from_bytes(length, "big")
        and (more := connection.recv(65536))
    ):
        text += more
    return json.loads(text), files


def become(request: dict[str, Any], files: list[int], connection: socket.socket) -> NoReturn:
    """Be the worker that was asked for, in a fork of the standby."""
    import numpy as np

    # Ray ends the whole process group of a worker with it.
    os.setpgid(0, 0)
    connection.settimeout(None)
    connection.send(b"1")
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    # The state of the standby's, which every fork would have.
    np.random.seed()
    gc.unfreeze()
    sys.argv = request["arguments"]
    sys.path.insert(0, os.path.dirname(sys.argv[0]))
    runpy.run_path(sys.argv[0], run_name="__main__")
    sys.exit()


def threads() -> set[str]:
    """Names of the threads of this process besides this one."""
    folder, own = "/proc/self/task", str(os.getpid())
    found = set()
    for thread in os.listdir(folder):
        if thread != own:
            with open(f"{folder}/{thread}/comm") as file:
                found.add(file.read().strip())
    return found


if __name__ == "__main__":
    # This file's folder has modules that are not meant to be found by their bare names.
    sys.path.pop(0)
    if sys.argv[1] == "--serve":
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        start_worker(sys.argv[1], sys.argv[2:])
