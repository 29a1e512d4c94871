# Everything runs in .venv, made on first use with the versions of requirements/lock.txt.
#
#   make demo    build, then answer a spoken question about a picture with the packaged checkpoint
#   make test    build, then all tests
#   make lint    ruff, mypy (strict) and pyright
#   make clean   remove what was built
#
# PYTHON chooses the interpreter (3.10 to 3.12): make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint requirements/lock.txt
SOURCES := setup.py pyproject.toml requirements/lock.txt $(wildcard csrc/cpu/*.cpp csrc/cpu/*.h csrc/cuda/*.cu csrc/cuda/*.cuh)
TYPES := build/types

.PHONY: demo test lint format clean
.DELETE_ON_ERROR:

demo: $(VENV)/run.stamp
	$(BIN)/antiphon generate --demo --max-units 125 --out reply.wav

test: $(VENV)/dev.stamp
	$(BIN)/pytest

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf $(TYPES)
	$(BIN)/python setup.py -q build_py --build-lib $(TYPES)
	$(BIN)/mypy $(TYPES)/antiphon tests
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info runtime/_C.*.so runtime/native $(VENV)

# torch goes first and by itself, so that pip takes a plain CPU build where it is offered one.
$(VENV)/torch.stamp: requirements/lock.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	touch $@

$(VENV)/run.stamp: $(VENV)/torch.stamp $(SOURCES)
	$(INSTALL) setuptools pybind11
	$(INSTALL) --no-build-isolation --editable '.[audio]'
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	touch $@
