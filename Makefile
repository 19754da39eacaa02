# The two commands that do all the set-up on a fresh Debian or Ubuntu machine with Rust: `make run` and `make test`.
# `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

TARGET := $(or $(CARGO_TARGET_DIR),target)
ARUS := $(TARGET)/release/arus
CONFIG ?= proxy.toml
# More for arus, e.g. make run ARGS="--shards 8 --log-level debug"
ARGS ?=

# What must be there to build: glommio compiles a little C with sh, git and a C compiler.
BUILD_TOOLS := cc git

.PHONY: help run test build check build-plugin test-e2e bench fmt lint deps deps-test clean

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## /\1\t/' | expand -t 14

run: build ## Build in release mode and start arus with proxy.toml (CONFIG=..., ARGS=...)
	exec $(ARUS) --config $(CONFIG) $(ARGS)

test: deps-test build-plugin ## The whole suite
	cargo test --workspace

build: deps build-plugin ## Build arus in release mode, and the example plugins, which proxy.toml names
	cargo build --release --package arus

check: deps ## Type-check everything
	cargo check --workspace --all-targets

# Each library is moved into its place whole: a running arus may be about to load it.
build-plugin: ## Compile c_plugins/*.c
	@shopt -s nullglob; for source in c_plugins/*.c; do \
		library=$${source%.c}.so; \
		echo "cc $$source"; \
		$${CC:-cc} -std=c99 -O2 -Wall -Wextra -Werror -pedantic -fPIC -shared -fvisibility=hidden -Ic_plugins \
			-o "$$library.new" "$$source"; \
		mv "$$library.new" "$$library"; \
	done

test-e2e: deps-test build-plugin ## Only the tests that run the whole program (tests/)
	cargo test --package arus --test '*'

bench: deps-test ## Measure against the peers; writes bench/RESULTS.md
	cargo build --release --workspace
	$(TARGET)/release/arus-bench run

fmt: ## Format the sources
	cargo fmt --all

lint: deps ## What CI insists on: format and clippy
	cargo fmt --all -- --check
	cargo clippy --workspace --all-targets -- -D warnings

deps:
	@command -v cargo >/dev/null || { echo 'cargo is missing: install Rust from https://rustup.rs' >&2; exit 1; }
	@for tool in $(BUILD_TOOLS); do command -v "$$tool" >/dev/null || exec scripts/install-deps.sh; done

# The peers and tools that tests and benchmarks call; quiet and fast when nothing is missing.
deps-test: deps
	@scripts/install-deps.sh

clean: ## Remove what was built
	cargo clean
	rm -f c_plugins/*.so
