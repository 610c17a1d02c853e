"""What an import of the library brings with it; `make lint` checks the directions of its imports."""

import subprocess
import sys
from pathlib import Path

import pytest

import ndsm

ROOT = Path(ndsm.__file__).parent.parent


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


def dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_ndsm_imports_no_ray():
    names = [dotted(path) for path in modules("ndsm")]
    assert {"ndsm", "ndsm.cli", "ndsm.estimator", "ndsm.training.loop"} <= set(names)
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}: importlib.import_module(name)\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('ray', 'pipelines', 'tuning')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_the_coordinator_does_without_torch():
    """It is started with every run, beside workers that are: its process is to be small and quickly there."""
    program = "import pipelines.coordinator, sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("module", "unused"),
    [
        ("pipelines.simulators", ["pyarrow", "pydantic", "rich"]),
        ("pipelines.worker", ["rich", "torchvision"]),
    ],
)
def test_processes_of_a_cluster_import_only_what_they_use(module, unused):
    """Each of a run's simulators and workers pays for the imports in time and memory."""
    program = f"import {module}, sys; print([name for name in {unused} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_training_does_without_torchs_compiler(tmp_path):
    """Importing it takes nearly as long as importing PyTorch."""
    program = (
        "import sys; from ndsm import cli\n"
        "cli.main(['train', 'toy-arcs', '--local', '--quiet', '--train.steps', '20', '--data.n', '200', '--evaluate.n', '20',"
        " '--reference.n-init', '1', '--objective.kind', 'ndsm-cv', '--objective.epsilon.kind', 'network', '--sample.steps', '4'])\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "False"
