# `make demo` and `make test` do all the set-up themselves.
PYTHON ?= python3
BIN := .venv/bin
PROTOS := $(wildcard proto/tunefarm_proto/v1/*.proto)

.PHONY: install demo test test-slow test-emulation test-kernels test-deploy test-upgrade faults fuzz gpu hostile check format stubs bench clean

install: .venv/installed

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install -q --upgrade pip
	$(BIN)/pip install -q -e '.[all,dev]'
	touch $@

demo: install
	$(BIN)/tunefarm demo

# What minds no neighbour runs on two processors; farms, faults and timings after it, alone.
TOGETHER := $(addprefix tests/,client compiler dashboard proto security tracker)

test: install
	$(BIN)/pytest -n 2 --dist loadfile $(TOGETHER)
	$(BIN)/pytest $(addprefix --ignore=,$(TOGETHER))

test-slow: install
	$(BIN)/pytest -m slow

test-emulation: install
	$(BIN)/pytest -m emulation --timeout 900

# Some 20 minutes on three processors. A failing run prints its seed: KERNELS_SEED=7 make test-kernels
test-kernels: install
	$(BIN)/pytest -m kernels -s --timeout 900 tests/compiler

# Needs root, mmdebstrap and PyPI.
test-deploy: install
	$(BIN)/pytest -m deploy --timeout 1200

# The version before this one and this one, side by side.
test-upgrade: install
	$(BIN)/pytest -m slow tests/upgrade

# A failing run prints its seed: FAULTS_SEED=7 make faults
faults: install
	$(BIN)/pytest -m faults -s --timeout 1800

# A failing run prints its seed: HOSTILE_SEED=7 make hostile
hostile: install
	$(BIN)/pytest -m hostile -s --timeout 3600 tests/hostile

# Needs an NVIDIA GPU: leases, crashes and answers on it, every operator, and figures.
NO_GPU := import sys; from tunefarm_device.backend import find; said = find('cuda').lacking(); \
	sys.exit(f'make gpu needs a GPU: {said}' if said else 0)

gpu: install
	@$(BIN)/python -c "$(NO_GPU)"
	$(BIN)/pytest -rs tests/device/conformance -k GPU
	$(BIN)/python bench/gpu.py --check

fuzz: install
	$(BIN)/pytest -m slow -s --timeout 1800 tests/fuzz

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/python proto/generate.py --check

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

stubs: install
	$(BIN)/python proto/generate.py

bench: install
	$(BIN)/python bench/peak.py

clean:
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
