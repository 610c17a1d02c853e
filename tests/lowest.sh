#!/usr/bin/env bash
# The tests of the method with the oldest permitted versions of its dependencies.
# Usage: tests/lowest.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
environment=$(mktemp -d)
trap 'rm -rf "$environment"' EXIT
"$1" -m venv "$environment"
# uv can choose the oldest versions, which pip cannot.
"$environment/bin/pip" install --quiet uv
"$environment/bin/uv" pip install --quiet --python "$environment/bin/python" --resolution lowest-direct --only-binary :all: \
    --no-binary ndsm --editable . "pytest>=8.4" "pytest-timeout>=2.4"
"$environment/bin/uv" pip list --python "$environment/bin/python" | grep -iE "^(torch|torchvision|ray|numpy|scikit-learn|scipy|pyarrow|pydantic|optuna) "
"$environment/bin/python" -m pytest --override-ini addopts=--strict-markers tests/unit/mixture/test_mixture.py tests/unit/estimator/test_estimator.py tests/unit/data/test_tables.py \
    tests/unit/config/test_config.py tests/unit/training/test_train_loop.py tests/unit/runs/test_run_directory.py tests/unit/report/test_report.py
