# The front door. Every target does its own set-up; `make` alone prints the help.
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory
# uv installs no bytecode. Where this is set, each process would compile all it imports, each time:
# feast in 20 s for 9, the command line in 0.6 s for 0.2.
unexport PYTHONDONTWRITEBYTECODE
# So setup compiles the large packages that our commands import, on all cores. Else the first demo does it
# while somebody waits, with one core: of its 160 s it took 40. All that is installed would take four times
# as long.
COMPILED := alembic botocore feast hypothesis kfp kfp_server_api kubernetes matplotlib mlflow narwhals numpy \
	opentelemetry pandas pandera polars pydantic redis scipy skl2onnx sklearn sqlalchemy

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV     := $(VENV)/uv/bin/uv
UV_VERSION := 0.13.8
IMAGE_TOOL ?= docker
STAMP  := $(VENV)/.installed

##@ Use
.PHONY: demo up down status
demo: setup ## The whole loop on this laptop: data, features, training, gates, serving
	$(BIN)/slipway demo

up: setup ## Start the embedded platform (S3, online store, tracking)
	$(BIN)/slipway up

down: ## Stop the embedded platform; data stays
	@test -x $(BIN)/slipway && $(BIN)/slipway down || echo "nothing is installed, so nothing runs"

status: setup ## Health, ports, sizes and versions of the embedded platform
	$(BIN)/slipway status

##@ Check
.PHONY: test lint type format
test: setup ## Every test, with a short slice of the fuzzing
	$(BIN)/python -m pytest -n 2 -m "not benchmark and not soak and not images" $(ARGS)

lint: setup ## Ruff: lint and format, nothing is changed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: setup ## mypy --strict on slipway/ and serving/runtime/
	$(BIN)/mypy

format: setup ## Rewrite the code as the style asks
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

##@ Measure (minutes each)
.PHONY: bench fuzz soak
bench: setup ## Benchmarks against peers; BENCH=name runs one
	$(BIN)/python -m tests.benchmarks $(BENCH)

fuzz: setup ## A million random inputs into both protocol fronts and all decoders
	$(BIN)/python -m pytest tests/fuzz -m fuzz --fuzz-inputs 1000000 --timeout 14400 $(ARGS)

soak: setup ## Ten minutes of mixed load with failures; checks answers and memory
	$(BIN)/python -m pytest -m soak --timeout 1800 $(ARGS)

##@ Images (IMAGE_TOOL=docker or podman)
.PHONY: images test-images
images: ## Build both images; BASE=image for another base, REGISTRY=host/path to push and name by digest
	@for image in runtime:serving/runtime components:components; do \
		$(IMAGE_TOOL) build $(IMAGE_OPTIONS) $(if $(BASE),--build-arg BUILD_BASE=$(BASE) --build-arg BASE=$(BASE)) \
			--build-arg GIT_COMMIT=$$(git rev-parse HEAD) \
			-f $${image#*:}/Dockerfile -t slipway-$${image%%:*} . || exit 1; \
	done
	@$(if $(REGISTRY),for name in slipway-runtime slipway-components; do \
		$(IMAGE_TOOL) tag $$name $(REGISTRY)/$$name && $(IMAGE_TOOL) push $(PUSH_OPTIONS) $(REGISTRY)/$$name || exit 1; \
		$(IMAGE_TOOL) image inspect --format '{{index .RepoDigests 0}}' $(REGISTRY)/$$name; \
	done)

test-images: setup ## Run both images as a cluster would: read-only, no capabilities, no shell; needs `make images`
	IMAGE_TOOL="$(IMAGE_TOOL)" $(BIN)/python -m pytest -m images $(ARGS) tests/images

##@ Maintain
.PHONY: setup lock clean
setup: $(STAMP) ## Make the virtual environment from the hash-locked set

# pip fetches uv into an environment of its own (a sync removes what the lock does not name); uv then
# installs the locked set in seconds. A second run does nothing.
$(STAMP): requirements/dev.txt pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv --without-pip $(VENV)
	@test -x $(UV) || { $(PYTHON) -m venv $(VENV)/uv && \
		$(VENV)/uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION); }
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	@cd $$($(BIN)/python -c "import sysconfig; print(sysconfig.get_paths()['purelib'])") && \
		"$(CURDIR)/$(BIN)/python" -m compileall -q -q -j 0 -x '/tests?/' $(COMPILED) || true
	@touch $@

LOCK = $(UV) pip compile --quiet pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-header --no-emit-index-url --no-emit-find-links --index-strategy unsafe-best-match
lock: setup ## Resolve pyproject.toml again and write requirements/*.txt with hashes
	$(LOCK) --extra dev --output-file requirements/dev.txt
	$(LOCK) --extra serving --constraints requirements/dev.txt --output-file requirements/serving.txt
	$(LOCK) --extra components --constraints requirements/dev.txt --output-file requirements/components.txt

clean: down ## Remove the virtual environment and caches; platform data stays
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: help
help:
	@awk 'BEGIN {FS = ":.*## "; printf "Slipway: raw events to an autoscaled ONNX endpoint.\n\nUsage: make \033[36m<target>\033[0m\n"} \
	/^##@/ {printf "\n\033[1m%s\033[0m\n", substr($$0, 5)} \
	/^[a-z-]+:.*## / {printf "  \033[36m%-10s\033[0m %s\n", $$1, $$2}' $(MAKEFILE_LIST)
