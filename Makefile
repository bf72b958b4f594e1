# make demo: set up and run the main job on the rendered drive.  make test: set up and run the tests.
# Setting up is done once: .venv holds everything, .venv/.stamps says which steps are done.

PYTHON ?= python3
VENV ?= .venv
# any torch >= 2.4 will do: one that is already in VENV is kept
TORCH ?= torch==2.13.0
DEMO_OUT ?= results/demo
PYTEST_ARGS ?=

BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
NATIVE := $(shell find thirdparty -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '__init__.py')

# idle OpenMP threads that spin slow down every other process
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format doctor docs clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

install: $(STAMPS)/package ## set up .venv and build the native code

demo: install ## run the main job on the rendered drive
	$(BIN)/python scripts/run_kitti.py --seq demo --preset fast --out $(DEMO_OUT) --overwrite

test: install ## run the tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: install ## check the style
	$(BIN)/ruff check .

format: install ## mend what ruff can mend
	$(BIN)/ruff check --fix .

doctor: install ## is everything there that the program needs?
	$(BIN)/metric-slam doctor

docs: install ## write docs/configuration.md anew
	$(BIN)/metric-slam config --markdown > docs/configuration.md

clean: ## remove what was built, keep .venv and results
	rm -rf build *.egg-info .pytest_cache .ruff_cache $(STAMPS)/package
	find thirdparty -name '*.so' -delete
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -print0 | xargs -0 rm -rf

$(STAMPS)/system: scripts/system_packages.sh metric_slam/cli/doctor.py
	PYTHON=$(PYTHON) scripts/system_packages.sh
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	mkdir -p $(STAMPS)
	touch $@

$(STAMPS)/torch: $(STAMPS)/system
	$(BIN)/python -c 'import torch' 2>/dev/null || $(BIN)/python -m pip install $(TORCH)
	touch $@

# with the GPU kernels compiled for the CPU as well, for the tests
$(STAMPS)/package: $(STAMPS)/torch pyproject.toml setup.py $(NATIVE)
	METRIC_SLAM_EMULATION=1 $(BIN)/python -m pip install -e '.[dev]'
	touch $@
