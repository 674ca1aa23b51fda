# Everything a newcomer, CI and a release need. `make help` lists it.
SHELL := /bin/sh
UV_VERSION := 0.13.9
UV := $(shell command -v uv 2>/dev/null || echo .tools/uv/bin/uv)
RUN := .venv/bin
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
PORT ?= 8501

# An environment that forbids Python to keep its bytecode, as containers have it, makes each start of
# each process compile all that it imports: twice the CPU time for `slipway`, MLflow and Streamlit.
# What stands in .venv and in this checkout is ours to write.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup run demo test check format bench screenshots docs cluster-test clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

.tools/uv/bin/uv:
	@echo "uv is missing: bringing it into .tools by pip"
	@PIP_ROOT_USER_ACTION=ignore $(PYTHON) -m pip install --quiet --disable-pip-version-check \
	    --target .tools/uv "uv==$(UV_VERSION)"

.venv/.complete: pyproject.toml uv.lock | $(filter .tools/%,$(UV))
	@echo "setting up .venv from the lock (the first time: a minute or two)"
	@$(UV) sync --quiet --frozen --all-extras --group dev --python $(PYTHON)
	@touch $@

setup: .venv/.complete ## all the set-up, nothing else

run: setup ## the dashboard on http://localhost:8501, with demo models the first time
	$(RUN)/slipway ui --seed --port $(PORT)

demo: setup ## train and register the demo's models
	$(RUN)/slipway demo

test: setup ## every test tier that this machine can run
	$(RUN)/pytest $(PYTEST_ARGS)

check: setup ## format, lint, types, import rules
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy
	$(RUN)/lint-imports

format: setup ## put the code into its form
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

bench: setup ## the benchmarks, side by side with their peers (BENCH="1 4" for some)
	$(RUN)/python benchmarks/run.py $(BENCH)

screenshots: setup ## renew the README's pictures from the running app (needs Chromium)
	$(RUN)/python scripts/screenshots.py

docs: setup ## check that the documentation holds
	$(RUN)/pytest tests/test_docs.py

cluster-test: setup ## the tests that need a Kubernetes with KServe (SLIPWAY_TEST_CONTEXT=name)
	$(RUN)/pytest -m cluster tests/cluster

clean: ## remove what the set-up made (not .slipway: it holds your data)
	rm -rf .venv .tools .mypy_cache .ruff_cache .pytest_cache
