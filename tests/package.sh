#!/usr/bin/env bash
# A wheel or an sdist, installed outside the checkout and used there.
# Usage: [PYTHON=python3.12] tests/package.sh FILE [ENVIRONMENT]
# Its dependencies are installed with it into a new environment of PYTHON; those of ENVIRONMENT, a folder, serve if it is given.
set -euo pipefail
package=$(realpath "$1")
environment=${2:+$(realpath "$2")}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
unset PYTHONPATH
if [ "$environment" ]; then
    python=$environment/bin/python
    "$python" -m pip install --quiet --no-deps --target installed "$package"
    # Ahead of the environment's own, which may be the checkout.
    export PYTHONPATH=$folder/installed
else
    "${PYTHON:-python3}" -m venv installed
    python=installed/bin/python
    "$python" -m pip install --quiet "$package"
fi
ndsm=installed/bin/ndsm
"$ndsm" --version
"$ndsm" presets
"$ndsm" train toy-arcs --local --data.n 500 --train.steps 60 --train.batch-rows 50 --evaluate.n 200
"$ndsm" sample runs/toy-arcs --n 100 --out new.parquet
"$ndsm" report runs/toy-arcs
"$python" - <<'PYTHON'
import subprocess
import sys
from importlib import metadata, resources
from pathlib import Path

import ndsm
import pipelines
import tuning

installed = Path("installed").resolve()
assert all(installed in Path(module.__file__).resolve().parents for module in (ndsm, pipelines, tuning))
assert (resources.files("ndsm") / "py.typed").is_file()
about = metadata.distribution("ndsm")
assert Path(about.locate_file("ndsm")).resolve().is_relative_to(installed)
said = subprocess.run([sys.executable, "-m", "ndsm", "--version"], capture_output=True, text=True, check=True).stdout
assert about.version in said, said
fields = about.metadata
assert fields["Requires-Python"] == ">=3.11" and fields["License-Expression"] == "Apache-2.0", fields
assert "Typing :: Typed" in fields.get_all("Classifier")
assert fields.get_payload().lstrip().startswith("# ndsm"), "the README is the long description"
assert any(path.name == "LICENSE" for path in about.files)
assert ndsm.load("runs/toy-arcs").sample(3).shape == (3, 2)
PYTHON
echo "$(basename "$package"): installed and used, $("$python" --version)"
