# Everything runs in .venv, which is made on first use and made anew when the lock changes.
# It needs python3 (3.11 or newer), or uv where it is there; after the first time, no network.

PYTHON ?= python3
UV := $(shell command -v uv 2>/dev/null)
UV_PYTHON := $(if $(filter file,$(origin PYTHON)),'>=3.11','$(PYTHON)')
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help demo test test-slow check bench bench-peers lock clean
.DEFAULT_GOAL := help

help: ## show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(STAMP) ## a month of New York flights lands, a small graph reacts
	$(VENV)/bin/freshet demo

test: $(STAMP) ## all tests (slow ones shortened)
	$(RUN) -m pytest

test-slow: $(STAMP) ## the long tests at full length
	$(RUN) -m pytest -m slow --timeout 3600

check: $(STAMP) ## ruff (lint, format), mypy --strict, layers and sizes
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy
	$(RUN) -m pytest -q tests/test_tidy.py

bench: $(STAMP) ## measure beside raw limits, keep the results, make benchmarks/README.md
	@$(RUN) -m benchmarks; code=$$?; $(RUN) -m benchmarks.report && exit $$code

bench-peers: $(STAMP) ## the same beside the peers, each in an environment of its own (long)
	@$(RUN) -m benchmarks.duels; code=$$?; $(RUN) -m benchmarks.report && exit $$code

lock: ## pin every package anew in requirements.lock (needs uv and network)
	@test -n "$(UV)" || { echo "error: uv is not on the PATH" >&2; \
	  echo "cause: the lock is made by uv, for all platforms at once" >&2; \
	  echo "hint: install it with \`pip install uv\`, then run \`make lock\` again" >&2; exit 1; }
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	  --generate-hashes --no-header --no-emit-index-url --no-emit-find-links --upgrade --quiet \
	  --output-file requirements.lock

clean: ## remove .venv and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist freshet.egg-info

# Installs what the lock says, by hash, then the tree itself in place.
$(STAMP): requirements.lock pyproject.toml
ifeq ($(UV),)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "error: $(PYTHON) is `$(PYTHON) --version 2>/dev/null || echo not there`" >&2; \
	  echo "cause: Freshet needs Python 3.11 or newer" >&2; \
	  echo "hint: name another one, as in \`make PYTHON=python3.12\`, or install uv" >&2; exit 1; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(RUN) -m pip install --quiet --require-hashes -r requirements.lock
	PYTHONWARNINGS=ignore $(RUN) -m pip install --quiet --no-deps --no-build-isolation --no-index -e .
else
	@$(RUN) -c '' 2>/dev/null || uv venv --quiet --clear --python $(UV_PYTHON) $(VENV)
	uv pip install --quiet --python $(RUN) --require-hashes -r requirements.lock
	uv pip install --quiet --python $(RUN) --no-deps --no-build-isolation -e .
endif
	@touch $@
