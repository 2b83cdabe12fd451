# Needs nothing but Python 3.11 or newer on PATH (or PYTHON=...); everything else is fetched, pinned by hash.

PYTHON ?= python3
ARGS ?=
# Tests run side by side, each process with services of its own; what is marked slow (pyproject.toml) runs alone.
JOBS ?= 3
# Hundreds of processes are started; compiling the sources anew for each is a sixth of their start.
unexport PYTHONDONTWRITEBYTECODE
BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: help demo up bench-gateway bench-worker test test-containers fuzz overload slow-clients check format docs lock lock-kafka clean

help: ## Show this
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' Makefile

demo: $(READY) ## Run the main job on real input, on real Kafka and Postgres, and check every count
	@$(BIN)/plutus demo $(ARGS)

up: $(READY) ## Run everything here until Ctrl-C, for example: make up ARGS="--workers 3"
	@$(BIN)/plutus up $(ARGS)

bench-gateway: $(READY) ## Measure the gateway and its peers, for example: make bench-gateway ARGS="--only single --seconds 6"
	@$(BIN)/python -m infra.bench gateway $(ARGS)

bench-worker: $(READY) ## Measure the worker and its peers, for example: make bench-worker ARGS="--only drain --rounds 5"
	@$(BIN)/python -m infra.bench worker $(ARGS)

test: check ## Check, then run the tests on real Kafka and Postgres, side by side
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile -m "not slow" $(ARGS)

test-slow: $(READY) ## The tests that take long or need the machine for themselves: demo, kill -9, README, local mode
	$(BIN)/python -m pytest -m slow $(ARGS)

test-containers: $(READY) ## Build the images and run the whole compose file, where a Docker API answers
	PLUTUS_CONTAINERS=required $(BIN)/python -m pytest tests/integration/test_containers_run.py $(ARGS)

fuzz: $(READY) ## Look for input that breaks the parser, for example: make fuzz ARGS="--seconds 600"
	$(BIN)/python -m tests.fuzz $(ARGS)

overload: $(READY) ## Measure what a gateway does with twice what it can
	$(BIN)/python -m tests.faults.overload $(ARGS)

slow-clients: $(READY) ## Measure what 2,000 slow clients cost the others
	$(BIN)/python -m tests.faults.slow_clients $(ARGS)

check: $(READY) ## Format, lint and types, of the source and the tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(READY) ## Format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(READY) ## Renew what of the documents is made from the code
	$(BIN)/python -m tests.docs.documents

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "error: $(PYTHON) is not Python 3.11 or newer. Name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "making the environment in .venv"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

lock: ## Maintainers: renew requirements.lock from pyproject.toml (needs uv)
	@command -v uv >/dev/null || { echo "error: uv is not on PATH. Fix: pip install uv" >&2; exit 1; }
	uv pip compile --quiet pyproject.toml --universal --generate-hashes --all-extras --no-header --no-annotate \
	  --python-version 3.11 --upgrade --output-file requirements.lock

lock-kafka: $(READY) ## Maintainers: renew infra/local/kafka.lock, for example: make lock-kafka ARGS="4.3.1 2.25.4"
	$(BIN)/python -m infra.local.lock_kafka $(ARGS) > infra/local/kafka.lock.new
	mv infra/local/kafka.lock.new infra/local/kafka.lock

clean: ## Remove the environment and caches; data under .plutus stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis
