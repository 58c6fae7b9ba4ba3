# `make train` and `make test` work on a fresh machine with Python >= 3.10, pip and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help install train test test-quick test-lowest lint format bench clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $(STAMP)

install: $(STAMP)  ## make .venv and install i0t with its development tools

train: $(STAMP)  ## the main job: train CLIP on MAD, see the modality gap, close it
	$(BIN)/python train.py

test: $(STAMP)  ## the whole suite, offline, two files at a time
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m '' -n 2 --dist loadfile --durations 40

test-quick: $(STAMP)  ## what bare pytest runs
	$(BIN)/python -m pytest

test-lowest:  ## the quick tests with the lowest supported versions, in an environment of their own
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --constraint lowest.txt --editable '.[dev]'
	.venv-lowest/bin/python -m pytest

lint: $(STAMP)  ## ruff, mypy, codespell
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

format: $(STAMP)  ## rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## every benchmark beside its peers, into benchmarks/RESULTS.md; BENCH="loss retrieval": these alone
	$(BIN)/python -m pip install --quiet --no-deps clip-benchmark==1.6.2
	$(BIN)/python benchmarks/run.py $(BENCH)

clean:  ## remove the environment and caches, not your runs
	rm -rf $(VENV) .venv-lowest .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist
