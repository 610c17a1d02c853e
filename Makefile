# `make demo` and `make test` do all the set-up; nothing else is needed on a fresh clone.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
READY := $(VENV)/.installed

.PHONY: demo test chaos lint clean

demo: $(READY)
	$(VENV)/bin/ndsm train digits

test: $(READY)
	$(VENV)/bin/python -m pytest

chaos: $(READY)
	$(VENV)/bin/python -m pytest -m chaos -s tests/chaos

lint: $(READY)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs
