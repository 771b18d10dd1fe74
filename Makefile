# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SOURCES := src tests benchmarks main.py main_web.py main_food101n.py

RULES := tests/test_house.py tests/core tests/methods/test_acto.py tests/methods/test_losses.py \
	tests/methods/test_mixing.py tests/methods/test_selection.py tests/training/test_history.py \
	tests/training/test_plans.py tests/labels/test_audit.py tests/data/test_noise.py

.PHONY: help setup demo quick test soak check format wheel clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    set up, then watch ACTO beat plain training on wrong labels (about 3 minutes of training)"
	@echo "make test    set up, then run every check: style, types, tests, the wheel in a clean environment"
	@echo "make quick   style, types, the rules of the house and of ACTO: under a minute, for every change"
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
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

soak: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/soak.py --rounds 10 --markdown docs/reliability.md
	ACTO_SOAK=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 tests/bad_data tests/test_no_foreign_code.py

clean:
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache
