# `make` alone lists the verbs. They use the active environment, else .venv.
.DEFAULT_GOAL := help
.PHONY: help setup test check types docs bench

BIN := $(if $(VIRTUAL_ENV),$(VIRTUAL_ENV)/bin/,$(if $(wildcard .venv/bin),.venv/bin/))
PEER ?= build/peer/bin/python

help:  ## list the verbs
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "%-8s%s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup:  ## make .venv (if none is active) and install the package with its tools
	$(if $(VIRTUAL_ENV),,python3 -m venv .venv)
	$(or $(VIRTUAL_ENV),.venv)/bin/python -m pip install -e '.[dev]'

test:  ## run the tests, the README and the docs
	$(BIN)python -m pytest

check:  ## ruff, formatting, spelling, and which room imports which
	$(BIN)ruff check .
	$(BIN)ruff format --check .
	$(BIN)codespell
	$(BIN)lint-imports

types:  ## mypy, strict
	$(BIN)mypy

docs:  ## build the pages into build/docs; a warning is an error
	$(BIN)sphinx-build -n -W -b html docs build/docs

bench: $(PEER)  ## time it, beside idc-index where that does the same (downloads it once)
	$(BIN)python benchmarks/open_and_select.py --peer-python $(PEER)
	$(BIN)python benchmarks/selecting.py --peer-python $(PEER)
	$(BIN)python benchmarks/releases.py --cache
	$(BIN)python benchmarks/manifests.py --peer-python $(PEER)
	$(BIN)python benchmarks/copying.py --peer-python $(PEER)
	$(BIN)python benchmarks/faults.py --peer-python $(PEER)

build/peer/bin/python:
	$(BIN)python -m venv build/peer
	build/peer/bin/python -m pip install idc-index==0.13.4
