# On a fresh machine with python3 (>= 3.11), python3-venv and make, every target sets itself up. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
READY_DEV := $(VENV)/.ready-dev

.PHONY: help train test test-long check format bench peers docs clean clean-cache

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "fastmnist needs Python 3.11 or newer: apt-get install python3 (or set PYTHON=...)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "Python's venv module is missing: apt-get install python3-venv" >&2; exit 1; }
	@echo "Setting up $(VENV) ..."
	@rm -rf $(VENV)
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[test]'
	@touch $@

$(READY_DEV): $(READY)
	@$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

train: $(READY) ## train the default network on MNIST and print its report
	@$(BIN)/fastmnist train mlp

test: $(READY) ## run the tests (some minutes), slowest listed
	@$(BIN)/python -m pytest -m "not long and not gpu"

test-long: $(READY) ## run the long forms of the tests
	@$(BIN)/python -m pytest -m long

check: $(READY_DEV) ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(READY_DEV) ## let ruff fix and format
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format .

bench: $(READY) ## time the kernels and the models
	@$(BIN)/python -m pytest bench --benchmark-only -m "not gpu"

peers: $(READY) ## time epochs against PyTorch and scikit-learn (installs PyTorch into .venv-peers)
	@test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	@.venv-peers/bin/pip install --quiet --disable-pip-version-check torch==2.13.0 -e .
	@$(BIN)/python bench/peers/compare.py --python .venv-peers/bin/python

docs: $(READY_DEV) ## API reference from the docstrings, in docs/api
	@$(BIN)/python -m pdoc --docformat numpy --output-directory docs/api fastmnist
	@echo "docs/api/index.html"

clean-cache: ## remove the compiled kernels
	@rm -rf "$${FASTMNIST_CACHE_DIR:-$${XDG_CACHE_HOME:-$$HOME/.cache}/fastmnist}"

clean: ## remove the virtual environments and what was built
	@rm -rf $(VENV) .venv-peers build dist docs/api *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
