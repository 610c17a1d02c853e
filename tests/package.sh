#!/usr/bin/env bash
# A wheel or an sdist, installed into an environment of its own and used outside the checkout.
# Usage: tests/package.sh FILE
set -euo pipefail
package=$(realpath "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet "$package"
unset PYTHONPATH
venv/bin/ndsm --version
venv/bin/ndsm presets
venv/bin/ndsm train toy-arcs --local --data.n 500 --train.steps 60 --train.batch-rows 50 --evaluate.n 200
venv/bin/ndsm sample runs/toy-arcs --n 100 --out new.parquet
venv/bin/ndsm report runs/toy-arcs
venv/bin/python - <<'PYTHON'
from importlib import resources
from pathlib import Path

import ndsm
import pipelines
import tuning

assert (resources.files("ndsm") / "py.typed").is_file()
assert all("venv" in str(Path(module.__file__).parents[1]) for module in (ndsm, pipelines, tuning))
assert ndsm.load("runs/toy-arcs").sample(3).shape == (3, 2)
PYTHON
echo "$(basename "$package"): installed and used"
