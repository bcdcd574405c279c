# Shoal's house: every job has one target, and `make` lists them.
#
# All of it works in .venv, which the first target that needs it makes: the only things the machine
# must have are Python 3.11 or newer (with venv), make and a C++20 compiler; cmake, ninja and the
# rest come from pip. Two stamps keep this idempotent: build requirements are installed once
# per change of pyproject.toml, the package once per change of its sources. The native build lives in
# build/, so that an edit of one file compiles that file.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# Arguments of single targets: make demo DIR=~/notes, make torture T=300, make test ARGS="-k lock"
DIR ?=
T ?= 60
SEED ?=
SEEDS ?= 1000
ARGS ?=
NATIVE_TESTS ?= $(wildcard tests/unit/test_native*.py tests/property/*.py)

SOURCES := pyproject.toml README.md LICENSE $(shell find src native -type f \
	-not -name '*.pyc' -not -name '*.so' 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help demo test bench tracing lint torture chaos chaos-cluster fuzz sim sim-scale asan tsan clean
# A recipe that fails leaves no half-made target behind that the next run would trust.
.DELETE_ON_ERROR:

help: ## List the targets
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# ---- environment

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Shoal needs Python 3.11 or newer; choose one with: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# The build runs without pip's isolation so that it is incremental; what it needs comes first,
# read from pyproject.toml so that it stands in one place.
$(VENV)/.build-requirements: pyproject.toml | $(BIN)/python
	$(BIN)/python -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], "cmake", "ninja", sep="\n")' \
	  > $@.txt
	$(PIP) install -r $@.txt
	@touch $@

$(VENV)/.installed: $(VENV)/.build-requirements $(SOURCES)
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) install --no-build-isolation .
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed pyproject.toml
	PATH="$(abspath $(BIN)):$$PATH" $(PIP) install --no-build-isolation '.[test]'
	@touch $@

# ---- what people want

demo: $(VENV)/.installed ## Count words over a tree of text with tasks and actors (DIR=... for yours)
	$(BIN)/python examples/wordcount.py $(DIR)

test: $(VENV)/.installed-test ## Everything: ruff, mypy, tidy, unit, models, scenarios, torture
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m tests $(ARGS)

lint: $(VENV)/.installed-test ## Only ruff, mypy and the rules of tests/tidy
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -q tests/tidy

bench: $(VENV)/.installed-test ## All benchmarks against all peers, half an hour (ARGS=--quick: a short look)
	$(BIN)/python -m benchmarks core classic $(ARGS)

tracing: $(VENV)/.installed-test ## What the events of all that happens cost: C12 with them and without, 20 pairs
	$(CMAKE_RELEASE) -S native -B build/tracing/with
	$(CMAKE_RELEASE) -S native -B build/tracing/without -DSHOAL_EVENTS=OFF
	PATH="$(abspath $(BIN)):$$PATH" cmake --build build/tracing/with --target all costs
	PATH="$(abspath $(BIN)):$$PATH" cmake --build build/tracing/without --target all costs
	$(BIN)/python -m benchmarks.tracing build/tracing $(ARGS)

torture: $(VENV)/.installed-test ## Kill, stop, fill and starve for T seconds (default 60), then audit
	$(BIN)/python -m tests.torture --seconds $(T) --json build/torture.json $(ARGS)

chaos: $(VENV)/.installed-test ## Faults under real programs, control store and disk, for T seconds (SEED=... again)
	$(BIN)/python -m tests.chaos --seconds $(T) $(if $(SEED),--seed $(SEED)) --json build/chaos.json $(ARGS)

chaos-cluster: $(VENV)/.installed-test ## Kills, power cuts and partitions under real programs on four nodes, for T seconds
	$(BIN)/python -m tests.chaos.nodes --seconds $(T) $(if $(SEED),--seed $(SEED)) --json build/chaos-cluster.json $(ARGS)

fuzz: $(VENV)/.installed-test ## Nonsense at a node's port, beside honest traffic, for T seconds (SEED=... again)
	$(BIN)/python -m tests.cluster.fuzz_links $(or $(SEED),$(shell date +%s)) $(T)

sim: $(VENV)/.installed-test ## Lives of a simulated cluster, one for each of SEEDS seeds (default 1000)
	$(BIN)/python -m shoal.testing.sim --seeds $(SEEDS) --json build/sim.json $(ARGS)

sim-scale: $(VENV)/.installed-test ## Scheduling on 1 to 1,000 simulated nodes: cost, messages, time to drain
	$(BIN)/python -m shoal.testing.sim.scale --json build/scale.json $(ARGS)

# ---- sanitizers: builds of their own under build/, beside the installed package

CMAKE = PATH="$(abspath $(BIN)):$$PATH" cmake -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	-DPython_EXECUTABLE=$(abspath $(BIN))/python
CMAKE_RELEASE = PATH="$(abspath $(BIN)):$$PATH" cmake -G Ninja -DCMAKE_BUILD_TYPE=Release \
	-DPython_EXECUTABLE=$(abspath $(BIN))/python
RUNTIMES = $(shell $${CXX:-g++} -print-file-name=libasan.so):$(shell $${CXX:-g++} -print-file-name=libstdc++.so)

asan: $(VENV)/.installed-test ## Native property tests under AddressSanitizer and UBSan
	$(CMAKE) -S native -B build/address -DSHOAL_SANITIZE=address
	PATH="$(abspath $(BIN)):$$PATH" cmake --build build/address
	rm -rf build/address/site && mkdir -p build/address/site
	cp -r src/shoal build/address/site/shoal
	cp build/address/_native*.so build/address/site/shoal/
	# Python itself is not instrumented: the runtime comes in first, and its own leaks are not ours.
	LD_PRELOAD=$(RUNTIMES) PYTHONPATH=build/address/site PYTHONMALLOC=malloc \
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
	  $(BIN)/python -m pytest $(NATIVE_TESTS) $(ARGS)

tsan: $(VENV)/.installed-test ## Native races: N processes as threads over one mapping, under TSan
	$(CMAKE) -S native -B build/thread -DSHOAL_SANITIZE=thread -DSHOAL_TESTS=ON
	PATH="$(abspath $(BIN)):$$PATH" cmake --build build/thread --target race
	TSAN_OPTIONS=halt_on_error=1 build/thread/race

clean: ## Remove everything that make made
	rm -rf $(VENV) .venv-peers .venv-parity build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
