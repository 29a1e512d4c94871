# Everything runs in .venv, made on first use with the versions of requirements/lock.txt.
#
#   make demo       build, then answer a spoken question about a picture with the packaged checkpoint
#   make test       build, then all tests
#   make lint       ruff, mypy (strict) and pyright
#   make sanitize   the C++ kernels' own tests under AddressSanitizer and UBSan, and again under ThreadSanitizer;
#                   needs no more than g++, and half a minute with -j2
#   make clean      remove what was built
#
# PYTHON chooses the interpreter (3.10 to 3.12): make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint requirements/lock.txt
SOURCES := setup.py pyproject.toml requirements/lock.txt $(wildcard csrc/cpu/*.cpp csrc/cpu/*.h csrc/cuda/*.cu csrc/cuda/*.cuh)
TYPES := build/types
CPP_TESTS := $(wildcard csrc/tests/*.cpp) $(addprefix csrc/cpu/,pool.cpp sample.cpp isa.cpp isa_plain.cpp isa_avx2.cpp isa_avx512.cpp)
# ThreadSanitizer of older compilers knows only some layouts of memory
FIXED_LAYOUT := $(shell setarch -R true 2>/dev/null && echo setarch -R)

.PHONY: demo test lint format clean sanitize
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

sanitize: build/sanitize/address,undefined.passed build/sanitize/thread.passed

build/sanitize/%.test: $(CPP_TESTS) $(wildcard csrc/cpu/*.h)
	mkdir -p $(@D)
	$(CXX) -std=c++17 -O1 -g1 -Wall -pthread -fsanitize=$* -fno-sanitize-recover=all -Icsrc/cpu $(CPP_TESTS) -o $@

.PRECIOUS: build/sanitize/%.test
build/sanitize/%.passed: build/sanitize/%.test
	$(FIXED_LAYOUT) $<
	touch $@

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
	$(INSTALL) --no-build-isolation --editable .
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	touch $@
