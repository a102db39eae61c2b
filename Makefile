# Everything runs in a virtual environment inside the clone. It is built on first use, and again when a requirement changes.
PYTHON ?= python3
VENV ?= .venv
# The address of an index that offers other builds of torch, for example CPU-only ones. They win over the standard build
# of the same version, as a local version (+cpu) sorts after it.
TORCH_INDEX ?=
# One process per core, four at most: each of them loads torch.
PYTEST_ARGS ?= -n auto --maxprocesses 4

PY := $(VENV)/bin/python
STAMP := $(VENV)/.sb3_ldm_installed
LINT_PATHS := sb3_ldm tests setup.py docs $(wildcard benchmarks)
TYPE_PATHS := sb3_ldm tests $(wildcard benchmarks)

# Keep matplotlib's cache in the clone too
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib

.DEFAULT_GOAL := help
.PHONY: help venv quickstart test pytest mutants slow-tests type lint format check-codestyle commit-checks docs clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

quickstart: $(STAMP)  ## train and evaluate a small agent, draw the figures
	$(PY) -m sb3_ldm.quickstart

test: check-codestyle type pytest  ## code style, types and the fast tests

pytest: $(STAMP)  ## the fast tests (PYTEST_ARGS= for one process)
	$(PY) -m pytest $(PYTEST_ARGS)

mutants: $(STAMP)  ## put faults into the core one by one and see whether the tests notice (an hour)
	$(PY) tests/mutants.py

slow-tests: $(STAMP)  ## the tests that train agents for minutes
	$(PY) -m pytest -m slow $(PYTEST_ARGS)

type: $(STAMP)  ## mypy
	$(PY) -m mypy $(TYPE_PATHS)

lint: $(STAMP)  ## ruff check
	$(PY) -m ruff check $(LINT_PATHS)

format: $(STAMP)  ## sort the imports, reformat
	$(PY) -m ruff check --select I $(LINT_PATHS) --fix
	$(PY) -m ruff format $(LINT_PATHS)

check-codestyle: $(STAMP)  ## ruff check, ruff format --check
	$(PY) -m ruff check $(LINT_PATHS)
	$(PY) -m ruff format --check $(LINT_PATHS)

docs: $(STAMP)  ## the pages and the API reference as a site (in site/); links that lead nowhere are errors
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

commit-checks: format type lint  ## format, then check types and style

venv: $(STAMP)  ## only build the virtual environment

# An environment that already exists is kept. Where ensurepip is missing, as on a bare Debian, pip comes from outside.
$(STAMP): setup.cfg setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "sb3_ldm needs Python 3.10 or newer")'
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV) || \
		{ $(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(PY) install pip; }
	$(PY) -m pip install -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) torch
	$(PY) -m pip install -c constraints.txt -e ".[tests]"
	@touch $@

clean:  ## remove the environment, the caches and what was built
	rm -rf $(VENV) .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist site *.egg-info
	find sb3_ldm tests -name __pycache__ -type d -prune -exec rm -rf {} +
