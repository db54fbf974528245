# `make demo` and `make test` need nothing but Python 3.10 or newer: the rest goes into .venv.
PYTHON ?= python3
BIN = .venv/bin
# A file's tests share one process, and so its trained models and conversions.
PYTEST = $(BIN)/pytest -n 2 --dist loadfile
# What these test does not depend on the backend, or they choose it themselves: TensorFlow alone runs them, like the tests
# marked `skip_on_jax`. Never put here what computes with the network or loads a checkpoint into it.
SAME_ON_BOTH = tests/backend/test_choice.py tests/backend/test_jax.py \
	tests/checkpoints/test_download.py tests/checkpoints/test_openai.py \
	tests/commands/test_download.py tests/commands/test_evaluation_output.py tests/commands/test_models.py \
	tests/commands/test_parsing.py tests/commands/test_show_data.py \
	tests/data/test_prepared.py tests/data/test_too_long.py \
	tests/docs tests/scoring tests/serving/test_page.py tests/serving/test_watch_page.py tests/storage tests/tasks \
	tests/test_cli.py tests/test_notebook.py tests/test_packaging.py tests/test_tokenizer.py tests/watching

.PHONY: demo test test-all lint docs notebooks

demo: .venv/demo
	$(BIN)/gpt-tf2 demo

# Minutes: everything on TensorFlow; the network, training and generation on JAX as well.
test: .venv/test
	$(PYTEST) -m "not slow"
	KERAS_BACKEND=jax $(PYTEST) -m "not slow" tests/test_model.py tests/training tests/decoding tests/generation

# Everything, the 124M shapes and the long tests included, on both where they may differ, and the site of the
# documentation.
test-all: .venv/test .venv/log .venv/browser docs
	$(PYTEST)
	KERAS_BACKEND=jax $(PYTEST) $(SAME_ON_BOTH:%=--ignore=%)

# The site, in site/; a dead link or anchor is an error.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# notebooks/start.ipynb from its script; cells that are the same keep their ids.
notebooks: .venv/test
	$(BIN)/jupytext --quiet --update --to ipynb notebooks/start.py

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
	$(BIN)/pip install --quiet --editable '.[test,dev,notebook]'
	touch $@

# 200 MB, for the tests of --log_to.
.venv/log: .venv/demo
	$(BIN)/pip install --quiet --editable '.[log]'
	touch $@

# 50 MB, for the tests of the page of `gpt-tf2 serve`, which need a chromium of the system as well.
.venv/browser: .venv/demo
	$(BIN)/pip install --quiet --editable '.[browser]'
	touch $@

.venv/docs: .venv/demo
	$(BIN)/pip install --quiet --editable '.[docs]'
	touch $@
