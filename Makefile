# 'make help' lists the targets. Targets that need an environment first create or update it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# The benchmarks compare with pyqlib, which has sixty dependencies, so they have their own environment.
BENCH := .venv-bench
# What builds the documentation needs nothing of Rollforge, whose source it only reads.
DOCS := .venv-docs

.DEFAULT_GOAL := help
.PHONY: help setup demo test slow check lint coverage changelog bench bench-full clean storm fuzz mutants pythons lowest tables splits signals frames engines docs site

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

# A stamp file is renewed when the dependencies may have changed.
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

$(VENV)/splits: $(VENV)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[splits]'
	@touch $@ $(VENV)/dev $(VENV)/run

$(VENV)/signals: $(VENV)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[signals]'
	@touch $@ $(VENV)/dev $(VENV)/run

$(VENV)/frames: $(VENV)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[frames]'
	@touch $@ $(VENV)/dev $(VENV)/run

# PyTorch's tests run where it is installed. The pinned version is a build for the CPU where these tests run.
$(VENV)/torch: $(VENV)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[dev,torch]' 'torch==2.13.0'
	@touch $@ $(VENV)/dev $(VENV)/run

$(VENV)/engines: $(VENV)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[engines]'
	@touch $@ $(VENV)/dev $(VENV)/run

$(VENV)/mutants: $(VENV)/pip pyproject.toml
	$(BIN)/python -m pip install --quiet -e '.[mutants]'
	@touch $@ $(VENV)/dev $(VENV)/run

$(BENCH)/bench: pyproject.toml
	$(PYTHON) -m venv $(BENCH)
	$(BENCH)/bin/python -m pip install --quiet --upgrade pip
	$(BENCH)/bin/python -m pip install --quiet -e '.[bench]'
	@touch $@

$(DOCS)/docs: pyproject.toml
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -m pip install --quiet --upgrade pip
	$(DOCS)/bin/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['docs'], sep='\n')" >$(DOCS)/requirements
	$(DOCS)/bin/python -m pip install --quiet -r $(DOCS)/requirements
	@touch $@

setup: $(VENV)/dev ## Create .venv with all development dependencies

demo: $(VENV)/run ## Create a demo market, train a rolling LightGBM experiment, write demo/report.html
	@test -d demo/market || $(BIN)/rollforge data demo demo/market
	$(BIN)/rollforge run examples/rolling_lightgbm.yaml --output demo

# Parallel pytest processes; each starts the servers that its tests need. Tests spend half of their time waiting for
# processes and expiring leases, so there is one process more than the two cores of a small machine. The tests start
# hundreds of Python processes: bytecode is compiled first, and what pytest makes of the tests is kept, also if the
# environment says otherwise. Without it, collecting the tests takes 40 s instead of 15.
unexport PYTHONDONTWRITEBYTECODE
JOBS ?= 3
PARALLEL := -n $(JOBS) --dist worksteal
test: $(VENV)/dev ## Run all tests except the slow ones, JOBS=3 at a time
	@$(BIN)/python -m compileall -q src
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow"

slow: $(VENV)/dev ## Run the slow tests: complete jobs, killed processes and servers, many processes
	@$(BIN)/python -m compileall -q src
	$(BIN)/python -m pytest $(PARALLEL) -m slow

lint: $(VENV)/dev ## Check format, style, types and changelog fragments
	$(BIN)/ruff format --check src tests benchmarks docs/gallery
	$(BIN)/ruff check src tests benchmarks docs/gallery
	$(BIN)/mypy
	$(BIN)/towncrier build --draft --version next >/dev/null

check: lint test ## Run lint and the tests, which a pull request has to pass

# The data file has an absolute path, because the tests start processes in other folders.
coverage: export COVERAGE_FILE = $(CURDIR)/.coverage
coverage: $(VENV)/dev ## Measure branch coverage of the fast tests; fails if a room is below its minimum
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -m "not slow" -q
	$(BIN)/coverage combine --quiet
	$(BIN)/python tests/coverage_by_room.py

changelog: $(VENV)/dev ## Print the next section of the changelog
	@$(BIN)/towncrier build --draft --version next 2>/dev/null

tables: $(VENV)/dev ## Generate files from the code: the public names of models, docs/api, docs/compat.md, the schema of workflows
	$(BIN)/python tests/tables.py

# The code of the pages runs in the tests; 'make site' builds the pages without it.
EXAMPLES := tests/test_documents.py tests/test_extending.py tests/test_gallery.py tests/test_site.py tests/cli/test_online_page.py
docs: $(VENV)/dev ## Run the code of all pages, and build the documentation in site/
	$(BIN)/python -m pytest $(PARALLEL) -q $(EXAMPLES)
	@$(MAKE) --no-print-directory site

site: $(DOCS)/docs ## Build the documentation in site/; a dead link or anchor, or a request to another host, is an error
	$(DOCS)/bin/python tests/site_pages.py build/site-pages
	$(DOCS)/bin/zensical build --strict --clean
	$(DOCS)/bin/python tests/site_check.py site

pythons: $(VENV)/dev ## Run the fast tests on every other installed Python, and with the lowest versions of the dependencies
	$(BIN)/python tests/pythons.py

lowest: $(VENV)/dev ## Run the fast tests with the lowest supported versions of the dependencies
	$(BIN)/python tests/pythons.py --only lowest

# The stress tests at full size: 2,000 tasks and 8 workers; 64 processes that share one file for a minute; online serving
# for 20 days with 200 kills and for 250 days undisturbed, by each trainer, with the S&P table in ROLLFORGE_SHARED.
storm: $(VENV)/dev ## Kill workers and servers while thousands of tasks run, and routines of online services
	$(BIN)/python tests/storm.py --store sqlite
	$(BIN)/python tests/storm.py --store postgres
	$(BIN)/python tests/storm.py --store mongodb --tasks 500
	ROLLFORGE_CROWD=64,60 $(BIN)/python -m pytest -q tests/store/test_breaking.py -k "many_processes"
	$(BIN)/python tests/storm_engine.py --engine dask
	$(BIN)/python tests/storm_engine.py --engine ray
	$(BIN)/python tests/storm_engine.py --engine slurm --pause 3
	$(BIN)/python tests/storm_online.py
	$(BIN)/python tests/storm_online.py --case kills --store postgres --tracker mlflow

splits: $(VENV)/splits ## Compare the splits of cross-validation with those of skfolio and purgedcv
	$(BIN)/python -m pytest -q tests/generate/test_other_splitters.py

signals: $(VENV)/signals ## Compare figures about signals with those of alphalens and empyrical
	$(BIN)/python -m pytest -q tests/record/test_persistence.py

frames: $(VENV)/frames ## Test walk_forward with CatBoost, Polars and a Jupyter notebook
	$(BIN)/python -m pytest -q tests/test_walk_forward.py tests/test_frame_fuzz.py

engines: $(VENV)/engines ## Test Ray, Dask and, where it is installed, a real Slurm
	$(BIN)/python -m pytest $(PARALLEL) tests/engine

# Every reader of external input gets invalid input for some seconds: make fuzz SECONDS=300 TARGETS="yaml csv"
# or a number of inputs, which are the same each time: make fuzz RUNS=100
SECONDS ?= 10
fuzz: $(VENV)/fuzz ## Give invalid input to every reader of external input: SECONDS=300 TARGETS="yaml csv"
	$(BIN)/python tests/fuzz/run.py $(if $(RUNS),--runs $(RUNS),--seconds $(SECONDS)) $(TARGETS)

# Check that the tests of a room detect small changes of its code: make mutants SAMPLE=300 ROOM="generate store" SEED=1
SAMPLE ?= 100
SEED ?= 0
mutants: $(VENV)/mutants ## Change the code in small ways and check that tests fail: SAMPLE=100 ROOM=generate
	$(BIN)/python tests/mutants.py --sample $(SAMPLE) --seed $(SEED) $(addprefix --room ,$(ROOM)) $(addprefix --file ,$(FILES))

bench: $(BENCH)/bench ## Run the small benchmarks; fails if a ratio is below half of the recorded one
	$(BENCH)/bin/python -m benchmarks --small --check benchmarks/recorded-small.json

# The sizes of benchmarks/README.md, with the S&P table in ROLLFORGE_SHARED.
bench-full: $(BENCH)/bench ## Run all benchmarks, which takes half an hour
	$(BENCH)/bin/python -m benchmarks --output benchmarks/full.jsonl --check benchmarks/recorded.json

clean: ## Remove environments, caches and the output of the demo
	rm -rf $(VENV) $(VENV)-* $(BENCH) $(DOCS) demo site build dist .pytest_cache .mypy_cache .ruff_cache .coverage*
