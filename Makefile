# 'make help' lists the targets. Those that need an environment make it, and bring it up to date, first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# pyqlib, which the benchmarks compare with, brings sixty packages of its own.
BENCH := .venv-bench

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint fast coverage changelog bench bench-full clean storm fuzz mutants pythons lowest tables

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

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

$(VENV)/mutants: $(VENV)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[mutants]'
	@touch $@ $(VENV)/dev $(VENV)/run

$(BENCH)/bench: pyproject.toml
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --upgrade pip
	$(BENCH)/bin/python -m pip install --quiet -e '.[bench]'
	@touch $@

setup: $(VENV)/dev ## Make .venv with everything that development needs

demo: $(VENV)/run ## Make a demo market, train a rolling LightGBM experiment, write demo/report.html
	@test -d demo/market || $(BIN)/rollforge data demo demo/market
	$(BIN)/rollforge run examples/rolling_lightgbm.yaml --output demo

# Pytest processes side by side; each starts the servers that its tests need. Half of the time tests wait, for processes and
# for leases that expire, so there is one process more than the two cores of a small machine. The tests start hundreds of
# Python processes: where Python is told to write no bytecode, each of them would compile the whole package.
JOBS ?= 3
SIDE_BY_SIDE := -n $(JOBS) --dist worksteal
test: $(VENV)/dev ## Run all tests, JOBS=3 at a time
	@$(BIN)/python -m compileall -q src
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

lint: $(VENV)/dev ## Check format, style, types and changelog fragments
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/towncrier build --draft --version next >/dev/null

fast: $(VENV)/dev ## Run all tests but the slow ones
	@$(BIN)/python -m compileall -q src
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "not slow" -q

check: lint fast ## Lint and the fast tests: what a pull request has to pass

# One place for the data, wherever the processes that the tests start run.
coverage: export COVERAGE_FILE = $(CURDIR)/.coverage
coverage: $(VENV)/dev ## Measure branch coverage of the fast tests; fails where a room is below its floor
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -m "not slow" -q
	$(BIN)/coverage combine --quiet
	$(BIN)/python tests/coverage_by_room.py

changelog: $(VENV)/dev ## Print the next section of the changelog
	@$(BIN)/towncrier build --draft --version next 2>/dev/null

tables: $(VENV)/dev ## Write the tables that follow from the code: public names of models, docs/compat.md
	$(BIN)/python tests/tables.py

pythons: $(VENV)/dev ## Run the fast tests on every other Python that is found, and with the lowest dependencies
	$(BIN)/python tests/pythons.py

lowest: $(VENV)/dev ## Run the fast tests with the lowest versions of the dependencies that are allowed
	$(BIN)/python tests/pythons.py --only lowest

# The kill storm, large: 2,000 tasks, 8 workers, everything killed; and 64 processes on one file for a minute.
storm: $(VENV)/dev ## Kill workers and servers while thousands of tasks run
	$(BIN)/python tests/storm.py --store sqlite
	$(BIN)/python tests/storm.py --store postgres
	$(BIN)/python tests/storm.py --store mongodb --tasks 500
	ROLLFORGE_CROWD=64,60 $(BIN)/python -m pytest -q tests/store/test_breaking.py -k "many_processes"

# Every reader of outside input, with broken input for so many seconds each: make fuzz SECONDS=300 TARGETS="yaml csv";
# or with a number of inputs, the same ones every time: make fuzz RUNS=100
SECONDS ?= 10
fuzz: $(VENV)/fuzz ## Give broken input to every reader of outside input: SECONDS=300 TARGETS="yaml csv"
	$(BIN)/python tests/fuzz/run.py $(if $(RUNS),--runs $(RUNS),--seconds $(SECONDS)) $(TARGETS)

# Whether the tests of a room notice small changes of its code: make mutants SAMPLE=300 ROOM="generate store" SEED=1
SAMPLE ?= 100
SEED ?= 0
mutants: $(VENV)/mutants ## Change the code in small ways and see whether tests fail: SAMPLE=100 ROOM=generate
	$(BIN)/python tests/mutants.py --sample $(SAMPLE) --seed $(SEED) $(addprefix --room ,$(ROOM)) $(addprefix --file ,$(FILES))

# All benchmarks, small; fails where a ratio falls below half of the recorded one.
bench: $(BENCH)/bench ## Run the small benchmarks; fails where a ratio falls below half of the recorded one
	$(BENCH)/bin/python -m benchmarks --small --check benchmarks/recorded-small.json

# As in benchmarks/README.md: half an hour, and the S&P table named by ROLLFORGE_SHARED.
bench-full: $(BENCH)/bench ## Run all benchmarks, which takes half an hour
	$(BENCH)/bin/python -m benchmarks --output benchmarks/full.jsonl --check benchmarks/recorded.json

clean: ## Remove environments, caches and what the demo made
	rm -rf $(VENV) $(VENV)-* $(BENCH) demo build dist .pytest_cache .mypy_cache .ruff_cache .coverage*
