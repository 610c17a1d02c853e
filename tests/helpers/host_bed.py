"""Several hosts on one machine, which share no file that can be written.

Each host is a process tree in Linux namespaces of its own: an address on a bridge, a host name, process numbers, and empty folders
as `/tmp`, HOME and `/dev/shm`. All else of the file system, with the installation, is there to be read. Nothing
has a name outside: once the process that made the hosts ends, however it does, the kernel ends theirs and takes the networks
and folders away.

    with hosts(3) as (head, a, b):
        head.run("ray start --head --port 6379 --num-cpus 1")
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pytest

CHECKOUT = Path(__file__).parents[2]
HOME = "/home/user"
HIDDEN = ("/tmp", "/home", "/dev/shm", "/run")
"""Folders in which each host has its own files."""
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
TOKEN = ".ray/auth_token"
"""Ray's token, in HOME."""

HOST = r"""
set -e
mount --make-rprivate /
for folder in $KEEP; do exec {fd}<"$folder"; kept+=("$fd:$folder"); done
mount -o remount,bind,ro /
for folder in $HIDDEN; do mount -t tmpfs host "$folder"; chmod 1777 "$folder"; done
for pair in "${kept[@]}"; do
    folder=${pair#*:}; fd=${pair%%:*}
    [ -e "$folder" ] || { mkdir -p "$folder"; mount --no-canonicalize --bind "/proc/self/fd/$fd" "$folder"; mount -o remount,bind,ro "$folder"; }
    exec {fd}<&-
done
mkdir -p "$HOME"
cp /etc/hosts /run/hosts
i=0
for name in $NAMES; do i=$((i + 1)); echo "10.77.0.$i $name" >>/run/hosts; done
mount --bind /run/hosts /etc/hosts
# Nobody is asked for other names, which would take until time is up.
mount --bind /dev/null /etc/resolv.conf
hostname "$NAME"
ip link set lo up
exec "$PYTHON" -c '
import signal, sys
# The kernel then takes away whoever ended and has no parent but this process.
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
print("ready", flush=True)
sys.stdin.read()
'
"""
"""The first process of a host: it ends, and all others with it, when the process that made the host closes its input."""


@dataclass(frozen=True)
class Result:
    """What a command came to; killed by a signal, its exit code is minus the signal's number."""

    rc: int
    out: str
    err: str


class Command:
    """A command that runs on a host.

    Args:
        args: of the process.
        env: its environment.
    """

    def __init__(self, args: list[str], env: dict[str, str]) -> None:
        # Files, not pipes: what the command leaves behind, as `ray start` does, would keep a pipe open.
        self._out, self._err = (tempfile.TemporaryFile("w+b") for _ in range(2))  # noqa: SIM115
        self._process = subprocess.Popen(
            args,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            start_new_session=True,
        )

    @property
    def rc(self) -> int | None:
        """The exit code, None while it runs."""
        return self._process.poll()

    @property
    def out(self) -> str:
        """What it printed so far."""
        return _text(self._out)

    @property
    def err(self) -> str:
        """What it printed to the error output so far."""
        return _text(self._err)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the command, as `kill` does: to the program itself, where it is a single one."""
        # `nsenter` stays as the parent of what it starts.
        for child in _children(self._process.pid):
            os.kill(child, number)

    def wait(self, seconds: float) -> Result:
        """Wait for its end.

        Raises:
            AssertionError: it has not ended by then, and is killed; says what it printed.
        """
        try:
            rc = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"no end after {seconds:g} s\n--- out\n{self.out}\n--- err\n{self.err}"
            ) from None
        return Result(rc, self.out, self.err)

    def kill(self) -> None:
        """Kill it and what it started in the foreground."""
        if self.rc is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Host:
    """One host.

    Args:
        name: the host's name, which all hosts can resolve.
        address: on the bridge.
        first: number of its first process, on this machine.
        switch: number of the process in whose network the bridge is.
    """

    def __init__(self, name: str, address: str, first: int, switch: int) -> None:
        self.name, self.address = name, address
        self.root = Path(f"/proc/{first}/root")
        """Its file system, as seen from here."""
        self.home = self.root / HOME.lstrip("/")
        """Its HOME, in which commands run, as seen from here."""
        self._first, self._port, self._switch = first, f"to-{name}", switch
        self._commands: list[Command] = []

    def start(self, command: str, **env: str) -> Command:
        """Start a shell command in the background.

        Args:
            env: variables of the environment beside PATH and HOME.
        """
        namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", f"--wd={self.home}"]
        args = ["nsenter", f"--target={self._first}", *namespaces, "--", "bash", "-c", command]
        started = Command(args, environment(**env))
        self._commands.append(started)
        return started

    def run(self, command: str, seconds: float = 120, **env: str) -> Result:
        """Run a shell command to its end, whatever that is.

        Raises:
            AssertionError: it has not ended by then.
        """
        return self.start(command, **env).wait(seconds)

    def do(self, command: str, seconds: float = 120, **env: str) -> str:
        """Run a shell command that has to succeed; what it printed.

        Raises:
            AssertionError: it failed, or has not ended by then.
        """
        result = self.run(command, seconds, **env)
        assert result.rc == 0, (
            f"{self.name}: {command}: exit code {result.rc}\n--- out\n{result.out}\n--- err\n{result.err}"
        )
        return result.out

    def kill(self) -> None:
        """End the host: all of its processes by SIGKILL, and its network and files with them."""
        with suppress(ProcessLookupError):
            os.kill(self._first, signal.SIGKILL)
        for command in self._commands:
            command.kill()

    def cut(self) -> None:
        """Take its network away; nobody is told."""
        self._link("down")

    def mend(self) -> None:
        """Give its network back."""
        self._link("up")

    def serve_s3(self, bucket: str = "runs", port: int = 9000) -> str:
        """Start a server that speaks S3, with a bucket; the URI of the bucket for all hosts."""
        server = self.start(f"moto_server -H 0.0.0.0 -p {port}")
        while self.run(f"curl -s -X PUT http://127.0.0.1:{port}/{bucket}").rc:
            assert server.rc is None, server.err
            time.sleep(0.2)
        return f"s3://{bucket}?scheme=http&endpoint_override={self.address}%3A{port}&region=us-east-1"

    def send_token(self, *others: "Host") -> None:
        """Copy Ray's token to other hosts, as `file_mounts` of a cluster file does."""
        for other in others:
            (other.home / TOKEN).parent.mkdir(exist_ok=True)
            shutil.copy(self.home / TOKEN, other.home / TOKEN)

    def start_head(self, cpus: int = 1, options: str = "", **env: str) -> str:
        """Start a cluster's head; its address.

        Args:
            options: further options of `ray start`.
        """
        self._start_ray(f"--head --port 6379 --num-cpus {cpus} {options}", **env)
        return f"{self.address}:6379"

    def join(self, head: "Host", cpus: int = 1, options: str = "", **env: str) -> None:
        """Join the cluster of a head.

        Args:
            options: further options of `ray start`.
        """
        self._start_ray(f"--address {head.address}:6379 --num-cpus {cpus} {options}", **env)

    def _start_ray(self, options: str, **env: str) -> None:
        command = f"ray start --object-store-memory {200 << 20} {options}"
        # Ray gives a node half a minute to start, which a busy machine may exceed.
        for _ in range(2):
            if self.run(command, **env).rc == 0:
                return
            self.run("ray stop --force")
        self.do(command, **env)

    def _link(self, state: str) -> None:
        subprocess.run(
            ["nsenter", "-t", str(self._switch), "-n", "ip", "link", "set", self._port, state], check=True
        )


def why_not() -> str | None:
    """Why there can be no hosts here, if so."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "hosts need root on Linux"
    missing = [tool for tool in ("ip", "nsenter", "unshare", "bash", "mount") if shutil.which(tool) is None]
    if missing:
        return f"hosts need {', '.join(missing)}"
    tried = subprocess.run(
        [
            "unshare",
            "-m",
            "-n",
            "-p",
            "-i",
            "-u",
            "--fork",
            "sh",
            "-c",
            "ip link add x type veth peer name y",
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    return f"hosts need namespaces: {tried.stderr.strip()}" if tried.returncode else None


@contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Make hosts called head, a, b, c, ...; skips the test where it may not."""
    if reason := why_not():
        pytest.skip(reason)
    names = ["head", *"abcdefgh"][:count]
    with ExitStack() as stack:
        switch = stack.enter_context(_process(["unshare", "--net", "cat"]))
        _wait_until(lambda: os.readlink(f"/proc/{switch.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        within = ["nsenter", "-t", str(switch.pid), "-n"]
        # The hosts' way to everywhere else, which leads nowhere: Ray looks at it for a host's own address.
        for line in ("add bridge type bridge", "set bridge up"):
            subprocess.run([*within, "ip", "link", *line.split()], check=True)
        subprocess.run([*within, "ip", "address", "add", "10.77.0.254/24", "dev", "bridge"], check=True)
        made = []
        for number, name in enumerate(names, 1):
            namespaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--mount-proc"]
            keep = [CHECKOUT, Path(sys.prefix), Path(sys.base_prefix), *_imported_from()]
            env = environment(
                NAME=name,
                NAMES=" ".join(names),
                HIDDEN=" ".join(HIDDEN),
                KEEP=" ".join(str(p) for p in dict.fromkeys(keep) if str(p).startswith(HIDDEN)),
                PYTHON=sys.executable,
            )
            outer = stack.enter_context(_process(["unshare", *namespaces, "bash", "-c", HOST], env))
            assert outer.stdout is not None
            if outer.stdout.readline() != "ready\n":
                assert outer.stderr is not None
                raise AssertionError(f"host {name} did not start: {outer.stderr.read()}")
            host = Host(name, f"10.77.0.{number}", _children(outer.pid)[0], switch.pid)
            stack.callback(host.kill)
            port = f"to-{name}"
            for line in (
                f"ip link add {port} type veth peer name eth0 netns {host._first}",
                f"ip link set {port} master bridge up",
            ):
                subprocess.run([*within, *line.split()], check=True)
            for line in (
                f"address add {host.address}/24 dev eth0",
                "link set eth0 up",
                "route add default via 10.77.0.254",
            ):
                subprocess.run(["nsenter", "-t", str(host._first), "-n", "ip", *line.split()], check=True)
            made.append(host)
        yield made


def environment(**more: str) -> dict[str, str]:
    """The environment of a login on a host; the installation is found, and nothing else of this process's is there."""
    found = {
        "PATH": f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": HOME,
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Half a minute otherwise, which a node of a busy machine exceeds.
        "RAY_raylet_start_wait_time_s": "120",
        **KEYS,
    }
    if "PYTHONPATH" in os.environ:
        found["PYTHONPATH"] = os.environ["PYTHONPATH"]
    return found | more


def _imported_from() -> list[Path]:
    return [Path(p).resolve() for p in os.environ.get("PYTHONPATH", "").split(":") if p]


@contextmanager
def _process(args: list[str], env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """A process that lives until its input is closed, here or by the end of this process."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = subprocess.Popen(args, env=env, text=True, start_new_session=True, **pipes)  # type: ignore[call-overload]
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until(condition: Callable[[], bool]) -> None:
    while not condition():
        time.sleep(0.01)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _text(file: IO[bytes]) -> str:
    fd = file.fileno()
    return os.pread(fd, os.fstat(fd).st_size, 0).decode(errors="replace")
