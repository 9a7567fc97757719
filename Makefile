# durable-monty. `make demo` and `make test` do all the set-up themselves.
SHELL := /bin/bash
VENV  := .venv
PY    := $(VENV)/bin/python
BIN   := target/release/durable
RUST  := $(shell find crates python/rust -name '*.rs' -o -name '*.sql' -o -name 'Cargo.toml') Cargo.toml Cargo.lock

# Where the services are that `make services` started, if it did.
SERVICES := set -a; [ ! -e target/services/env ] || . target/services/env; set +a;

.PHONY: help setup demo test test-rust test-python services services-down lint fmt bench clean

help: ## Show what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(BIN) $(VENV)/.installed ## Build target/release/durable and install the Python package in .venv

$(BIN): $(RUST)
	cargo build --release --locked -p durable-cli
	@touch $@

$(VENV)/.tools: pyproject.toml
	python3 -m venv $(VENV)
	$(PY) -m pip install --quiet --upgrade pip
	$(PY) -m pip install --quiet 'maturin>=1.9,<2' 'sqlalchemy>=2' pytest hypothesis ruff mypy \
	  'rq>=2,<3' 'redis>=5' 'celery>=5.4' 'boto3>=1.34' 'moto>=5' 'flask>=3' 'flask-cors>=5' \
	  'uvicorn>=0.30' 'httpx>=0.27' 'starlette>=0.40' 'schemathesis>=4' \
	  'psycopg[binary]>=3.1' 'pymysql>=1.1' 'numpy>=2' 'pandas>=2.2' \
	  'pydantic>=2' 'langgraph>=1' 'langgraph-checkpoint-conformance>=0.0.2' 'strands-agents>=1' 'pydantic-ai-slim>=2'
	@touch $@

$(VENV)/.installed: $(VENV)/.tools $(RUST) $(BIN)
	VIRTUAL_ENV=$(CURDIR)/$(VENV) $(VENV)/bin/maturin develop --release --locked --quiet
	@touch $@

demo: setup ## Run the video example on SQLite: killed in the middle, continued, output shown
	PATH="$(CURDIR)/target/release:$(CURDIR)/$(VENV)/bin:$$PATH" $(PY) examples/demo.py

test: setup ## Run every test, beside a PostgreSQL, a MariaDB and a Redis of their own
	scripts/services run $(MAKE) test-rust test-python

test-rust: $(BIN)
	$(SERVICES) cargo nextest run --release --locked --workspace --exclude durable-python || \
	  { command -v cargo-nextest >/dev/null && exit 1 || cargo test --release --locked --workspace --exclude durable-python; }
	cargo test --release --locked --workspace --exclude durable-python --doc

test-python: setup
	$(SERVICES) PATH="$(CURDIR)/target/release:$$PATH" $(PY) -m pytest -q python/tests

services: ## Start a PostgreSQL, a MariaDB and a Redis for tests, and leave them running
	scripts/services up

services-down: ## End them
	scripts/services down

lint: $(VENV)/.tools ## Check format, clippy, ruff and mypy
	cargo fmt --all --check
	cargo clippy --release --locked --workspace --lib --bins --examples -- -D warnings
	cargo clippy --release --locked --workspace --tests -- -D warnings -A clippy::unwrap_used
	$(VENV)/bin/ruff check python examples scripts
	$(VENV)/bin/ruff format --check python examples scripts
	$(VENV)/bin/mypy

fmt: $(VENV)/.tools ## Format everything
	cargo fmt --all
	$(VENV)/bin/ruff format python examples scripts
	$(VENV)/bin/ruff check --fix python examples scripts

bench: setup ## Run the workloads on every store and through Python, and the cost of checkpoints, beside the floor
	cargo build --release --locked -p durable-bench
	target/release/durable-bench
	$(PY) benches/bench.py
	$(PY) benches/bench_checkpoints.py
	scripts/services run bash -c '\
	  target/release/durable-bench --db "$$DURABLE_TEST_POSTGRES" && \
	  target/release/durable-bench --db "$$DURABLE_TEST_MYSQL" && \
	  $(PY) benches/bench_rq.py'

clean: ## Remove what was built
	rm -rf target $(VENV)
