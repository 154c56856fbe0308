# How things are done here. `make` lists the targets.
#
# Each target installs what it needs into .venv, with the releases of constraints.txt, and is quick when that is there.

PYTHON ?= python3
VENV ?= .venv
SEEDS ?= 200
BIN := $(VENV)/bin
PYTEST_ARGS ?=
GUESTBOOK := examples/guestbook/infra-guestbook.yaml examples/guestbook/node-definitions.yaml

# Old and new pips take the releases for the build itself from one or the other of these.
INSTALL := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt \
	$(BIN)/python -m pip install --quiet -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help demo test lint format type docs bench simulate serve testbed-openstack testbed-openstack-down dist \
	constraints clean testbed-docker testbed-docker-down

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-23s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  PYTHON=python3.12 chooses the interpreter (3.11 or newer), VENV=folder the place of the environment,"
	@echo "  PYTEST_ARGS='-k lease' the tests, SEEDS=1000 the seeds of the simulation."

demo: $(VENV)/.core ## build the guestbook on this machine, or say that nothing is to do
	@$(BIN)/pelagos up $(GUESTBOOK)
	@echo
	@echo "The command is $(BIN)/pelagos; \`. $(BIN)/activate\` puts it on your PATH."
	@echo "The tutorial goes on from here: docs/tutorials/guestbook.md"

# Tests take from a millisecond to half a minute: who has none left takes some of the other's.
test: $(VENV)/.dev ## run all tests; those whose service is absent are skipped, and listed
	$(BIN)/pytest -n auto --dist worksteal $(PYTEST_ARGS)

lint: $(VENV)/.dev ## check style, format and which room imports which
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports --no-cache

format: $(VENV)/.dev ## write the files in the one format
	$(BIN)/ruff check --fix --select I
	$(BIN)/ruff format

type: $(VENV)/.dev ## check types, strictly
	$(BIN)/mypy

docs: $(VENV)/.docs ## build the documents into docs/_build/html; a warning is an error
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

bench: $(VENV)/.dev ## measure what the numbers of docs/performance.md say
	$(BIN)/python -m benchmarks

simulate: $(VENV)/.dev ## run SEEDS seeds of the simulation
	$(BIN)/python -m pelagos.simulation --seeds $(SEEDS)

testbed-docker: ## start a Docker engine (podman) and a registry for tests; installs them where absent, as root
	@testbeds/docker/testbed up

testbed-docker-down: ## stop them, and remove all that was theirs
	@testbeds/docker/testbed down

serve: $(VENV)/.core ## run all services and the HTTP API, and keep alive what is to be kept alive
	$(BIN)/pelagos serve

testbed-openstack: $(VENV)/.dev ## start a real OpenStack on loopback, for tests of the driver (root, 3 GB, minutes)
	@$(BIN)/python testbeds/openstack/testbed.py up

testbed-openstack-down: $(VENV)/.dev ## stop it, and remove all that it wrote
	@$(BIN)/python testbeds/openstack/testbed.py down

dist: $(VENV)/.dev ## build the source distribution and the wheel into dist/, and look into them
	rm -rf dist
	PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(BIN)/python -m build --outdir dist . > /dev/null
	$(BIN)/python .ci/check_dist.py dist

constraints: ## write constraints.txt anew with the newest releases that fit
	./.ci/pin $(PYTHON)

clean: ## remove what the other targets made; your infrastructures stay as they are
	rm -rf $(VENV) docs/_build dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests benchmarks docs examples -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. Its stamps are younger than what it was installed from; a half-made one is made again.

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Pelagos needs Python 3.11 or newer; name one, for example: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "This Python cannot make environments. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "Making $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.core: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Pelagos into $(VENV) (once, and after changes of pyproject.toml or constraints.txt)"
	@$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Pelagos and what its tests need into $(VENV)"
	@$(INSTALL) -e '.[dev]'
	@touch $(VENV)/.core $@

$(VENV)/.docs: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing Pelagos and what its documents need into $(VENV)"
	@$(INSTALL) -e '.[docs]'
	@touch $(VENV)/.core $@
