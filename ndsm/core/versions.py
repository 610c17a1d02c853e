"""Versions of the software that a run was made with."""

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("ndsm", "torch", "torchvision", "ray", "scikit-learn", "numpy", "pyarrow")


def versions() -> dict[str, str]:
    """Version of Python and of each package that results depend on, where it is installed."""
    python = f"{platform.python_version()} on {platform.machine()}"
    return {"python": python, **{package: version_of(package) for package in PACKAGES}}


@cache
def version_of(package: str) -> str:
    """Version of a package; read from its metadata once, since every checkpoint notes one."""
    try:
        return version(package)
    # A checkout that is only on the path has no version.
    except PackageNotFoundError:
        return "not installed"
