# micronets_jax: make help

PYTHON ?= $(or $(shell command -v python3.11),python3)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
AOT := $(VENV)/aot
WORKERS ?= 2
ARGS ?=

# TensorFlow's start-up chatter tells nobody anything; its errors still show.
export TF_CPP_MIN_LOG_LEVEL ?= 2
export GRPC_VERBOSITY ?= ERROR

.DEFAULT_GOAL := help
.PHONY: help kws install aot test test-slow lint format lock clean

help:  ## Say what there is
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

kws: $(INSTALLED)  ## Find a keyword spotter on embedded data (ARGS="--help" shows the options)
	$(BIN)/python -m experiments.kws $(ARGS)

install: $(INSTALLED)  ## Create .venv with everything pinned in requirements.lock

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo \
	  "micronets_jax needs Python 3.11 or newer, and $(PYTHON) is not;" \
	  "install it, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { echo \
	  "$(PYTHON) cannot make virtual environments;" \
	  "on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
	  -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	  --no-build-isolation -e .
	@touch $@

# Beside the environment, not in it: JAX would look for these chips whenever it starts.
aot: $(AOT)/installed  ## Install XLA's compilers for TPUs and GPUs that are not here (1 GB)

$(AOT)/installed: requirements-aot.lock $(INSTALLED)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
	  --upgrade --target $(AOT) -r requirements-aot.lock
	@touch $@

# Fast tests compile many programs that hardly run, so these are not optimised.
test: $(INSTALLED)  ## Fast tests; they need nothing of the system
	XLA_FLAGS="$(XLA_FLAGS) --xla_backend_optimization_level=0" \
	  $(BIN)/python -m pytest -m "not slow" -n $(WORKERS) $(ARGS)

# Tests of a file share what they ran, emulated models and whole searches, so they stay together.
test-slow: $(INSTALLED)  ## All other tests; they need the packages that .ci/run names
	$(BIN)/python -m pytest -m slow -n $(WORKERS) --dist loadfile $(ARGS) || { \
	  status=$$?; [ $$status -eq 5 ] && echo "there are no slow tests" || exit $$status; }

lint: $(INSTALLED)  ## Style, types, import floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

format: $(INSTALLED)  ## Lay the code out as lint wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock:  ## Pin the newest versions that pyproject.toml allows (needs uv)
	uv pip compile pyproject.toml --extra dev --extra phone --extra sweep --python-version 3.11 \
	  --universal --fork-strategy fewest --generate-hashes --no-emit-index-url \
	  --no-emit-find-links --no-header --no-annotate --upgrade --quiet -o requirements.lock
	printf '%s\n' jax-cuda13-pjrt==0.10.2 jax-cuda13-plugin==0.10.2 libtpu==0.0.42.1 | \
	  uv pip compile - --no-deps --python-version 3.11 --universal --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-header --no-annotate --quiet \
	  -o requirements-aot.lock

clean:  ## Remove what make created; results in runs/ stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .import_linter_cache
