# make demo: the whole loop, on this machine · make test: every test · make help: the rest
.DEFAULT_GOAL := help
SHELL := bash
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

# uv reads its own variables: hand it what pip was told about certificates and local wheels.
ifneq ($(PIP_CERT),)
export SSL_CERT_FILE ?= $(PIP_CERT)
endif
ifneq ($(PIP_FIND_LINKS),)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif

.PHONY: help demo up down test check types unit bench bench-automl bench-nas golden test-containers clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v python3.11 >/dev/null || { echo "ATLAS needs python3.11 on the PATH: install it, then run make again"; exit 1; }
	@test -x $(BIN)/python || python3.11 -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraints constraints.txt --editable '.[all,dev]'
	@touch $@

demo: $(VENV)/.installed ## train, serve, make mistakes, let Airflow repair the model while it serves
	$(BIN)/atlas demo

up: $(VENV)/.installed ## serving and Airflow, left running on loopback
	$(BIN)/atlas up

down: ## stop what make up started
	$(BIN)/atlas down

check: $(VENV)/.installed ## lint, types, import rules, unit tests (under a minute)
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target types unit

types:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

unit:
	$(BIN)/pytest tests/unit -n 2 -q -m 'not slow and not alone'

test: $(VENV)/.installed ## every test that needs no container engine and no GPU
	$(BIN)/pytest tests/unit tests/contract -n 2 -q --durations=15 -m 'not container and not gpu and not benchmark and not alone'
	$(BIN)/pytest tests/unit -q -m alone
	$(BIN)/pytest tests/integration -q --durations=15 -m 'not container and not gpu and not benchmark'

bench: $(VENV)/.installed ## benchmarks, one JSON object a line (a quarter of an hour)
	$(BIN)/atlas bench loop --json
	$(BIN)/atlas bench automl --quick --json
	$(BIN)/atlas bench scale --quick --json
	$(BIN)/atlas bench nas --quick --json

bench-automl: $(VENV)/.installed ## Genesis beside FLAML, AutoGluon and LightGBM on 14 tables (hours; goes on where it was stopped)
	$(BIN)/atlas bench automl --json

bench-nas: $(VENV)/.installed ## architecture search beside random search and DARTS (hours; goes on where it was stopped)
	$(BIN)/atlas bench nas --json

golden: $(VENV)/.installed ## rewrite the compiled pipelines under tests/golden; read the diff
	$(BIN)/atlas compile --all --to tests/golden

test-containers: $(VENV)/.installed ## build the images and turn the credit loop in them (needs a Docker-compatible socket)
	infra/images/build.sh
	$(BIN)/pytest tests/integration/test_containers.py -m container -q

clean: ## forget the demo's state (.atlas/demo); the environment and your own state stay
	@ATLAS_HOME=.atlas/demo $(BIN)/atlas down
	rm -rf .atlas/demo
