# Everything is built in .venv; `make .venv` alone does just that.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What `make bench` sets Semivox beside; never in the project's own environment.
PEERS := .peers
# One thread a process keeps the two test processes from fighting over the cores.
TEST_WORKERS ?= 2

.PHONY: demo test lint bench peers regression docs clean

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

peers: $(PEERS)/.installed

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

$(PEERS)/.installed: benchmarks/peers.txt benchmarks/peers_alone.txt constraints.txt
	$(PYTHON) -m venv --clear $(PEERS)
	$(PEERS)/bin/python -m pip install -q -c constraints.txt -r benchmarks/peers.txt
	$(PEERS)/bin/python -m pip install -q --no-deps -r benchmarks/peers_alone.txt
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) demo build dist site
