# `make demo` and `make test` set up what they need, once, in .venv.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
ORACLE := .oracle/trl-1.12.0

.PHONY: setup demo test test-rest check bench bench-labels oracle clean

setup: $(READY)

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(READY)
	$(BIN)/rlhf demo

test: $(READY) oracle
	$(BIN)/pytest -n 2 --dist loadfile

# what `test` leaves out, but for the tests that need an accelerator
test-rest: $(READY) oracle
	$(BIN)/pytest -m '(slow or faults or browser) and not gpu'

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

bench: $(READY) oracle
	$(BIN)/python -m benchmarks.ppo

# the ranking app under load: 50 annotators, three kill -9 (docs/labeling-load.md)
bench-labels: $(READY)
	$(BIN)/python -m benchmarks.labels

# TRL 1.12.0, the last release with PPO: the parity tests run it in a process of its own
oracle: $(ORACLE)
$(ORACLE): $(READY)
	$(BIN)/pip install --quiet --no-deps --target .oracle trl==1.12.0
	touch $@

clean:
	rm -rf $(VENV) .oracle build dist *.egg-info
