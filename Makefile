# make demo: set up and map the rendered drive.  make test: set up and run the tests.  make help: all targets.
# Set-up runs once: .venv holds everything, .venv/.stamps records which steps are done and how long they took.

PYTHON ?= python3
VENV ?= .venv
# any torch >= 2.4 works: one that VENV already has is kept
TORCH ?= torch==2.13.0
DEMO_OUT ?= results/demo
PYTEST_ARGS ?=

BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
NATIVE := $(shell find thirdparty -name '*.cpp' -o -name '*.h' -o -name '*.cu')

STEP := scripts/step.sh
export STEPS_FILE := $(abspath $(STAMPS))/steps.tsv
ifndef STEPS_START # taken once: a deferred variable would be the time of each step
STEPS_START := $(shell date +%s.%N)
endif
export STEPS_START

# pip compiles no bytecode while it installs: Python compiles what is imported, a small part
PIP_INSTALL := $(BIN)/python -m pip install --no-compile --disable-pip-version-check --quiet
BUILD_NATIVE := $(BIN)/python setup.py --quiet build_ext --inplace
# pip unpacks on one core while the native code compiles on the other
SET_UP := $(MAKE) --no-print-directory -j2

# idle OpenMP threads that spin slow down every other process
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help install dev demo test soak lint format types stubs doctor docs cuda-all clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

install: ## set up .venv and build the native code
	@$(SET_UP) $(STAMPS)/package

dev: ## install, with what the tests and checks need
	@$(SET_UP) $(STAMPS)/package $(STAMPS)/dev $(STAMPS)/emulation

demo: install ## map the rendered drive; prints the seconds of each step
	$(STEP) "render the drive" $(BIN)/python scripts/render_demo.py
	$(STEP) "run and report" $(BIN)/python scripts/run_kitti.py --seq demo --preset fast --out $(DEMO_OUT) --overwrite
	@$(STEP) --summary

test: dev ## run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

soak: dev ## run the tests that are slow and rare
	$(BIN)/python -m pytest -m soak $(PYTEST_ARGS)

lint: dev ## check style and format, Python and C++
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	git ls-files '*.h' '*.cpp' '*.cu' | xargs $(BIN)/clang-format --dry-run -Werror

format: dev ## fix style and format, Python and C++
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	git ls-files '*.h' '*.cpp' '*.cu' | xargs $(BIN)/clang-format -i

types: dev ## check the types (mypy; strict on slam, graph, odometry, optimization)
	$(BIN)/mypy

stubs: dev ## write the type stubs of the native modules anew
	for name in lietorch droid_backends; do \
	    $(BIN)/python -m nanobind.stubgen -q -m $$name._$$name -o thirdparty/$$name/$$name/_$$name.pyi || exit 1; \
	done

doctor: install ## check that everything the program needs is there
	$(BIN)/metric-slam doctor

docs: install ## write docs/configuration.md anew
	$(BIN)/metric-slam config --markdown > docs/configuration.md

cuda-all: dev ## compile the CUDA sources for all GPU architectures (needs nvcc, no GPU; several minutes)
	METRIC_SLAM_CUDA=1 METRIC_SLAM_CUDA_ARCHITECTURES=all \
	    $(BIN)/python setup.py --quiet build_ext --only cuda --build-lib build/cuda-all

clean: ## remove what was built; keep .venv and results
	rm -rf build *.egg-info .pytest_cache .ruff_cache .mypy_cache
	rm -f $(STAMPS)/native $(STAMPS)/emulation $(STAMPS)/package
	find thirdparty -name '*.so' -delete
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

$(STAMPS)/system: scripts/system_packages.sh metric_slam/cli/doctor.py
	PYTHON=$(PYTHON) $(STEP) "system packages" scripts/system_packages.sh
	test -x $(BIN)/python || $(STEP) "virtual environment" $(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS)
	touch $@

$(STAMPS)/build-tools: $(STAMPS)/system
	$(STEP) "build tools" $(PIP_INSTALL) 'setuptools>=77' 'nanobind>=2.4' wheel
	touch $@

$(STAMPS)/packages: $(STAMPS)/build-tools pyproject.toml
	$(BIN)/python -c 'import torch' 2>/dev/null || $(STEP) "torch" $(PIP_INSTALL) $(TORCH)
	$(BIN)/python scripts/requirements.py > $@.txt
	$(STEP) "packages" $(PIP_INSTALL) -r $@.txt
	touch $@

$(STAMPS)/native: $(STAMPS)/build-tools setup.py $(NATIVE)
	$(STEP) "native code" $(BUILD_NATIVE)
	touch $@

# the native code is compiled by now: pip links it and makes the commands
$(STAMPS)/package: $(STAMPS)/packages pyproject.toml setup.py | $(STAMPS)/native
	$(STEP) "package" $(PIP_INSTALL) --no-deps --no-build-isolation -e .
	touch $@

$(STAMPS)/dev: $(STAMPS)/packages pyproject.toml
	$(BIN)/python scripts/requirements.py dev > $@.txt
	$(STEP) "development packages" $(PIP_INSTALL) -r $@.txt
	touch $@

# the CUDA kernels compiled for the CPU, for the tests
$(STAMPS)/emulation: $(STAMPS)/native
	METRIC_SLAM_EMULATION=1 METRIC_SLAM_CUDA=0 $(STEP) "emulated CUDA kernels" $(BUILD_NATIVE) --only emulated
	touch $@
