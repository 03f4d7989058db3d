# Logboom, native. `make help` lists the targets.
.DEFAULT_GOAL := help
SHELL := /bin/sh
RUN := target/run
BIN := target/release

.PHONY: build test check run load benchmark stop clean help

build: ## Build the three programs, optimised
	cargo build --release

test: ## Run all tests (cargo-nextest where it is installed, else cargo test)
	@if command -v cargo-nextest >/dev/null 2>&1; then cargo nextest run --workspace; \
	else cargo test --workspace; fi

check: ## Formatting and lints, as CI has them
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings

run: build ## Start the engine in the background, on port 9000 with its segments in ./logs
	@mkdir -p $(RUN)
	@if [ -f $(RUN)/pid ] && kill -0 "$$(cat $(RUN)/pid)" 2>/dev/null; then \
	  echo "the engine runs already (pid $$(cat $(RUN)/pid))"; exit 1; fi
	@rm -f $(RUN)/ready; READY_FILE=$(RUN)/ready $(BIN)/logboom-engine >$(RUN)/out 2>$(RUN)/log & \
	pid=$$!; echo $$pid >$(RUN)/pid; \
	until [ -f $(RUN)/ready ]; do \
	  kill -0 $$pid 2>/dev/null || { cat $(RUN)/log; rm -f $(RUN)/pid; exit 3; }; sleep 0.1; done; \
	cat $(RUN)/log

load: build ## 1000 logs by 5 workers against the running engine
	$(BIN)/logboom-loadgen -n 1000 -c 5

benchmark: build ## Five tiers and a peak against an engine of its own, with audit and verdict
	$(BIN)/logboom-bench

stop: ## Drain and stop the engine that `make run` started
	@if [ ! -f $(RUN)/pid ]; then echo "no engine was started by make run"; exit 0; fi; \
	pid=$$(cat $(RUN)/pid); kill -TERM "$$pid" 2>/dev/null || true; \
	while kill -0 "$$pid" 2>/dev/null; do sleep 0.1; done; rm -f $(RUN)/pid; tail -n 1 $(RUN)/out

clean: ## Remove what was built and measured (segments in ./logs stay)
	cargo clean
	rm -rf results

help: ## This list
	@sed -n 's/^\([a-z]*\):[^#]*## /\1\t/p' Makefile | awk -F '\t' '{printf "  make %-10s %s\n", $$1, $$2}'
