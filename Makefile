# Every target first makes the environment in .venv, unless it is there.
.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-memory test-oldest test-deepspeed test-lower-bounds test-wheel check site site-serve dist reproduce verify bench clean

PYTHON ?= python3
BIN := .venv/bin
# uv makes the environment as uv.lock says. Where it is not installed, pip puts it into .uv.
UV := $(shell command -v uv || echo .uv/bin/uv)
OUTPUT ?= outputs/demo
# The number of pairs that the property tests draw: quick (20), ci (60) or deep (2000).
PROFILE ?= quick
# The number of processes that share the Python tests: at most one a core, and about 1 GiB of memory each.
WORKERS ?= auto
PYTEST := $(BIN)/python -m pytest --numprocesses=$(WORKERS) --maxprocesses=8 --dist=loadfile --no-loadscope-reorder \
  --hypothesis-profile=$(PROFILE)
RUST_SOURCES := $(shell find rust -name '*.rs' -o -name '*.toml') Cargo.toml Cargo.lock
export HF_HUB_DISABLE_TELEMETRY := 1
# uv uses the Python that it is given, and downloads none.
export UV_PYTHON_DOWNLOADS := never
# As pip does: the system's certificates, behind a proxy of one's own too, and patience with large files.
export UV_SYSTEM_CERTS := true
export UV_HTTP_TIMEOUT := 180

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet "uv>=0.9"

