# `make` prints the targets. Every target works on a fresh machine with Python 3.11+ and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The tests mostly wait, so two files at a time take little more than half the time. Those of unit/, which do not, come last.
PARALLEL := --numprocesses 2 --dist loadfile --no-loadscope-reorder
# Without it every start of a node would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup run test unit check format bench chaos lock clean

help:  ## print the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' Makefile

setup: $(VENV)/.installed  ## make .venv with everything that the project needs

# --no-deps: the lock is complete. Resolving it would fail: pip 23.0, which Python 3.11 brings, refuses a lock with hashes as
# soon as a newer release exists of a package that is required with an extra (pip #9644). `pip check` finds missing packages.
$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Roomcast needs Python 3.11 or newer; name one with: make PYTHON=python3.13 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m pip check --disable-pip-version-check
	@touch $@

run: setup  ## run two nodes, a balancer, an embedded Redis and the metrics worker, until Ctrl-C
	@$(BIN)/roomcast dev

test: setup check  ## run every test, and the checks of `make check`
	@$(BIN)/python -m pytest $(PARALLEL)

unit: setup  ## run the tests that need no socket and no Redis
	@$(BIN)/python -m pytest -q tests/unit

check: setup  ## run the linter, the format check, the type checker and the check of the words
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/python -m tests.english

format: setup  ## format the code
	@$(BIN)/ruff check --quiet --fix .
	@$(BIN)/ruff format --quiet .

bench: setup  ## measure Roomcast beside other installed servers (25 minutes; BENCH=--quick: 5)
	@$(BIN)/python -m tests.bench $(BENCH)

chaos: setup  ## break nodes, Redis and clients at random, 10 minutes on each shape of Redis (CHAOS="--seed 1")
	@for shape in single address sentinel cluster; do \
	  $(BIN)/python -m tests.chaos --seconds 600 --shape $$shape $(CHAOS) || exit 1; \
	done
	@$(BIN)/python -m tests.chaos --seconds 120 --shape address $(CHAOS) --only failover \
	  --only "Redis restarted with older data" --only "clients changed their network"

lock: setup  ## update the locks of development, image and its build; with hashes, for every platform
	@compile="$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate \
	    --no-emit-index-url --no-emit-find-links"; \
	  $$compile --extra dev --group test pyproject.toml -o requirements.lock && \
	  $$compile --constraint requirements.lock pyproject.toml -o deploy/requirements.lock && \
	  echo hatchling | $$compile --constraint requirements.lock - -o deploy/build.lock

clean:  ## remove the files of the other targets
	@rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage dist
