# make demo: set up and run the main job.   make test: set up and pass the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pyqlib, which the benchmarks compare with, brings sixty packages of its own.
BENCH := .venv-bench

.PHONY: demo test check lint fast bench bench-full clean storm fuzz pythons lowest

# Each stamp is redone when what is installed may have changed.
$(VENV)/pip:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

$(VENV)/run: $(VENV)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[all]'
	@touch $@

$(VENV)/dev: $(VENV)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	@touch $@ $(VENV)/run

$(VENV)/fuzz: $(VENV)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[fuzz]'
	@touch $@ $(VENV)/dev $(VENV)/run

$(BENCH)/bench: pyproject.toml
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --upgrade pip
	$(BENCH)/bin/python -m pip install --quiet -e '.[bench]'
	@touch $@

demo: $(VENV)/run
	@test -d demo/market || $(BIN)/rollforge data demo demo/market
	$(BIN)/rollforge run examples/rolling_lightgbm.yaml --output demo

test: $(VENV)/dev
	$(BIN)/python -m pytest

lint: $(VENV)/dev
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy

fast: $(VENV)/dev
	$(BIN)/python -m pytest -m "not slow" -q

check: lint fast

# The fast tests on every other Python that is found, from 3.11 on, and with the lowest versions that are allowed.
pythons: $(VENV)/dev
	$(BIN)/python tests/pythons.py

lowest: $(VENV)/dev
	$(BIN)/python tests/pythons.py --only lowest

# The kill storm, large: 2,000 tasks, 8 workers, everything killed; and 64 processes on one file for a minute.
storm: $(VENV)/dev
	$(BIN)/python tests/storm.py --store sqlite
	$(BIN)/python tests/storm.py --store postgres
	$(BIN)/python tests/storm.py --store mongodb --tasks 500
	ROLLFORGE_CROWD=64,60 $(BIN)/python -m pytest -q tests/store/test_breaking.py -k "many_processes"

# Every reader of outside input, with broken input for so many seconds each: make fuzz SECONDS=300 TARGETS="yaml csv"
SECONDS ?= 10
fuzz: $(VENV)/fuzz
	$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS) $(TARGETS)

# All benchmarks, small; fails where a ratio falls below half of the recorded one.
bench: $(BENCH)/bench
	$(BENCH)/bin/python -m benchmarks --small --check benchmarks/recorded-small.json

# As in benchmarks/README.md: half an hour, and the S&P table named by ROLLFORGE_SHARED.
bench-full: $(BENCH)/bench
	$(BENCH)/bin/python -m benchmarks --output benchmarks/full.jsonl --check benchmarks/recorded.json

clean:
	rm -rf $(VENV) $(VENV)-* $(BENCH) demo build dist .pytest_cache .mypy_cache .ruff_cache