.venv/.built: pyproject.toml uv.lock $(RUST_SOURCES) | $(UV)
	@echo "== Building retainfirst into .venv (the first time this downloads the dependencies: several minutes)"
	@command -v cargo >/dev/null || { echo "cargo was not found: install a stable Rust toolchain, see https://rustup.rs"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, not " + sys.version.split()[0])'
	@# The package is reinstalled, since uv cannot see that a compiled extension was deleted.
	$(UV) sync --quiet --locked --python $(PYTHON) --extra test --reinstall-package retainfirst
	@touch $@

demo: .venv/.built ## Reproduce the paper's 3x3 table on the built-in facts, in minutes; report in outputs/demo
	@echo "== Reproducing the paper's table on a small model (the first run trains it, some seconds)"
	$(BIN)/retainfirst reproduce --part combiners --output $(OUTPUT)

test: .venv/.built ## Run the Rust tests and the quick Python tests, in 7 to 8 minutes on two cores
	@echo "== Rust tests, with a quarter of the drawn cases"
	PROPTEST_CASES=64 cargo test --workspace --quiet
	@echo "== Python tests, without those marked slow"
	$(PYTEST) -m "not slow"

test-all: .venv/.built ## Run all Rust and Python tests
	@echo "== Rust tests"
	cargo test --workspace --quiet
	@echo "== Python tests"
	$(PYTEST)

# valgrind runs the kernels with AVX2, since it has no AVX-512. For AVX-512 the Rust tests put guard pages around the arrays.
VALGRIND := valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite

test-memory: .venv/.built ## Run the unsafe code under valgrind, in two minutes
	@command -v valgrind >/dev/null || { echo "valgrind was not found: install it, for example with apt-get install valgrind"; exit 1; }
	@echo "== The kernels under valgrind"
	cargo test --quiet --package retainfirst-core --all-features --test memory --config 'target."cfg(unix)".runner = "$(VALGRIND)"'
	@echo "== The binding under valgrind"
	$(BIN)/python tests/under_valgrind.py

# transformers 4.45 is the oldest version that the trainer supports. The others are the newest versions that work with it.
.venv-oldest/.installed: .venv/.built
	@echo "== Installing transformers 4.45.1 and its companions beside the environment"
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --upgrade --target .venv-oldest transformers==4.45.1 accelerate==0.34.2 \
	  tokenizers==0.20.3 huggingface_hub==0.26.5 datasets==3.0.1 fsspec==2024.6.1 dill==0.3.8 multiprocess==0.70.16 peft==0.13.2
	@touch $@

test-oldest: .venv-oldest/.installed ## Run the trainer's tests on the oldest supported transformers
	PYTHONPATH=.venv-oldest $(PYTEST) -p no:cacheprovider tests/unit/hf tests/unit/objectives tests/unit/data \
	  tests/end_to_end/unlearn

# DeepSpeed on the CPU: nothing of it is compiled, and its other dependencies are not needed.
.venv-deepspeed/.installed: .venv/.built
	@echo "== Installing DeepSpeed beside the environment"
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --upgrade \
	  --target .venv-deepspeed deepspeed==0.19.8 einops hjson msgpack ninja py-cpuinfo
	@touch $@

test-deepspeed: .venv-deepspeed/.installed ## Run the tests of the DeepSpeed engine
	PYTHONPATH=.venv-deepspeed DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(BIN)/python -m pytest -p no:cacheprovider \
	  tests/distributed/test_deepspeed.py

# The oldest versions that pyproject.toml allows, of the library and the trainer: other gigabytes of torch, so not in .ci/run.
.venv-lowest/.installed: pyproject.toml $(RUST_SOURCES) | $(UV)
	@echo "== Installing the lower bounds of the dependencies into .venv-lowest"
	$(UV) venv --quiet --clear --python $(PYTHON) .venv-lowest
	@# From the file, since the dependencies of a package that is named are not direct ones.
	$(UV) pip install --quiet --python .venv-lowest/bin/python --resolution lowest-direct --requirements pyproject.toml \
	  --extra hf --extra verify "pytest>=8"
	$(UV) pip install --quiet --python .venv-lowest/bin/python --no-deps .
	@touch $@

test-lower-bounds: .venv-lowest/.installed ## Run the unit tests of the library on the oldest versions of its dependencies
	.venv-lowest/bin/python -m pytest -p no:cacheprovider -m "not slow" tests/unit/combiners tests/unit/step tests/unit/objectives \
	  tests/unit/test_geometry.py tests/unit/test_scope.py tests/unit/test_reference.py tests/unit/test_testing.py

test-wheel: .venv/.built ## Build the wheels and the sdist, and run them in an environment without a compiler
	$(BIN)/python -m pytest tests/packaging

dist: .venv/.built ## Build the sdist, the wheels for this platform and for every platform, and the plugin's; files in dist
	$(BIN)/maturin build --quiet --release --sdist --out dist
	$(BIN)/python release/universal_wheel.py dist/retainfirst-[0-9]*-abi3-*.whl
	$(UV) build --quiet --wheel --sdist --python $(BIN)/python --out-dir dist plugin

check: .venv/.built ## rustfmt, clippy, ruff, mypy, stubtest
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	cargo clippy --package retainfirst-core --all-targets --quiet -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest retainfirst._rust

# Material for MkDocs has security updates until May 2027; its notice about that would hide what the build says.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs

.venv/.docs: .venv/.built
	@echo "== Installing what builds the site"
	$(UV) sync --quiet --locked --python $(PYTHON) --extra test --extra docs
	@touch $@

site: .venv/.docs ## Build the documentation site into outputs/site; a warning is an error
	$(MKDOCS) build --strict

site-serve: .venv/.docs ## Show the documentation site on http://127.0.0.1:8000, and build it anew at each change
	$(MKDOCS) serve

reproduce: .venv/.built ## Reproduce with all combiners, sweeps and seeds, in about an hour and a half on two cores; report in outputs/full
	$(BIN)/retainfirst reproduce --tier full --output outputs/full

verify: .venv/.built ## Check the theorem book, also on every pair of 16-bit numbers; results in outputs
	mkdir -p outputs
	$(BIN)/retainfirst verify --exhaustive --output outputs

bench: .venv/.built ## Run all benchmarks, in about fifteen minutes; results in outputs/bench
	$(BIN)/retainfirst bench combine --output outputs/bench
	$(BIN)/retainfirst bench step --output outputs/bench
	$(BIN)/retainfirst bench guard --output outputs/bench
	$(BIN)/retainfirst bench memory --output outputs/bench
	$(BIN)/retainfirst bench imports --output outputs/bench
	$(BIN)/retainfirst bench verify --output outputs/bench

clean: ## Remove the environments and all build products
	rm -rf .uv .venv .venv-oldest .venv-deepspeed .venv-lowest dist target outputs
