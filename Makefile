# Homeward: everything a developer or an operator of one machine needs.
# Needs Python 3.11 or newer, make and a package index; nothing else.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := models indexer service scripts tests deploy/image

# Options of `make run`, `make bench` and `make test`, as in: make test PYTEST="-k decode -x"
RUN ?=
BENCH ?=
PYTEST ?=
# Test processes; each one keeps its numerical libraries to one thread.
WORKERS ?= 2

.PHONY: help
help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | \
		while IFS="$$(printf '\t')" read -r name text; do printf '  make %-10s %s\n' "$$name" "$$text"; done

.PHONY: install
install: $(STAMP) ## make .venv with all that running and developing on CPU needs

$(STAMP): requirements-build.lock requirements-dev.lock pyproject.toml
	@python=$$(sh scripts/find_python.sh $(PYTHON)) && \
		{ $(BIN)/python -c '' 2>/dev/null || "$$python" -m venv --clear $(VENV); }
	$(PIP) install --quiet --require-hashes -r requirements-build.lock
	$(PIP) install --quiet --require-hashes --no-build-isolation -r requirements-dev.lock
	PYTHONWARNINGS=ignore $(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@packages=$$($(BIN)/python scripts/check_native.py); case $$? in \
		0) ;; \
		3) sh scripts/debian_packages.sh $$packages && $(BIN)/python scripts/check_native.py ;; \
		*) exit 1 ;; esac
	@touch $@

.PHONY: run
run: $(STAMP) ## load the demonstration (first time only) and serve it on 127.0.0.1:8000
	@$(BIN)/homeward demo $(RUN)

.PHONY: test
test: $(STAMP) ## run every test
	@mkdir -p .cache
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal \
		--no-cov $(PYTEST)

.PHONY: coverage
coverage: $(STAMP) ## run every test and measure which lines they reach, with a floor; takes a third longer
	@mkdir -p .cache
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal \
		--cov --cov-report=term

.PHONY: soak
soak: $(STAMP) ## kill real processes CRASH_ROUNDS (50) times on each database, then load them for SOAK_MINUTES (30)
	@mkdir -p .cache
	CRASH_ROUNDS=$${CRASH_ROUNDS:-50} OMP_NUM_THREADS=1 $(BIN)/python -m pytest --no-cov -s \
		tests/endurance/test_crash.py
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.endurance.soak --minutes $${SOAK_MINUTES:-30}

.PHONY: reindex-soak
reindex-soak: $(STAMP) ## kill processes SWAP_ROUNDS (25) times while packs are changed, then re-index REINDEX_FACES (100000)
	SWAP_ROUNDS=$${SWAP_ROUNDS:-25} OMP_NUM_THREADS=1 $(BIN)/python -m pytest --no-cov -s \
		tests/endurance/test_swaps.py
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.endurance.generations --faces $${REINDEX_FACES:-100000}

.PHONY: rates
rates: $(STAMP) ## measure two workers against one, and answers beside a full load
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.endurance.rates workers
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.endurance.rates answers

.PHONY: lint
lint: $(STAMP) ## format, lint, types and who may import whom
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/lint-imports --cache-dir .cache/import-linter

.PHONY: check
check: lint test ## lint and test: what has to hold before a change goes in

.PHONY: format
format: $(STAMP) ## put the source into the house's format
	$(BIN)/ruff check --fix-only --quiet $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

.PHONY: bench
bench: $(STAMP) ## measure this machine: images a second, milliseconds a stage, searches
	@$(BIN)/homeward bench $(BENCH)

.PHONY: fuzz
fuzz: $(STAMP) ## feed the decoder mutated images for FUZZ_SECONDS (60)
	@mkdir -p .cache/fuzz
	$(BIN)/python -m tests.fuzz.fuzz_decode -artifact_prefix=.cache/fuzz/ -max_total_time=$${FUZZ_SECONDS:-60}

.PHONY: images-check
images-check: $(STAMP) ## run every step of both Dockerfiles in a clean root (as root, with debootstrap)
	$(BIN)/python -m scripts.check_gpu_wheels --nvidia
	$(BIN)/python -m scripts.check_images Dockerfile Dockerfile.gpu

.PHONY: lock
lock: $(STAMP) ## resolve the lock files anew (UPGRADE=1 to take newer versions)
	$(BIN)/uv pip compile --quiet $(if $(UPGRADE),--upgrade) --group build -o requirements-build.lock
	$(BIN)/uv pip compile --quiet $(if $(UPGRADE),--upgrade) pyproject.toml --extra cpu \
		-o requirements.lock
	$(BIN)/uv pip compile --quiet $(if $(UPGRADE),--upgrade) pyproject.toml --extra cpu --extra scale \
		-c requirements.lock -o requirements-scale.lock
	$(BIN)/uv pip compile --quiet $(if $(UPGRADE),--upgrade) pyproject.toml --extra cpu --extra scale \
		--extra dev -c requirements-scale.lock \
		-c requirements-build.lock -o requirements-dev.lock
	$(BIN)/uv pip compile --quiet $(if $(UPGRADE),--upgrade) pyproject.toml --extra gpu --extra scale \
		--group gpu --no-emit-package onnxruntime --no-emit-package faiss-cpu \
		-c requirements-scale.lock -o requirements-gpu.lock

.PHONY: clean
clean: ## remove the environment and caches; data folders stay
	rm -rf $(VENV) .cache build dist *.egg-info
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
