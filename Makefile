PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
READY := $(VENV)/.ready
EVENTS ?= 20000
JOBS ?= 2 # tests without a broker run in so many processes

export OMP_NUM_THREADS ?= 1
export TOKENIZERS_PARALLELISM ?= false
unexport PYTHONDONTWRITEBYTECODE # every start of a worker would compile torch again: seconds each

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format types layers unit integration bench bench-learning soak broker schemas lock audit sbom clean

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'

install: $(READY) ## create .venv with everything, from the locked and hashed list

$(READY): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
	$(UV) pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps -e .
	@touch $(READY)

demo: install ## a simulated shop, an embedded broker, the trainer and a subscriber in one go
	$(BIN)/stream-mtl demo --events $(EVENTS)

test: install lint types layers schemas-check unit integration ## everything that must hold before a change lands

lint: install ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install ## let ruff rewrite
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install ## mypy, strict
	$(BIN)/mypy

layers: install ## import rules
	$(BIN)/lint-imports --no-cache

.PHONY: schemas-check
schemas-check: install
	$(BIN)/python -m schemas.generate --check

schemas: install ## regenerate schemas/json from the models
	$(BIN)/python -m schemas.generate

unit: install ## tests without a broker process
	$(BIN)/pytest tests -m "not integration" -n $(JOBS) --dist loadfile

integration: install ## tests on a real Apache Kafka (JDK 17 and Maven, or KAFKA_BOOTSTRAP)
	$(BIN)/pytest tests -m integration -rs

bench: install ## the figures of the spine, measured (about half an hour)
	$(BIN)/python -m benchmarks.all

bench-learning: install ## methods beside their peers: one table (hours)
	$(UV) pip install --quiet --python $(BIN)/python --no-deps recbole==1.2.1 # MovieLens lies in its wheel
	$(BIN)/python -m benchmarks.learning

soak: install ## every fault at its full dose on a real Kafka: one table (hours)
	$(BIN)/python -m benchmarks.soak --dose full

broker: install ## a real local Apache Kafka in the foreground
	$(BIN)/stream-mtl broker up

lock: install ## resolve requirements.lock anew
	$(UV) pip compile pyproject.toml --extra minilm --extra tune --extra s3 --extra index --extra bench --extra dev \
		--generate-hashes --no-emit-index-url --python-version 3.11 --universal --quiet --upgrade -o requirements.lock

# The auditors have their own dependencies, which are kept out of ours; their versions are pinned here.
audit: install ## known vulnerabilities of what is locked, and bandit over our code
	$(UV) tool run --from bandit==1.9.4 bandit -q -c pyproject.toml -r stream_mtl workers schemas
	$(BIN)/python .ci/audit.py $(UV) tool run --from pip-audit==2.10.1 pip-audit --require-hashes --disable-pip \
		-r requirements.lock

sbom: install ## what is installed, as CycloneDX JSON: build/sbom.json
	@mkdir -p build
	$(UV) tool run --from cyclonedx-bom==7.5.0 cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--of JSON -o build/sbom.json $(BIN)/python
	@echo build/sbom.json

clean: ## remove what the targets made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
