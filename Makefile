# What a developer or a user of a checkout does. A fresh Debian needs python3 (>= 3.11), python3-venv and make; the rest comes from PyPI.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
PEERS := .venv-peers/.ready
EVERY_PEER := .venv-peers/.ready-every-peer
INSTALL := -m pip install --quiet --disable-pip-version-check
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help train test test-long check format bench bench-check peers tables ladder docs clean-cache clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

train: $(READY) ## Train the default network on MNIST and print how good it is (ARGS="--backend numpy" and so on)
	@$(PY) -m fastmnist train mlp $(ARGS)

test: $(DEV) ## The tests (ARGS="-k name" chooses)
	@$(PY) -m pytest -n 2 -m "not long and not gpu" $(ARGS)

test-long: $(DEV) ## The long tests alone
	@$(PY) -m pytest -m "long and not gpu" $(ARGS)

check: $(DEV) ## Lint, format and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy

format: $(DEV) ## Format the code and mend what ruff can mend
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

bench: $(READY) ## The benchmarks; beside torch and JAX if `make peers` has been run
	@$(if $(wildcard $(PEERS)),.venv-peers/bin/python,$(PY)) -m pytest bench --benchmark-only $(ARGS)

peers: $(EVERY_PEER) ## fastmnist beside torch, JAX, Keras, scikit-learn and others, some 50 minutes on two cores (ARGS="--budget MINUTES" bounds, "--resume" goes on, "--jobs NAME" chooses; .venv-peers is large)
	@code=0; .venv-peers/bin/python bench/peers/compare.py $(ARGS) || code=$$?; \
	.venv-peers/bin/python bench/peers/readme_tables.py && exit $$code

bench-check: $(READY) ## Is it slower than before? This tree beside an older commit, taking turns (ARGS="--base REVISION")
	@$(PY) bench/check.py $(ARGS)

tables: $(READY) ## README's tables of peers and of records, from the records in bench/results
	@$(PY) bench/peers/readme_tables.py $(ARGS)
	@$(PY) bench/time_to_accuracy.py --table

ladder: $(READY) ## The ladders of the matrix product and of convolutions, naive to shipped
	@$(PY) bench/ladder/gemm.py
	@$(PY) bench/ladder/convolution.py

# Named one by one: pdoc does not look below a package that names its public names, as fastmnist does.
DOCUMENTED := fastmnist $(addprefix fastmnist.,backends datasets estimators evaluation $(addprefix evaluation.,figures sweep video) images kernel_call kernels matrix_product network profiling threads training)

docs: $(DEV) ## API reference from the docstrings, into docs/api
	@rm -rf docs/api
	@$(PY) -W error::UserWarning -m pdoc --docformat numpy --math --output-directory docs/api $(DOCUMENTED)
	@echo "docs/api/index.html"

clean-cache: $(READY) ## Remove the compiled kernels from the user's cache folder
	@$(PY) -c "import shutil; from fastmnist.kernels.cpu.objects import cache_root; \
	folders = sorted(cache_root().glob('[0-9a-f]' * 20)); \
	[shutil.rmtree(folder) for folder in folders]; \
	print(f'{cache_root()}: {len(folders)} folder(s) of compiled kernels removed')"

clean: ## Remove everything that is made from the sources, .venv included
	@rm -rf $(VENV) .venv-peers build dist docs/api *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	@find fastmnist kernels tests bench examples -name __pycache__ -type d -prune -exec rm -rf {} +

# --- the environments -----------------------------------------------------------------------------------------------------------------

APT := Run: apt-get install --yes python3 python3-venv
# Empty when python3 can make an environment, else one line that says what is missing. $(error) then ends make with just that line.
python_problem = $(shell command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing. $(APT)"; exit; }; \
  $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
  { echo "Python 3.11 or later is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1 | cut -d " " -f 2). \
  $(APT) (Debian 12 or later), or name another one: make PYTHON=/path/to/python3.11"; exit; }; \
  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || echo "python3-venv is missing. $(APT)")

$(READY): extras = test
$(PEERS): extras = test,bench

# The stamp is there only while the environment is whole: one that was interrupted is made anew, one older than pyproject.toml is updated.
$(READY) $(PEERS): pyproject.toml
	$(if $(python_problem),$(error $(python_problem)))
	@test -e $@ && $(@D)/bin/python -c "" 2>/dev/null || \
	  { echo "Making $(@D) with $$($(PYTHON) --version)"; $(PYTHON) -m venv --clear $(@D); }
	@rm -f $@ $@-dev
	@echo "Installing fastmnist and what it needs into $(@D) (a minute or two, once)"
	@$(@D)/bin/python $(INSTALL) --config-settings editable_mode=compat --editable '.[$(extras)]'
	@touch $@

# These do not exist for every machine; where one is missing the table of peers says so.
$(EVERY_PEER): $(PEERS)
	@for packages in "keras>=3 tensorflow-cpu>=2.18" "scikit-learn-intelex>=2025"; do \
	  echo "Installing $$packages into $(@D)"; \
	  $(@D)/bin/python $(INSTALL) $$packages || echo "$$packages: not for this machine, go on without"; \
	done
	@touch $@

$(DEV): $(READY)
	@echo "Installing what the tests and checks need into $(<D) (once)"
	@$(PY) $(INSTALL) --config-settings editable_mode=compat --editable '.[dev]'
	@touch $@
