"""A browser without a screen, or the reason why there is none."""

import subprocess
import tarfile

import pytest
from chromium import Browser, headless


@pytest.fixture(scope="session")
def axe_script(tmp_path_factory):
    """axe-core's newest release 4 from npm, or where that is not to be had the older one that a package carries."""
    folder = tmp_path_factory.mktemp("axe")
    try:
        subprocess.run(
            ["npm", "pack", "axe-core@4"], cwd=folder, check=True, capture_output=True, timeout=120
        )
    except (OSError, subprocess.SubprocessError):
        from axe_core_python.base import AXE_SCRIPT

        return AXE_SCRIPT
    (packed,) = folder.glob("axe-core-*.tgz")
    with tarfile.open(packed) as archive:
        return archive.extractfile("package/axe.min.js").read().decode()


@pytest.fixture(scope="package")
def chromium(request):
    """Headless Chromium, driven by Selenium; it ends with these tests, since it works on while nobody looks."""
    driver = headless()
    if driver is None:
        pytest.skip("needs Chromium: apt-get install chromium chromium-driver")
    yield Browser(driver, request.getfixturevalue("axe_script"))
    driver.quit()
