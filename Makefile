# Three commands do everything on a fresh machine: `make demo`, `make test`, and `make docs` for the site.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := src tests benchmarks docs/hooks.py main.py main_web.py main_food101n.py

RULES := tests/test_house.py tests/core tests/methods/test_acto.py tests/methods/test_losses.py \
	tests/methods/test_mixing.py tests/methods/test_selection.py tests/training/test_history.py \
	tests/training/test_plans.py tests/labels/test_audit.py tests/data/test_noise.py

LIGHT := tests/labels/test_audit.py tests/labels/test_belief.py tests/labels/test_consensus.py \
	tests/labels/test_scores_and_rules.py tests/run_folder/test_record.py

.PHONY: help setup demo quick test integrations docs lowest soak check format wheel clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    set up, then watch ACTO beat plain training on wrong labels (about 3 minutes of training)"
	@echo "make test    set up, then run every check: style, types, tests, the wheel in a clean environment"
	@echo "make quick   style, types, the rules of the house and of ACTO: under a minute, for every change"
	@echo "make docs    set up, run the notebooks, build the documentation site into build/site"
	@echo "make integrations  the tests with heavy optional packages: TensorBoard, W&B, MLflow, timm, ..."
	@echo "make lowest  try the lowest versions that pyproject.toml allows, of all that needs no torch"
	@echo "make soak    disturb runs and damage data in every way for a quarter of an hour, and count what is lost"
	@echo "make setup   only create $(VENV) with everything installed"
	@echo "make check   style and types; make format mends the style"

# The stamp is newer than pyproject.toml once the environment holds what that file asks for.
$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

setup: $(VENV)/.installed

demo: setup
	$(BIN)/acto demo
	@echo "acto lies in $(VENV); call it so: $(BIN)/acto train --data FOLDER, or after: source $(BIN)/activate"

check: setup
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy

format: setup
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

# Built, installed and imported away from the sources: a file that the wheel lacks is found here.
wheel: setup
	rm -rf build/wheel build/clean
	$(BIN)/python -m build --quiet --wheel --no-isolation --outdir build/wheel
	$(PYTHON) -m venv build/clean
	build/clean/bin/python -m pip install --quiet --no-deps build/wheel/*.whl
	cd build && clean/bin/python -I ../tests/check_wheel.py ../$(VENV)

quick: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 $(RULES)

test: check wheel
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not integration"

# An environment of its own: these packages are many, and what they bring is none of the other tests' business.
build/integrations/.installed: pyproject.toml
	$(PYTHON) -m venv build/integrations
	build/integrations/bin/python -m pip install --quiet --editable '.[dev,integrations]'
	touch $@

integrations: build/integrations/.installed
	OMP_NUM_THREADS=1 build/integrations/bin/python -m pytest -n 2 -m integration
	OMP_NUM_THREADS=1 build/integrations/bin/python -m pytest -m "not integration" tests/runs/test_loggers.py

$(VENV)/.docs: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

# The notebooks in docs/ have no results: copies are run, and the site shows those.
docs: $(VENV)/.docs
	rm -rf build/notebooks build/site
	mkdir -p build && cp -r docs/notebooks build/notebooks
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -p no:cacheprovider -o filterwarnings= --nbmake --overwrite build/notebooks
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet
	$(BIN)/python tests/check_site.py build/site

lowest: setup
	rm -rf build/lowest
	$(PYTHON) -m venv build/lowest
	$(BIN)/python tests/lowest_versions.py > build/lowest/versions.txt
	build/lowest/bin/python -m pip install --quiet --editable . --requirement build/lowest/versions.txt
	build/lowest/bin/python -m pytest $(LIGHT)

soak: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/soak.py --rounds 10 --markdown docs/reliability.md
	ACTO_SOAK=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/bad_data tests/test_no_foreign_code.py

clean:
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache
