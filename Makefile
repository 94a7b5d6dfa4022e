# Postroad. The two commands that matter: `make run` and `make test`.

# Handed on: make run ARGS="--once", make test T="tests/wire -k framer", make run PYTHON=python3.12
ARGS =
T =
SECONDS = 30
TARGETS =
FIGURES =
PYTHON = python3
BIN = .venv/bin

.PHONY: help run test test-nightly fuzz bench lint format clean install install-dev

help:
	@echo 'make run           install into .venv and start the playground: no root, no internet, nothing to configure'
	@echo 'make test          install the development tools and run all tests'
	@echo 'make test-nightly  the tests that take minutes (300 crashes, ...)'
	@echo 'make fuzz          the decoders that strangers feed, SECONDS=30 each: see tests/fuzz/README.md'
	@echo 'make bench         all figures of docs/performance.md: 25 minutes, root, Postfix, OpenDKIM, a quiet machine'
	@echo 'make lint          ruff, mypy --strict, order of the shelves'
	@echo 'make format        let ruff format the code'
	@echo 'make clean         remove everything that the commands above have made'

run: install
	@exec $(BIN)/postroad dev $(ARGS)

test: install-dev
	@exec $(BIN)/pytest -n auto $(T)

test-nightly: install-dev
	@exec $(BIN)/pytest -m nightly $(T)

fuzz: install-dev
	@exec $(BIN)/python -m tests.fuzz.runner --seconds $(SECONDS) $(TARGETS)

bench: install-dev
	@exec $(BIN)/python bench/figures.py $(FIGURES)

lint: install-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_shelf_order.py

format: install-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean:
	rm -rf .venv .dev .fuzz build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.*
	find src tests bench scripts -name __pycache__ -type d -prune -exec rm -rf {} +

install:
	@PYTHON='$(PYTHON)' scripts/make-venv.sh

install-dev:
	@PYTHON='$(PYTHON)' scripts/make-venv.sh dev
