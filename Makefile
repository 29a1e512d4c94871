# Everything runs in .venv, made on first use with the versions of requirements/lock.txt. `make` alone lists the
# targets. PYTHON chooses the interpreter (3.10 to 3.12): make test PYTHON=python3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
INSTALL := $(PIP) install --quiet --constraint requirements/lock.txt
SOURCES := setup.py pyproject.toml requirements/lock.txt $(wildcard csrc/cpu/*.cpp csrc/cpu/*.h csrc/cuda/*.cu csrc/cuda/*.cuh)
LOCK := build/lock/bin
CPP_TESTS := $(wildcard csrc/tests/*.cpp) $(addprefix csrc/cpu/,pool.cpp sample.cpp isa.cpp isa_plain.cpp isa_avx2.cpp isa_avx512.cpp isa_vnni.cpp isa_amx.cpp)
# ThreadSanitizer of older compilers knows only some layouts of memory
FIXED_LAYOUT := $(shell setarch -R true 2>/dev/null && echo setarch -R)

# Options of pytest: all tests on several cores, and what `make check` runs, one case of every
# sixth test that is not slow
ALL := --numprocesses auto --maxprocesses 4 --dist worksteal
SHARE := --numprocesses 2 -m 'not slow and not index' --cases 1 --share 6
CPP := $(wildcard csrc/*/*.cpp csrc/*/*.h csrc/*/*.cu csrc/*/*.cuh tests/helpers/*.cpp tests/helpers/simt/*.h tests/helpers/simt/*.cpp)

.DEFAULT_GOAL := help
.PHONY: help demo check share test device-check soak lint style types mypy layers sanitize dist check-lock optional lock format clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*  ## \(.*\)/\1@\2/p' $(MAKEFILE_LIST) | while IFS=@ read -r name text; do \
		printf '  make %-14s%s\n' "$$name" "$$text"; done

demo: $(VENV)/run.stamp  ## build, then answer a spoken question about a picture with the packaged model
	$(BIN)/antiphon generate --demo --max-units 125 --out reply.wav

check: $(VENV)/dev.stamp  ## before every commit, under a minute: style, types, and a share of the tests of each room
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target share style mypy layers

share: $(VENV)/dev.stamp
	$(BIN)/pytest --quiet $(SHARE)

test: $(VENV)/dev.stamp  ## build, then run all tests on up to four cores; pytest's options: ARGS='-k audio'
	$(BIN)/pytest $(ALL) $(ARGS)

device-check: $(VENV)/dev.stamp  ## where there is a GPU: tests and figures in eight minutes; options: ARGS='--only steps'
	$(BIN)/python -m antiphon.bench.device $(ARGS)

soak: $(VENV)/dev.stamp  ## load a server with good and bad clients for an hour, or SOAK_S seconds
	$(BIN)/python tests/server/soak.py

lint: style types layers  ## ruff, clang-format, mypy (strict), pyright, and what may import what

style: $(VENV)/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(if $(wildcard .clang-format),$(BIN)/clang-format --dry-run --Werror $(CPP))

types: mypy $(VENV)/dev.stamp
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright --pythonpath $(BIN)/python

mypy: $(VENV)/dev.stamp
	@test -d src/antiphon/kernels || { echo 'src/antiphon holds no links, which type checkers follow:' \
		'git config core.symlinks true; git checkout -- src' >&2; exit 1; }
	$(BIN)/mypy src/antiphon tests recipes examples

layers: $(VENV)/dev.stamp
	$(BIN)/lint-imports --no-logo --cache-dir build/import_linter_cache

dist: $(VENV)/dev.stamp  ## build sdist and wheel in dist/, and check what they hold
	rm -rf dist
	$(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python --out-dir dist
	$(BIN)/check-wheel-contents dist
	$(BIN)/twine check --strict dist/*

check-lock: $(VENV)/dev.stamp  ## ask the public package index: can the lock be installed, is the older client served
	$(BIN)/pytest -m index tests/project/test_lock.py tests/server/test_openai_versions.py

# Large, and one of them proprietary, so they are in no environment that other targets make.
optional: $(VENV)/dev.stamp  ## install bitsandbytes, TensorRT for RTX and Ray, which tests use where they are installed
	-$(INSTALL) 'bitsandbytes>=0.50,<0.51'
	-$(INSTALL) 'tensorrt-rtx>=1.7,<1.8'
	-$(INSTALL) 'ray[serve]>=2.60,<2.70'

# One file for all Pythons and machines, resolved against the public index alone: others cannot install what a
# private index or a folder of wheels offers.
lock:  ## write requirements/lock.txt again, with the newest releases that pyproject.toml allows
	$(PYTHON) -m venv build/lock
	$(LOCK)/pip --disable-pip-version-check install --quiet --constraint requirements/lock.txt uv
	env $(addprefix -u ,UV_DEFAULT_INDEX UV_INDEX UV_INDEX_URL UV_EXTRA_INDEX_URL UV_FIND_LINKS) \
		UV_CUSTOM_COMPILE_COMMAND='make lock    # for pip as constraints: pip install -c requirements/lock.txt' \
		$(LOCK)/uv pip compile --quiet --no-config --upgrade --universal \
		--python-version 3.10 --extra dev --extra gpu --extra mic --extra recipe --strip-extras --no-annotate \
		--constraint requirements/held.txt --output-file requirements/lock.txt pyproject.toml

# Needs no more than g++, and half a minute with -j2.
sanitize: build/sanitize/address,undefined.passed build/sanitize/thread.passed  ## the kernels' C++ tests under ASan, UBSan and TSan

build/sanitize/%.test: $(CPP_TESTS) $(wildcard csrc/cpu/*.h csrc/tests/*.h)
	mkdir -p $(@D)
	$(CXX) -std=c++17 -O1 -g1 -Wall -pthread -fsanitize=$* -fno-sanitize-recover=all -Icsrc/cpu $(CPP_TESTS) -o $@

.PRECIOUS: build/sanitize/%.test
build/sanitize/%.passed: build/sanitize/%.test
	$(FIXED_LAYOUT) $<
	touch $@

format: $(VENV)/dev.stamp  ## format Python and C++, and mend what ruff can
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format .
	$(if $(wildcard .clang-format),$(BIN)/clang-format -i $(CPP))

clean:  ## remove what was built, and the environment
	rm -rf build dist src/*.egg-info kernels/_C.*.so kernels/native $(VENV)

# torch goes first and by itself, so that pip takes a plain CPU build where it is offered one.
$(VENV)/torch.stamp: requirements/lock.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) torch
	touch $@

$(VENV)/run.stamp: $(VENV)/torch.stamp $(SOURCES)
	$(INSTALL) setuptools pybind11
	$(INSTALL) --no-build-isolation --editable '.[heif,serve,talk]'
	touch $@

# Holds all that run.stamp stands for, and does not need it: each of them compiles the extension.
$(VENV)/dev.stamp: $(VENV)/torch.stamp $(SOURCES)
	$(INSTALL) setuptools pybind11
	$(INSTALL) --no-build-isolation --editable '.[dev]'
	touch $(VENV)/run.stamp $@
