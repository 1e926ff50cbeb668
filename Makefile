# `make` lists the targets; from another folder: make -C path/to/sightline test
.DEFAULT_GOAL := help
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
STAMP := .venv/.sightline-stamp
# At its default level, TensorFlow logs every missing GPU library.
export TF_CPP_MIN_LOG_LEVEL ?= 3
# Three workers keep two cores busy, because tests also wait for child processes and disks.
PARALLEL := -n 3 --dist worksteal --durations 20 --durations-min 1

.PHONY: force help setup demo test test-slow test-onednn test-zoo test-peers lint format bench study soak serve stack2 lock clean

help: ## list the targets
	@awk -F ' *:.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

# The stamp holds the version of Python; another SIGHTLINE_PYTHON creates .venv again.
CHANGED := $(if $(SIGHTLINE_PYTHON),$(filter-out $(shell cat $(STAMP) 2>/dev/null),$(SIGHTLINE_PYTHON)))
$(STAMP): pyproject.toml uv.lock tools/setup.sh $(if $(CHANGED),force)
	@tools/setup.sh

setup: $(STAMP) ## create .venv from the lock file, with .venv/bin/sightline in it
	@:

demo: ## train, compress, evaluate, push, serve and predict on real scanned digits (PHOTOS=DIR)
	@SECONDS=0; $(MAKE) --no-print-directory setup; PHOTOS="$(PHOTOS)" .venv/bin/python tools/demo.py $$SECONDS

test: setup ## run the tests except the slow ones (ARGS="tests/serving -x" selects some)
	@.venv/bin/pytest $(PARALLEL) $(ARGS)

test-slow: setup ## run the slow tests only
	@.venv/bin/pytest $(PARALLEL) -m slow $(ARGS)

# TensorFlow enables oneDNN by default only on some CPUs, so `make test` covers one value.
test-onednn: setup ## run the tests marked onednn with the other TF_ENABLE_ONEDNN_OPTS
	@other=$$(.venv/bin/python tools/other_onednn.py); \
	  echo "TF_ENABLE_ONEDNN_OPTS=$$other, which is not this machine's default"; \
	  TF_ENABLE_ONEDNN_OPTS=$$other .venv/bin/pytest $(PARALLEL) -m onednn --slow $(ARGS)

test-zoo: setup ## train, compress and export all but the largest models, an hour or more; writes zoo.tsv
	@.venv/bin/pytest -m zoo $(ARGS)

test-peers: setup ## compare with third-party clients and libraries; writes COMPATIBILITY.md
	@tools/peers.sh
	@.venv/bin/pytest -m peers -rP --peers-page serving/server/COMPATIBILITY.md tests/serving tests/trainers $(ARGS)

lint: setup ## ruff, codespell, the project's word list, import-linter, basedpyright
	@.venv/bin/ruff check && .venv/bin/ruff format --check
	@git ls-files -z | xargs -0 .venv/bin/codespell && .venv/bin/python tools/prose.py
	@.venv/bin/lint-imports && .venv/bin/basedpyright

format: setup ## format the code and sort imports with ruff
	@.venv/bin/ruff check --fix && .venv/bin/ruff format

# The former spelling of IMAGES, rejected from version 0.2.0 on.
ifdef PICTURES
$(warning PICTURES is now IMAGES; the former spelling is rejected from version 0.2.0 on)
IMAGES := $(or $(IMAGES),$(PICTURES))
endif
export IMAGES

bench: setup ## measure the data input (IMAGES=DIR), the server (BUNDLE=DIR) and the demo's bundles
	@tools/bench.sh

study: setup ## repeat the study on CIFAR-10 (IMAGES=cifar10_A.tar BUDGET=8h) and write BENCHMARKS.md
	@.venv/bin/sightline study --data "folder:$(or $(IMAGES),../shared/data/cifar10_A.tar) validation=0.1" \
	  --recipes cifar10 --budget $(or $(BUDGET),8h) --out work/study
	@cp work/study/report/benchmark.json benchmarks/cifar10.json
	@.venv/bin/python tools/benchmarks_md.py benchmarks BENCHMARKS.md

soak: setup ## 30 minutes of load with version swaps (MODEL=DIR, ARGS="--seconds 60")
	@.venv/bin/python -m serving.benchmark.loadtest.soak $(or $(MODEL),demo/bundles/digits_cnn) $(ARGS)

serve: setup ## serve the demo's bundles over REST and gRPC (ARGS="--port 9000")
	@.venv/bin/sightline serve demo/bundles $(ARGS)

stack2: ## run the tests on Python 3.13 and the newer TensorFlow, in a Debian root where needed
	@tools/stack2.sh test $(ARGS)

lock: ## resolve the dependencies of both stacks into uv.lock
	@uv=$$(tools/find_uv.sh); "$$uv" lock --python "$$(tools/find_python.sh "$$uv")"

clean: ## remove what make created, except .tools and the Debian root (tools/stack2.sh clean)
	@rm -rf .venv demo build dist .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
