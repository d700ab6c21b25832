# make demo: set up and run the main job.   make test: set up and pass the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check lint fast bench clean

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

bench: $(VENV)/bench
	$(BIN)/python -m benchmarks --small

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache
