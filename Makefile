# Everything runs in .venv, made on first use with the versions of requirements/lock.txt.
#
#   make demo        build, then answer a spoken question about a picture with the packaged checkpoint
#   make test        build, then all tests on up to four cores; ARGS are pytest's: make test ARGS='-k audio'
#   make lint        ruff, mypy (strict) and pyright
#   make sanitize    the C++ kernels' own tests under AddressSanitizer and UBSan, and again under ThreadSanitizer;
#                    needs no more than g++, and half a minute with -j2
#   make check-lock  ask the public package index whether everybody can install requirements/lock.txt
#   make lock        write requirements/lock.txt anew, with the newest releases that pyproject.toml allows
#   make clean       remove what was built
#
# PYTHON chooses the interpreter (3.10 to 3.12): make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint requirements/lock.txt
SOURCES := setup.py pyproject.toml requirements/lock.txt $(wildcard csrc/cpu/*.cpp csrc/cpu/*.h csrc/cuda/*.cu csrc/cuda/*.cuh)
LOCK := build/lock/bin
CPP_TESTS := $(wildcard csrc/tests/*.cpp) $(addprefix csrc/cpu/,pool.cpp sample.cpp isa.cpp isa_plain.cpp isa_avx2.cpp isa_avx512.cpp)
# ThreadSanitizer of older compilers knows only some layouts of memory
FIXED_LAYOUT := $(shell setarch -R true 2>/dev/null && echo setarch -R)

.PHONY: demo test lint sanitize check-lock lock format clean
.DELETE_ON_ERROR:

demo: $(VENV)/run.stamp
	$(BIN)/antiphon generate --demo --max-units 125 --out reply.wav

test: $(VENV)/dev.stamp
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS)

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src/antiphon tests
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

check-lock: $(VENV)/dev.stamp
	$(BIN)/pytest -m index tests/test_lock.py

# One file for all Pythons and machines, resolved against the public index alone: what an index of one's own or a
# folder of wheels offers is nothing that others can install.
lock:
	$(PYTHON) -m venv build/lock
	$(LOCK)/pip --disable-pip-version-check install --quiet --constraint requirements/lock.txt uv
	env $(addprefix -u ,UV_DEFAULT_INDEX UV_INDEX UV_INDEX_URL UV_EXTRA_INDEX_URL UV_FIND_LINKS) \
		UV_CUSTOM_COMPILE_COMMAND='make lock    # for pip as constraints: pip install -c requirements/lock.txt' \
		$(LOCK)/uv pip compile --quiet --no-config --upgrade --universal \
		--python-version 3.10 --extra dev --extra gpu --extra recipe --strip-extras --no-annotate \
		--constraint requirements/held.txt --output-file requirements/lock.txt pyproject.toml

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
	rm -rf build dist *.egg-info kernels/_C.*.so kernels/native $(VENV)

# torch goes first and by itself, so that pip takes a plain CPU build where it is offered one.
$(VENV)/torch.stamp: requirements/lock.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	touch $@

$(VENV)/run.stamp: $(VENV)/torch.stamp $(SOURCES)
	$(INSTALL) setuptools pybind11
	$(INSTALL) --no-build-isolation --editable '.[audio,heif]'
	touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	touch $@
