# `make` alone lists the verbs; from another folder: make -C path/to/sightline test
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
STAMP := .venv/.sightline-stamp
# TensorFlow reports every missing GPU library at its default level.
export TF_CPP_MIN_LOG_LEVEL ?= 3
# Three workers keep two cores busy, as tests also wait: for child processes, servers and disks.
PARALLEL := -n 3 --dist worksteal --durations 20 --durations-min 1

.PHONY: force help setup demo test test-slow test-onednn test-zoo test-peers lint format bench study soak serve stack2 lock clean

help: ## list the verbs
	@awk -F ' *:.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' Makefile

# The stamp holds the version of Python; asking for another one makes .venv anew.
CHANGED := $(if $(SIGHTLINE_PYTHON),$(filter-out $(shell cat $(STAMP) 2>/dev/null),$(SIGHTLINE_PYTHON)))
$(STAMP): pyproject.toml uv.lock tools/setup.sh $(if $(CHANGED),force)
	@tools/setup.sh

setup: $(STAMP) ## make .venv from the lock file, with .venv/bin/sightline in it
	@:

demo: ## set up, train, compress, evaluate, push, serve and ask: on real scanned digits (PHOTOS=DIR)
	@SECONDS=0; $(MAKE) --no-print-directory setup; PHOTOS="$(PHOTOS)" .venv/bin/python tools/demo.py $$SECONDS

test: setup ## run the tests, without the slow ones (ARGS="tests/serving -x" narrows it)
	@.venv/bin/pytest $(PARALLEL) $(ARGS)

test-slow: setup ## run the slow tests only
	@.venv/bin/pytest $(PARALLEL) -m slow $(ARGS)

# TensorFlow turns oneDNN on by itself on some CPUs only, so neither value is tested everywhere.
test-onednn: setup ## run convolutions, training and signatures with oneDNN on, or off where it is on
	@other=$$(.venv/bin/python tools/other_onednn.py); \
	  echo "TF_ENABLE_ONEDNN_OPTS=$$other, the other value than this machine's default"; \
	  TF_ENABLE_ONEDNN_OPTS=$$other .venv/bin/pytest $(PARALLEL) -m onednn --slow $(ARGS)

test-zoo: setup ## put every model through the mill, an hour or more; writes zoo.tsv
	@.venv/bin/pytest -m zoo $(ARGS)

test-peers: setup ## run third-party clients against the server; writes COMPATIBILITY.md
	@tools/peers.sh
	@.venv/bin/pytest -m peers -rP --peers-page serving/server/COMPATIBILITY.md tests/serving/peers $(ARGS)

lint: setup ## ruff, import-linter (the one way down), basedpyright
	@.venv/bin/ruff check && .venv/bin/ruff format --check \
	  && .venv/bin/lint-imports && .venv/bin/basedpyright

format: setup ## let ruff put the code in order
	@.venv/bin/ruff check --fix && .venv/bin/ruff format

bench: setup ## measure the data input (PICTURES=DIR), the server (BUNDLE=DIR) and the demo's bundles
	@tools/bench.sh

study: setup ## train the CIFAR-10 recipes and compare them, hours (PICTURES=cifar10_A.tar)
	@.venv/bin/python tools/study.py $(or $(PICTURES),../shared/data/cifar10_A.tar)
	@.venv/bin/python tools/benchmarks_md.py benchmarks BENCHMARKS.md

soak: setup ## 30 minutes of load with version swaps (MODEL=DIR, ARGS="--seconds 60" is short)
	@.venv/bin/python -m serving.benchmark.loadtest.soak $(or $(MODEL),demo/bundles/digits_cnn) $(ARGS)

serve: setup ## serve the demo's bundles over REST and gRPC (ARGS="--port 9000")
	@.venv/bin/sightline serve demo/bundles $(ARGS)

stack2: ## run the tests on Python 3.13 and the newer TensorFlow, in a Debian root where needed
	@tools/stack2.sh test $(ARGS)

lock: ## resolve the dependencies of both stacks anew, into uv.lock
	@uv=$$(tools/find_uv.sh); "$$uv" lock --python "$$(tools/find_python.sh "$$uv")"

clean: ## remove what make made, except .tools; stack 2's root goes by tools/stack2.sh clean
	@rm -rf .venv demo build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
