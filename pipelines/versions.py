"""Every node of a run has the same software: another one would simulate or train something else."""

import functools
import hashlib
import socket
from importlib import resources

from ndsm.core.versions import versions
from ndsm.errors import InputError

DECIDE_NUMBERS = ("ndsm", "torch", "numpy")
"""Packages that decide what a simulator makes and a worker learns."""


@functools.cache
def software() -> dict[str, str]:
    """Versions of what numbers depend on in this process, and a hash of ndsm's source."""
    digest = hashlib.blake2s(digest_size=4)
    for path in sorted(str(p) for p in resources.files("ndsm").rglob("*.py")):  # type: ignore[attr-defined]
        with open(path, "rb") as f:
            digest.update(f.read())
    found = versions()
    return {name: found[name] for name in DECIDE_NUMBERS} | {"ndsm's source": digest.hexdigest()}


def check_software(driver: dict[str, str]) -> None:
    """Raise an error if this process has other software than the driver.

    Builds of one version for processors and for GPUs (2.14.1+cpu, 2.14.1+cu130) count as the same.

    Raises:
        InputError: it has not.
    """
    here = software()
    for name, expected in driver.items():
        if here.get(name, "").split("+")[0] != expected.split("+")[0]:
            raise InputError(
                f"node {socket.gethostname()} has {name} {here.get(name)}, expected the driver's {expected}: install the "
                "same version on all nodes"
            )
