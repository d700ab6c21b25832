# make demo: set up and run the main job.   make test: set up and pass the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check lint fast bench clean storm

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

$(VENV)/bench: $(VENV)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[dev,bench]'
	@touch $@ $(VENV)/run $(VENV)/dev

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

# The kill storm, large: 2,000 tasks, 8 workers, everything killed; and 64 processes on one file for a minute.
storm: $(VENV)/dev
	$(BIN)/python tests/storm.py --store sqlite
	$(BIN)/python tests/storm.py --store postgres
	$(BIN)/python tests/storm.py --store mongodb --tasks 500
	ROLLFORGE_CROWD=64,60 $(BIN)/python -m pytest -q tests/store/test_breaking.py -k "many_processes"

bench: $(VENV)/bench
	$(BIN)/python -m benchmarks --small

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache
