# `make demo` and `make test` need nothing but Python 3.10 or newer: the rest goes into .venv.
PYTHON ?= python3
BIN = .venv/bin
# A file's tests share one process, and so its trained models and conversions.
PYTEST = $(BIN)/pytest -n 2 --dist loadfile

.PHONY: demo test test-all lint

demo: .venv/demo
	$(BIN)/gpt-tf2 demo

# Minutes: everything on TensorFlow; the network, training and generation on JAX as well.
test: .venv/test
	$(PYTEST) -m "not slow"
	KERAS_BACKEND=jax $(PYTEST) -m "not slow" tests/test_model.py tests/training tests/decoding tests/generation

# Everything on both, the 124M shapes and the long tests included.
test-all: .venv/test
	$(PYTEST)
	KERAS_BACKEND=jax $(PYTEST)

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
