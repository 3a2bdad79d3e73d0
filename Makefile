# Everything a newcomer needs: 'make demo' from a fresh clone, 'make test' before a commit.
# Only 'install' uses the network, and only through pip.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

# Tests touch no model hub; tokenizers must not start threads under a forked test; each core has a process of its own.
TEST_ENV := HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false OMP_NUM_THREADS=1

.DEFAULT_GOAL := help
.PHONY: help install demo test slow lowest clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make .venv with the pinned versions; does nothing if it is up to date

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("Equipoise needs Python 3.11 or newer; $(PYTHON) is %d.%d. Try: make install PYTHON=python3.12" % v[:2])'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: install ## train on the synthetic demo set and write runs/demo
	$(BIN)/equipoise demo -o runs/demo

test: install ## format, lint, types, tests: stops at the first that fails
	@printf '\n== format ==\n'
	$(BIN)/ruff format --check .
	@printf '\n== lint ==\n'
	$(BIN)/ruff check .
	$(BIN)/python tests/security/bans.py src benchmarks examples
	@printf '\n== types ==\n'
	$(BIN)/mypy
	@printf '\n== tests and doctests ==\n'
	$(TEST_ENV) $(BIN)/pytest -n auto --dist loadfile
	@printf '\nAll passed.\n'

slow: install ## the tests that take minutes: kills by the hundred, 100,000 fuzzed inputs, exports
	$(TEST_ENV) $(BIN)/pytest -m 'slow and not gpu and not network' -n auto --dist loadfile

lowest: install ## some tests at the lowest versions that pyproject.toml allows; makes an environment of its own with uv
	$(BIN)/python tests/lowest/run.py --keep torch==2.13.0

clean: ## remove caches and build output; keeps .venv and runs
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
