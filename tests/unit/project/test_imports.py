"""The library does without Ray, and its parts depend on one another in one direction."""

import ast
import subprocess
import sys
from pathlib import Path

import ndsm

ROOT = Path(ndsm.__file__).parent.parent
LAYERS = ("ndsm", "pipelines", "tuning")


def modules(package):
    return sorted((ROOT / package).rglob("*.py"))


def dotted(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree):
    """Imported top packages of a module, each with whether it happens inside a function."""
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name.split(".")[0], id(node) in inside
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            yield (node.module or "").split(".")[0], id(node) in inside


def imported(package):
    for path in modules(package):
        for name, lazy in imports(ast.parse(path.read_text(encoding="utf-8"))):
            yield dotted(path), name, lazy


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


def test_no_module_of_the_library_names_ray():
    assert [m for m, name, _ in imported("ndsm") if name == "ray"] == []


def test_only_the_command_line_reaches_up_and_only_inside_functions():
    upwards = [(m, name, lazy) for m, name, lazy in imported("ndsm") if name in ("pipelines", "tuning")]
    assert all(m.startswith("ndsm.cli.") for m, _, _ in upwards)
    assert all(lazy for _, _, lazy in upwards)
    # The check sees such imports: the command line does have some.
    assert upwards


def test_pipelines_do_not_import_tuning():
    found = list(imported("pipelines"))
    assert ("pipelines.train", "ray", False) in found
    assert [m for m, name, _ in found if name == "tuning"] == []


def test_the_coordinator_does_without_torch():
    """It is started with every run, beside workers that are: its process is to be small and quickly there."""
    program = "import pipelines.coordinator, sys; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "False"


def test_training_does_without_torchs_compiler(tmp_path):
    """Importing it takes nearly as long as importing PyTorch."""
    program = (
        "import sys; from ndsm import cli\n"
        "cli.main(['train', 'toy-arcs', '--local', '--quiet', '--train.steps', '20', '--data.n', '200', '--evaluate.n', '20',"
        " '--reference.n-init', '1', '--objective.kind', 'ndsm-cv', '--objective.epsilon.kind', 'network'])\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert done.stdout.splitlines()[-1] == "False"
