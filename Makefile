# `make demo` and `make test` need nothing but Python 3.10 or newer: the rest goes into .venv.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test lint

demo: .venv/demo
	$(BIN)/gpt-tf2 demo

# The network, training and generation are tested on both backends.
test: .venv/test
	$(BIN)/pytest -n 2
	KERAS_BACKEND=jax $(BIN)/pytest -n 2 tests/test_model.py tests/training tests/data/test_packing.py tests/generation \
		tests/decoding/test_decoders.py

lint: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/demo: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/test: .venv/demo
	$(BIN)/pip install --quiet --editable '.[test,dev]'
	touch $@
