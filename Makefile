# The house's commands. `make` alone lists them. PYTHON=/path/to/python uses that interpreter's own environment.
SHELL = /bin/sh
.DEFAULT_GOAL := help

# Where to install: PYTHON if given, else an active virtual environment, else .venv here (made by `make setup`).
ifdef PYTHON
BASE := $(PYTHON)
PY := $(PYTHON)
else ifdef VIRTUAL_ENV
BASE := $(VIRTUAL_ENV)/bin/python
PY := $(VIRTUAL_ENV)/bin/python
else
BASE := python3
PY := .venv/bin/python
endif

METALM := $(PY) -c 'from metalm_cli.cli import main; main()'

BUILD := .build
STAMP := $(BUILD)/setup-$(subst /,_,$(PY))
CONSTRAINTS ?= constraints.txt
TORCH ?= $(shell grep '^torch==' $(CONSTRAINTS))
TESTS ?= tests src
WORKERS ?= 2
RUN := runs/demo

# Two test processes on two cores: a thread each.
ONE_THREAD := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: help setup demo test test-all lint bench docs clean

help:  ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

setup: $(STAMP)  ## Install metalm and what its tests need (once; again when the versions change)

# torch goes first and by itself, so that pip settles which of its builds to take before anything depends on it.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@mkdir -p $(BUILD)
	@test -x "$$(command -v $(PY))" || $(BASE) -m venv .venv
	$(PY) -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS) "$(TORCH)"
	$(PY) -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS) -e ".[dev,trackers,harness]"
	@touch $@

demo: $(STAMP)  ## Train, tune and score a MetaLM and its GPT twin on the miniature world (four minutes on two cores)
	@$(METALM) demo --out $(RUN)
	@echo
	@echo 'Next:'
	@echo '  metalm demo --dry-run                                     the commands that the demo ran'
	@echo '  metalm recipe list                                        the shipped recipes'
	@echo '  metalm pretrain small data.sources.0.path=my.jsonl        your own text: one {"text": ...} a line'
	@echo '  metalm pretrain pile --dry-run                            GPT-2 and ELECTRA from the hub: the plan'
	@echo 'The program is at $(dir $(PY))metalm; README.md goes on from here.'

test: $(STAMP)  ## Run the tests that are not slow (TESTS=tests/sessions for a room, WORKERS=0 for one process)
	$(ONE_THREAD) $(PY) -m pytest -n $(WORKERS) -m "not slow" $(TESTS)

test-all: $(STAMP)  ## Run all tests, including the slow ones
	$(ONE_THREAD) $(PY) -m pytest -n $(WORKERS) $(TESTS)

lint: $(STAMP)  ## Check style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

bench: $(STAMP)  ## Run the quick form of each benchmark (METALM_DATA: on real data)
	@for file in $$(grep -l __main__ benchmarks/*.py); do \
	  echo "== $$file"; $(PY) "$$file" --quick || exit 1; \
	done

docs: $(STAMP)  ## Write docs/recipes.md again from the schema
	$(METALM) recipe schema --markdown > docs/recipes.md.new
	mv docs/recipes.md.new docs/recipes.md

clean:  ## Remove caches, stamps and the demo's run; .venv and other runs stay
	rm -rf $(BUILD) .pytest_cache .mypy_cache .ruff_cache .hypothesis $(RUN) dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
