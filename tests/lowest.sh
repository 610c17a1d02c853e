#!/usr/bin/env bash
# The tests of the method with the oldest permitted versions of its dependencies.
# Usage: tests/lowest.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
"$1" -m venv "$environment"
# "torch>=2.9,<3" becomes "torch==2.9.*"; extras stay.
"$environment/bin/python" - >"$environment/lowest.txt" <<'PYTHON'
import re
import tomllib

project = tomllib.load(open("pyproject.toml", "rb"))["project"]
for requirement in project["dependencies"]:
    name, lowest = re.match(r"([\w.\[\],-]+?)>=([\d.]+)", requirement).groups()
    print(f"{name}~={lowest}.0" if lowest.count(".") < 2 else f"{name}=={lowest}")
PYTHON
cat "$environment/lowest.txt"
"$environment/bin/pip" install --quiet -r "$environment/lowest.txt" pytest pytest-timeout
"$environment/bin/pip" install --quiet --no-deps --editable .
"$environment/bin/python" -m pytest tests/unit/test_reference.py tests/unit/test_estimator.py tests/unit/test_tables.py \
    tests/unit/test_config.py tests/unit/test_train_loop.py tests/unit/test_run.py tests/unit/test_report.py
