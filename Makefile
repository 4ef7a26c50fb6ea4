# Two commands do everything: `make demo` and `make test`. Both set up $(VENV) on their own.

PYTHON ?= python3
VENV ?= .venv
RUN ?= runs/demo
WORKERS ?= 2
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# Files of tests side by side, a thread each.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile

# Tests whose results are computed: what another instruction set may change.
COMPUTING := tests/program tests/simulate tests/numerics tests/sensitivity tests/losses tests/recovery \
	tests/runtimes tests/export tests/verify tests/plan tests/graph/test_light_models.py \
	tests/acceptance/test_search.py tests/acceptance/test_sweeps.py

.PHONY: help demo test lint types pytest narrow slow clean

help:
	@echo "make demo   search a mixed-precision plan for a real model and show the result"
	@echo "make test   run all checks: lint, types, tests"
	@echo "make narrow run the tests that compute again: AVX2 instructions at most"
	@echo "make slow   run the tests that take longer than CI should wait for"

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable '.[demo]'
	@touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(INSTALL) --editable '.[dev]'
	@touch $@ $(VENV)/demo.stamp

demo: $(VENV)/demo.stamp
	$(BIN)/mpsearch demo -o $(RUN)

test: lint types pytest

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	$(BIN)/mypy

pytest: $(VENV)/dev.stamp
	$(PYTEST)

narrow: $(VENV)/dev.stamp
	ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST) $(COMPUTING)

slow: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -m slow

clean:
	rm -rf $(VENV) runs .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
