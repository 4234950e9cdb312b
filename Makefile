# What can be made here. `make` lists it. Needs Python 3.11 or later, and nothing else.

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python3.11)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# pyright asks the `python` on PATH what is installed; --pythonpath does not reach --verifytypes.
IN_VENV := PATH="$(abspath $(BIN)):$$PATH"
# The stamps: what is installed is made anew when one of these two files has changed, and only then.
RUNS := $(VENV)/.installed-to-run
TESTS := $(VENV)/.installed-to-test
LISTS := pyproject.toml constraints.txt

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help census test check bench bench-smoke constraints

help:
	@echo "make census       a census of the standard library; ARGS='--runner thread:4 --root DIR'"
	@echo "make test         the whole test suite; ARGS='-k name' for a part of it"
	@echo "make check        style, types, floors"
	@echo "make bench        all benchmarks;  make bench-smoke: do they run?"
	@echo "make constraints  write constraints.txt anew, with the newest versions"

census: $(RUNS)
	$(BIN)/penstock run examples/code_census.py $(ARGS)

# Three at once on two cores: what tests of workers and clusters do most is wait.
test: $(TESTS)
	$(BIN)/python -m pytest -n 3 --dist loadscope $(ARGS)

check: $(TESTS)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(IN_VENV) pyright
	$(BIN)/lint-imports
	$(IN_VENV) pyright --ignoreexternal --verifytypes penstock

bench: $(TESTS)
	$(BIN)/python -m pytest benchmarks $(ARGS)

# Each benchmark once, to see that it runs; the figures mean nothing.
bench-smoke: $(TESTS)
	$(BIN)/python -m pytest benchmarks --smoke $(ARGS)

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Penstock needs Python 3.11 or later; '$(PYTHON)' is not." >&2; \
	  echo "Say which one to use: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)

# To run needs less than to test: who only wants to see it work does not wait for type checkers.
$(RUNS): $(LISTS) | $(VENV)/pyvenv.cfg
	$(INSTALL) -e '.[dask]'
	@touch $@

$(TESTS): $(LISTS) | $(VENV)/pyvenv.cfg
	$(INSTALL) -e '.[dask,dev]'
	@touch $@ $(RUNS)

# Names and versions only. Made by the oldest Python that is supported, as it needs the most
# packages; what it lists must serve the newer ones, which `.ci/run` tries.
constraints:
	@set -e; fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	$(PYTHON) -m venv "$$fresh"; \
	"$$fresh/bin/python" -m pip install --quiet --disable-pip-version-check -e '.[dask,dev]'; \
	{ echo "# Every package of an installation that was tested: pip install -c constraints.txt ..."; \
	  echo "# Written by 'make constraints', for Python 3.11, 3.12 and 3.13."; \
	  "$$fresh/bin/python" -m pip freeze --exclude-editable; } > "$$fresh/constraints.txt"; \
	cp "$$fresh/constraints.txt" constraints.txt
