# `make demo` and `make test` do all the set-up; nothing else is needed on a fresh clone.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
READY := $(VENV)/.installed
# Packages are compiled when they are first imported, and what was compiled is kept: most files never are imported.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test chaos nightly lint same docs package wheel lowest clean

demo: $(READY)
	$(VENV)/bin/ndsm train digits

test: $(READY)
	$(VENV)/bin/python -m pytest -n 2

chaos: $(READY)
	$(VENV)/bin/python -m pytest -m 'chaos and not nightly' -s tests/chaos

nightly: $(READY)
	$(VENV)/bin/python -m pytest -m nightly

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/mypy

# Whether a change leaves all results as they are: make same BASE=main [ONLY="objective*"] [RAY=1]
same: $(READY)
	$(VENV)/bin/python tests/same $(or $(BASE),$(error make same BASE=COMMIT)) $(if $(ONLY),--only "$(ONLY)") $(if $(RAY),--ray)

# What the documentation and the packages are built with.
$(VENV)/.tools: $(READY)
	$(VENV)/bin/pip install --quiet --no-compile --constraint constraints.txt --editable ".[docs]" build
	touch $@

docs: $(VENV)/.tools
	$(VENV)/bin/mkdocs build --strict

# Wheel and sdist, each installed and used outside the checkout.
package: $(VENV)/.tools
	rm -rf dist
	$(VENV)/bin/python -m build --quiet
	PYTHON=$(PYTHON) tests/package.sh dist/*.whl
	PYTHON=$(PYTHON) tests/package.sh dist/*.tar.gz

# The wheel, which is built from the sdist, used outside the checkout with the dependencies that are installed already.
wheel: $(VENV)/.tools
	rm -rf dist
	$(VENV)/bin/python -m build --quiet
	tests/package.sh dist/*.whl $(VENV)

# The oldest permitted versions of what the method itself uses.
lowest:
	tests/lowest.sh $(PYTHON)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs
