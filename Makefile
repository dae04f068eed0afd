# Plain words for what one does here. Needs Python 3.11 or later and make; everything else goes into .venv.
#
#   make PYTHON=python3.13 test      with another Python than `python3`

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
COMPILED := $(VENV)/.compiled

SEEDS  ?= 2000
KILLS  ?= 1000
CHAOS_S ?= 600
CALLS_S ?= 300
PUBSUB_S ?= 300
DEVICES_S ?= 120
# Tests at a time. Many wait for processes, so twice as many as there are cores keep these busy.
JOBS   ?= 4

# The tests start hundreds of programs: where nothing compiled is kept, each spends a second on compiling zmqkit again.
unexport PYTHONDONTWRITEBYTECODE

TESTS := $(wildcard tests/*.py tests/*/*.py tests/*/*/*.py)

# Folders of programs rather than modules; each once it holds one.
PROGRAMS := $(sort $(dir $(wildcard examples/*.py benchmarks/*.py)))

.DEFAULT_GOAL := help
.PHONY: help demo demo-devices test fast lint format types pytest bench simulate chaos mutants clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(READY) ## run the main job: a text-mining pipeline in which worker, sender and sink are killed midway
	$(BIN)/zmqkit demo

demo-devices: $(READY) ## a queue and a forwarder between two networks, killed and started again
	$(BIN)/python -m zmqkit.demo.devices

test: $(READY) ## all checks: lint, types and every test
	@failed=; \
	$(MAKE) --no-print-directory --keep-going --jobs=2 lint types $(COMPILED) || failed=" lint or types"; \
	$(MAKE) --no-print-directory pytest || failed="$$failed pytest"; \
	if [ -n "$$failed" ]; then echo "failed:$$failed" >&2; exit 1; fi

fast: $(READY) ## the tests that take less than a second each
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -m "not slow"

lint: $(READY) ## ruff: mistakes and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY) ## let ruff put the formatting right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(READY) ## mypy, strict
	$(BIN)/mypy
	$(if $(PROGRAMS),$(BIN)/mypy $(PROGRAMS))

pytest: $(READY)
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal

# pytest compiles tests in its own way. New ones are compiled by one process beside mypy, or each of those that run them
# does it: that takes longer than most of them. What is wrong with them pytest says when it runs them.
$(COMPILED): $(READY) $(TESTS)
	@$(BIN)/python -m pytest --collect-only -qq >/dev/null 2>&1 || true
	@touch $@

bench: $(READY) ## the claims about speed, as ratios, with the peers in the same run
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,bench]' || \
	  echo "Not every peer could be installed; the benchmarks name those that are missing."
	$(BIN)/python -m benchmarks

simulate: $(READY) ## more of the simulated network: make simulate SEEDS=20000
	$(BIN)/python -m tests.simulation --seeds $(SEEDS)

chaos: $(READY) ## kill real processes at random, at length: make chaos KILLS=100 CHAOS_S=60 CALLS_S=600 SEED=7
	$(BIN)/python -m tests.chaos --kills $(KILLS) --seconds $(CHAOS_S) $(if $(SEED),--seed $(SEED))
	$(BIN)/python -m tests.chaos.calls --seconds $(CALLS_S) $(if $(SEED),--seed $(SEED))
	$(BIN)/python -m tests.chaos.pubsub --seconds $(PUBSUB_S) $(if $(SEED),--seed $(SEED))
	for count in 1 2; do \
	  $(BIN)/python -m tests.chaos.pubsub --forwarders $$count --seconds $(PUBSUB_S) $(if $(SEED),--seed $(SEED)) && \
	  $(BIN)/python -m tests.chaos --devices $$count --seconds $(DEVICES_S) $(if $(SEED),--seed $(SEED)) && \
	  $(BIN)/python -m tests.chaos.calls --devices $$count --seconds $(DEVICES_S) $(if $(SEED),--seed $(SEED)) || \
	  exit 1; done
	$(BIN)/python -m tests.crashpoints

mutants: $(READY) ## plant known bugs and see that the simulator catches each
	$(BIN)/python -m tests.simulation --mutants --seeds $(SEEDS)

clean: ## remove what these commands made, .venv included
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment is made once, and again when the requirements change. What is used of it compiles itself: a third of
# the time goes into compiling what never is.
$(READY): setup.cfg pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "There is no '$(PYTHON)' here. Install Python 3.11 or later, or name one: make PYTHON=/path/to/python ..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "zmqkit needs Python 3.11 or later; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "Setting up $(VENV): once, and again when the requirements change."
	@$(BIN)/python -c '' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --editable '.[dev]'
	@touch $@
