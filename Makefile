# One verb for each thing that people and CI do. `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo test check fix bench clean lock generate

include hack/cluster.mk
include hack/gameday.mk

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

$(STAMP): requirements-dev.lock pyproject.toml
	@$(PYTHON) hack/install.py $(VENV) requirements-dev.lock
	@touch $@

demo: $(STAMP) ## The main job, from nothing: a bad release, the alert, the rollback, the recovery
	@$(BIN)/python hack/demo

test: $(STAMP) ## All tests, on two real API servers side by side; ARGS="tests/core -k guard" for some of them
	@$(BIN)/python -m pytest $(or $(ARGS),--numprocesses 2 --no-loadscope-reorder)

check: $(STAMP) ## Format, lint, strict types, import rules, generated files
	@hack/check $(BIN)

fix: $(STAMP) ## Format, and mend what the linter can
	@$(BIN)/ruff format operator hack tests
	@$(BIN)/ruff check --fix operator hack tests

generate: $(STAMP) ## Write the CRDs and docs that are generated from the code
	@$(BIN)/paramedic crds --output crds
	@$(BIN)/paramedic reasons > docs/reasons.md

bench: $(STAMP) ## Measure, each figure beside its floor
	@$(BIN)/python hack/bench $(ARGS)

lock: $(STAMP) ## Lock the newest versions that pyproject.toml allows
	@hack/lock $(BIN)

clean: ## Remove the environment and caches of this checkout
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
