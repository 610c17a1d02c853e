"""What a run was made with."""

import platform
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("ndsm", "torch", "torchvision", "ray", "scikit-learn", "numpy", "pyarrow")


def versions() -> dict[str, str]:
    """Version of Python and of each package that results depend on, where it is installed."""
    found = {"python": f"{platform.python_version()} on {platform.machine()}"}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        # A checkout that is only on the path has no version.
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
