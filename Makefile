# Everything is built in .venv; `make .venv` alone does just that.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# One thread a process keeps the two test processes from fighting over the cores.
TEST_WORKERS ?= 2

.PHONY: demo test lint bench regression docs clean

demo: $(VENV)/.installed
	$(BIN)/semivox demo --out demo

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal -m "not regression"

lint: $(VENV)/.installed
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks

regression: $(VENV)/.installed
	$(BIN)/python -m pytest -m regression

docs: $(VENV)/.installed
	$(BIN)/pip install -q -c constraints.txt -e ".[docs]"
	$(BIN)/mkdocs build --strict

.venv: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev,fast,sam]"
	-$(BIN)/python -m pip install -q -c constraints.txt -e ".[oracles]"  # MedPy, against which scores are tested; it does not build everywhere
	touch $@

clean:
	rm -rf $(VENV) demo build dist site
