# The workshop: environment, checks, tests, demo. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory
# Where Python is told to keep no byte code, every agent that a test starts would compile all of its modules again.
unexport PYTHONDONTWRITEBYTECODE

VENV := .venv
BIN := $(VENV)/bin
PYTHON_FILES := agent bootstrap tests $(wildcard examples)
TYPED := agent bootstrap tests
REPORTS := build/reports
# Who may make networks gives each worker what is one on a machine (its network, the lab's registry); else all of them
# run one after another. Root in a container mayn't.
NETWORKS = $(shell unshare --net true 2>/dev/null && echo may)
ROOT := $(filter 0,$(shell id -u))
PARTS := unit sim loopback lab
# Agents wait for each other, unit tests for engines and processes of their own, and simulated worlds for nothing: beside
# each other they leave no processor idle. Agents go first, but not so much that a unit test with a time limit starves,
# and worlds, whose time is virtual, take what the others leave.
BESIDE := --output-sync=target --jobs=$(if $(NETWORKS),3,1)

# An environment that is not this tree's own (copied along with it, say) is made again.
ifneq ($(file <$(VENV)/.stamp),$(CURDIR))
.PHONY: $(VENV)/.stamp
endif

$(VENV)/.stamp: requirements.lock pyproject.toml
	@.ci/venv

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: venv
venv: $(VENV)/.stamp ## Make .venv with exactly the locked versions (PYTHON=… chooses the interpreter)
	@:

.PHONY: lock
lock: ## Renew requirements.lock to the latest versions that pyproject.toml allows
	@[[ -x $(BIN)/uv ]] || $(MAKE) venv
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --group dev --upgrade \
	    --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
	    --output-file requirements.lock pyproject.toml
	@$(MAKE) venv

.PHONY: fmt
fmt: $(VENV)/.stamp ## Format the code and sort its imports
	@$(BIN)/ruff check --quiet --select I --fix $(PYTHON_FILES)
	@$(BIN)/ruff format $(PYTHON_FILES)

.PHONY: check check-lint check-format check-types check-imports check-rules
check: check-lint check-format check-types check-imports check-rules ## Lint, format, types, imports, house rules (-k goes on after a failure)
check-lint: $(VENV)/.stamp
	$(BIN)/ruff check $(PYTHON_FILES)
check-format: $(VENV)/.stamp
	$(BIN)/ruff format --check $(PYTHON_FILES)
check-types: $(VENV)/.stamp
	$(BIN)/mypy $(TYPED)
check-imports: $(VENV)/.stamp
	$(BIN)/lint-imports --no-logo
check-rules: $(VENV)/.stamp
	$(BIN)/python -m tests.checks

# Loopback and lab name their files: each worker would collect thousands of others first.
# Every part runs, also after one failed, so that the totals are the whole truth; a part that collects no test fails.
.PHONY: test
test: $(VENV)/.stamp ## All tests; the last line shows the totals
	@rm -rf $(REPORTS); status=0; echo 'unit, simulator and loopback tests, shown when each is done: some minutes'; \
	$(MAKE) $(BESIDE) --keep-going test-unit test-loopback test-sim || status=1; \
	$(MAKE) test-lab || status=1; \
	$(BIN)/python -m tests.checks.totals $(PARTS:%=$(REPORTS)/%.xml) || status=1; \
	exit $$status

.PHONY: test-unit
test-unit: $(VENV)/.stamp ## Unit, property and transcript tests, in parallel
	nice -n 5 .ci/in-memory $(BIN)/python -m pytest -q -n 2 --dist worksteal -m 'not loopback and not lab' \
	    --ignore=tests/sim --junitxml=$(REPORTS)/unit.xml

.PHONY: test-sim
test-sim: $(VENV)/.stamp ## Simulated worlds: stories, fixed seeds and a few fresh ones
	nice -n 7 $(BIN)/python -m pytest -q tests/sim --junitxml=$(REPORTS)/sim.xml

.PHONY: test-loopback
test-loopback: $(VENV)/.stamp ## Real agents on loopback, end to end
	.ci/in-memory $(BIN)/python -m pytest -q -n $(if $(NETWORKS),3,0) --dist loadfile --no-loadscope-reorder -m loopback \
	    tests/loopback \
	    --junitxml=$(REPORTS)/loopback.xml

.PHONY: test-lab
test-lab: $(VENV)/.stamp ## Hosts as namespaces on this machine, as root (MUSTER_NO_SKIP=1 fails what would skip)
	$(if $(ROOT),@$(BIN)/python -m tests.lab base)
	$(BIN)/python -m pytest -q -n $(if $(NETWORKS),2,0) --dist loadfile --no-loadscope-reorder -m lab \
	    $$(grep --recursive --files-with-matches --include='test_*.py' 'mark\.lab\b' tests) --junitxml=$(REPORTS)/lab.xml

.PHONY: sim
sim: $(VENV)/.stamp ## Run the simulator (SEED=… runs that history again)
	$(BIN)/python -m tests.sim $(if $(SEED),--seed $(SEED))

.PHONY: sim-batch
sim-batch: $(VENV)/.stamp ## Two minutes of fresh simulated worlds on two cores (WORLDS=… runs that many instead)
	$(BIN)/python -m tests.sim --jobs 2 $(if $(WORLDS),--worlds $(WORLDS),--for 120)

.PHONY: sim-mutants
sim-mutants: $(VENV)/.stamp ## Switch known bugs on, one at a time: the simulator must catch every one
	$(BIN)/python -m tests.sim.mutants

.PHONY: soak
soak: $(VENV)/.stamp ## Five minutes of power cuts and partitions on lab hosts while operators write (SECONDS=…, as root)
	$(BIN)/python -m tests.soak --for $(or $(SECONDS),300)

.PHONY: bench
bench: $(VENV)/.stamp ## Measure what the README promises
	$(BIN)/python -m tests.bench

.PHONY: demo
demo: $(VENV)/.stamp ## Show a cluster at work: a LAN of booted hosts as root on Debian, else MODE=loopback
	@$(BIN)/python -m tests.lab.demo $(if $(MODE),--mode $(MODE))

.PHONY: lab
lab: $(VENV)/.stamp ## Start a lab of three hosts, as root
	$(BIN)/python -m tests.lab up 3

.PHONY: lab-down
lab-down: $(VENV)/.stamp ## Stop the lab
	$(BIN)/python -m tests.lab down

.PHONY: clean
clean: ## Remove caches and reports; .venv and the lab's tree stay
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find agent bootstrap tests examples -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
