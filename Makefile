# Everything runs in .venv, which any target makes on first use. Only Python >= 3.11 and make are
# needed. Options for a run: make train ARGS="method=rhg problem=counterexample"
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
ROW ?=
BIN := $(VENV)/bin
RUN := $(BIN)/python -m

.DEFAULT_GOAL := help
.PHONY: help setup train describe figures certify docs docs-tables bench results notebook notebooks lint format test test-ci test-all clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed  ## make .venv with what a run needs

train: $(VENV)/.installed  ## run the main job: BDA on few-shot classification of letters
	$(RUN) src.train $(ARGS)

describe: $(VENV)/.installed  ## say what a run would do, without running it
	@$(RUN) src.describe $(ARGS)

figures: $(VENV)/.installed  ## remake the figures and tables under docs/
	$(RUN) src.figures

certify: $(VENV)/.installed  ## certify every hypergradient estimator: error, bias, time, memory
	@$(RUN) src.certify $(ARGS)

docs-tables: $(VENV)/.installed  ## rewrite the generated tables of docs/ (ARGS=--certify: that one too)
	$(RUN) src.docs_tables $(ARGS)

bench: $(VENV)/.installed  ## time training iterations (ARGS="rows=main torch=PYTHON": beside PyTorch)
	$(RUN) benchmarks $(ARGS)

results: $(VENV)/.installed  ## rerun a line of docs/results.md and compare (ROW=name; without: list)
	@$(RUN) src.results $(if $(ROW),row=$(ROW)) $(ARGS)

docs: $(VENV)/.installed-docs  ## build the documentation site in build/docs (ARGS=: options of Sphinx)
	$(BIN)/sphinx-build -q -W --keep-going -d build/doctrees docs build/docs $(ARGS)
	@echo "open build/docs/index.html"

notebooks: $(VENV)/.installed-docs  ## write notebooks/*.ipynb from notebooks/*.py
	$(BIN)/jupytext --quiet --to ipynb --update notebooks/[0-9]*.py notebooks/zh/[0-9]*.py

notebook: $(VENV)/.installed-notebook  ## open the notebooks
	$(BIN)/jupyter lab notebooks

lint: $(VENV)/.installed-dev  ## format check, lint, types, import rules
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev  ## format the code and mend what lint can mend
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

# Most of a test is compilation, which takes a third as long so. What users run is tested by
# make test JAX_DISABLE_MOST_OPTIMIZATIONS=0 XLA_FLAGS=
# (XLA ends a process over a flag that it does not know: a later jax may need XLA_FLAGS= as well.)
# A file's tests stay in one process: they share compiled programs.
test test-ci test-all: export JAX_DISABLE_MOST_OPTIMIZATIONS ?= 1
test test-ci test-all: export XLA_FLAGS ?= --xla_cpu_use_fusion_emitters=false
PYTEST := $(RUN) pytest --numprocesses auto --dist loadfile
test: $(VENV)/.installed-dev  ## run the quick tests: minutes (ARGS="-k name" for some of them)
	$(PYTEST) -m "not slow" $(ARGS)

test-ci: $(VENV)/.installed-dev  ## run what continuous integration runs: the slow tests too
	$(PYTEST) -m "not long" $(ARGS)

test-all: $(VENV)/.installed-dev $(VENV)/.installed-docs  ## run all tests, the long ones too
	$(PYTEST) $(ARGS)

clean:  ## remove .venv and caches; runs/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache build docs/tutorial *.egg-info src/*.egg-info

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: \
	$(PYTHON) is older than Python 3.11; name a newer one: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "making $(VENV), once: one or two minutes"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --use-pep517 --editable .
	@touch $@

$(VENV)/.installed-%: pyproject.toml | $(VENV)/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --use-pep517 --editable '.[$*]'
	@touch $@
