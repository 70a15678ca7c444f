# Every target makes the environment in .venv first, if it is not there, and may be called again at any time.
.DEFAULT_GOAL := help
.PHONY: help demo test test-memory test-oldest test-deepspeed check reproduce verify bench clean

PYTHON ?= python3
BIN := .venv/bin
OUTPUT ?= outputs/demo
# How many pairs the property tests draw: quick, ci or deep.
PROFILE ?= quick
RUST_SOURCES := $(shell find rust -name '*.rs' -o -name '*.toml') Cargo.toml Cargo.lock
export HF_HUB_DISABLE_TELEMETRY := 1

help: ## Show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

.venv/.built: pyproject.toml $(RUST_SOURCES)
	@echo "== Building retainfirst into .venv (the first time this downloads the dependencies: several minutes)"
	@command -v cargo >/dev/null || { echo "cargo was not found: install a stable Rust toolchain, see https://rustup.rs"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, not " + sys.version.split()[0])'
	test -d .venv || $(PYTHON) -m venv .venv
	@# Without build isolation every source package builds with what is here: rouge-score (of lm-eval) needs setuptools and wheel.
	$(BIN)/python -m pip install --quiet --upgrade pip setuptools wheel "maturin>=1.7,<2"
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[test]"
	@touch $@

demo: .venv/.built ## The paper's 3x3 table on the built-in facts, in minutes; report in outputs/demo
	@echo "== Reproducing the paper's table on a small model (the first run trains it, some seconds)"
	$(BIN)/retainfirst reproduce --output $(OUTPUT)

test: .venv/.built ## Run the Rust and the Python tests
	@echo "== Rust tests"
	cargo test --workspace --quiet
	@echo "== Python tests"
	$(BIN)/python -m pytest --hypothesis-profile=$(PROFILE)

# The kernels with AVX2: valgrind has no AVX-512, for which the same tests in `make test` have pages that may not be touched.
VALGRIND := valgrind --quiet --error-exitcode=99 --leak-check=full --show-leak-kinds=definite --errors-for-leak-kinds=definite

test-memory: .venv/.built ## Run the code that is unsafe under valgrind, in two minutes
	@command -v valgrind >/dev/null || { echo "valgrind was not found: install it, for example with apt-get install valgrind"; exit 1; }
	@echo "== The kernels under valgrind"
	cargo test --quiet --package retainfirst-core --all-features --test memory --config 'target."cfg(unix)".runner = "$(VALGRIND)"'
	@echo "== The binding under valgrind"
	$(BIN)/python tests/under_valgrind.py

# transformers 4.45 is the oldest version that the trainer supports; these are the newest libraries that it goes with.
.venv-oldest/.installed: .venv/.built
	@echo "== Installing transformers 4.45.1 and its companions beside the environment"
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target .venv-oldest transformers==4.45.1 accelerate==0.34.2 \
	  tokenizers==0.20.3 huggingface_hub==0.26.5 datasets==3.0.1 fsspec==2024.6.1 dill==0.3.8 multiprocess==0.70.16 peft==0.13.2
	@touch $@

test-oldest: .venv-oldest/.installed ## Run the trainer's tests on the oldest supported transformers
	PYTHONPATH=.venv-oldest $(BIN)/python -m pytest -p no:cacheprovider tests/unit/test_hf.py tests/unit/test_objectives.py \
	  tests/unit/test_data.py tests/end_to_end/test_unlearn.py

# DeepSpeed on the CPU: nothing of it is compiled, and none of its other dependencies is needed.
.venv-deepspeed/.installed: .venv/.built
	@echo "== Installing DeepSpeed beside the environment"
	DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --upgrade \
	  --target .venv-deepspeed deepspeed==0.19.8 einops hjson msgpack ninja py-cpuinfo
	@touch $@

test-deepspeed: .venv-deepspeed/.installed ## Run the tests of the DeepSpeed engine, on two processes
	PYTHONPATH=.venv-deepspeed DS_BUILD_OPS=0 DS_ACCELERATOR=cpu $(BIN)/python -m pytest -p no:cacheprovider \
	  tests/distributed/test_deepspeed.py

check: .venv/.built ## rustfmt, clippy, ruff, mypy, stubtest
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings
	cargo clippy --package retainfirst-core --all-targets --quiet -- -D warnings
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest retainfirst._rust

reproduce: .venv/.built ## All rules, sweeps and seeds, in less than 45 minutes on two cores; report in outputs/full
	$(BIN)/retainfirst reproduce --tier full --output outputs/full

verify: .venv/.built ## Check the theorem book, every pair of 16-bit numbers included; results in outputs
	mkdir -p outputs
	$(BIN)/retainfirst verify --exhaustive --output outputs

bench: .venv/.built ## What the rules, a step, its memory, the import and the verification cost, in some ten minutes; results in outputs/bench
	$(BIN)/retainfirst bench combine --output outputs/bench
	$(BIN)/retainfirst bench step --output outputs/bench
	$(BIN)/retainfirst bench memory --output outputs/bench
	$(BIN)/retainfirst bench imports --output outputs/bench
	$(BIN)/retainfirst bench verify --output outputs/bench

clean: ## Remove the environments and what was built
	rm -rf .venv .venv-oldest .venv-deepspeed target outputs
