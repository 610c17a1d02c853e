"""Packages of a user's working directory in the way of the project's own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize(("name", "file"), [("pipelines", "pipelines/__init__.py"), ("tuning", "tuning.py")])
def test_a_users_package_of_the_same_name_is_found_at_start(name, file, tmp_path):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    # A Ray job has its working directory first.
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", str(Path(__file__).parents[3]))])
    found = subprocess.run(
        [sys.executable, "-c", "from ndsm.cli import main; exit(main(['presets']))"],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 2
    assert found.stderr.count("\n") == 1
    what = tmp_path / file.removesuffix("/__init__.py")
    assert f"expected the package '{name}' in" in found.stderr
    assert f"found {what}, which comes first on Python's path; rename it" in found.stderr
