# Everything runs from an environment in this folder; nothing is installed elsewhere.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Where the tests have their ledgers: sqlite or postgresql.
LEDGER ?= sqlite
WORKERS ?= 3
KIND ?= crash

.DEFAULT_GOAL := help
.PHONY: help demo up down test crash check bench format lock clean

help: ## show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: apt-get install python3-venv"; exit 1; }
	@echo "installing the locked dependencies into $(VENV) (once, about two minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## the whole story on real input, then everything is ended again
	@$(BIN)/delivery demo

up: $(STAMP) ## start the local stack and keep it until Ctrl-C
	@$(BIN)/delivery up

down: $(STAMP) ## end the local stack, also one that crashed
	@$(BIN)/delivery down

test: $(STAMP) ## every test but those of make crash, with real servers (LEDGER=postgresql: every ledger there)
	@$(BIN)/python -m pytest --ledger $(LEDGER) -n $(WORKERS) --dist loadfile --no-loadscope-reorder

crash: $(STAMP) ## kill what runs at every point, break things one by one and in pairs, run every order of steps
	@$(BIN)/python -m pytest --ledger $(LEDGER) -m "$(KIND)" tests

check: $(STAMP) ## lint, format, types, import arrows, documents
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q tests/docs

bench: $(STAMP) ## benchmarks against peers, as ratios
	@$(BIN)/python tests/bench/bench_ramp.py
	@$(BIN)/python tests/bench/bench_costs.py
	@$(BIN)/python tests/bench/bench_ingestion.py
	@$(BIN)/python tests/bench/bench_truth.py
	@$(BIN)/python tests/bench/bench_quality.py
	@$(BIN)/python tests/bench/bench_drift.py
	@$(BIN)/python tests/bench/bench_segments.py
	@$(BIN)/python tests/bench/bench_rollback.py

format: $(STAMP) ## format the code
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

# To pip, name[extra] and name are two things to be pinned; uv writes the first only.
define PIN_WITHOUT_EXTRAS
import re, pathlib
lock = pathlib.Path("requirements.lock")
pins = re.findall(r"^\S.*?\n(?=\S|\Z)", lock.read_text(), re.M | re.S)
both = {re.sub(r"\[[^]]*\]", "", pin, count=1) for pin in pins} | set(pins)
lock.write_text("".join(sorted(both, key=lambda pin: re.split(r"==", pin)[0])))
endef
export PIN_WITHOUT_EXTRAS

lock: $(STAMP) ## resolve the dependencies anew, with hashes and without addresses
	@$(BIN)/uv pip compile pyproject.toml --extra dev --universal --no-strip-extras --generate-hashes --no-header \
	  --no-annotate --no-emit-index-url --no-emit-find-links --python-version 3.11 --output-file requirements.lock
	@$(BIN)/python -c "$$PIN_WITHOUT_EXTRAS"

clean: ## delete the environment and all state
	@for state in .state .state-demo; do test ! -x $(BIN)/delivery || $(BIN)/delivery down --state $$state; done
	rm -rf $(VENV) .state .state-demo
