# Logboom, native. `make help` lists the targets; settings come from the environment:
# `SERVER_PORT=9050 make run`.
.DEFAULT_GOAL := help
SHELL := /bin/sh
RUN := target/run
BIN := target/release
# The engine's pid, if it is one that `make run` started and that still runs.
ENGINE_PID = { pid=$$(cat $(RUN)/pid 2>/dev/null) && \
  [ "$$(cat /proc/$$pid/comm 2>/dev/null)" = logboom-engine ]; }

.PHONY: build test kill-test check run load benchmark stop clean help

build: ## Build the three programs, optimised
	cargo build --release

test: ## Run all tests (by cargo-nextest where it is installed)
	@if command -v cargo-nextest >/dev/null 2>&1; then \
	  cargo nextest run --workspace && cargo test --workspace --doc; \
	else cargo test --workspace; fi

kill-test: ## kill -9 the engine 1000 times under load, and look for every acknowledged line
	LOGBOOM_KILLS=$${LOGBOOM_KILLS:-1000} cargo test --release -p logboom-engine --test it \
	  kill:: -- --nocapture --test-threads 1

check: ## Formatting, lints and documentation, as CI has them
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" \
	  cargo doc --workspace --no-deps --document-private-items

run: build ## Start the engine in the background: port 9000, segments in ./logs
	@if $(ENGINE_PID); then echo "the engine runs already (pid $$pid)"; exit 1; fi
	@mkdir -p $(RUN); rm -f $(RUN)/ready $(RUN)/pid; \
	READY_FILE=$(RUN)/ready nohup $(BIN)/logboom-engine </dev/null >$(RUN)/out 2>$(RUN)/log & \
	pid=$$!; echo $$pid >$(RUN)/pid; \
	until [ -f $(RUN)/ready ]; do \
	  if ! kill -0 $$pid 2>/dev/null; then cat $(RUN)/log; rm -f $(RUN)/pid; exit 3; fi; \
	  sleep 0.1; \
	done; \
	cat $(RUN)/log

load: build ## Send 1000 logs by 5 workers to the engine that runs
	$(BIN)/logboom-loadgen -n 1000 -c 5

benchmark: build ## Five tiers and a peak against an engine of its own: audit, verdict, report
	$(BIN)/logboom-bench

stop: ## Drain and stop the engine that `make run` started, and show its totals
	@if ! $(ENGINE_PID); then rm -f $(RUN)/pid; echo "no engine of make run is running"; exit 0; fi; \
	kill -TERM $$pid; \
	while [ -d /proc/$$pid ]; do sleep 0.1; done; \
	rm -f $(RUN)/pid; tail -n 1 $(RUN)/out

clean: ## Remove what was built and measured; segments in ./logs stay
	@if $(ENGINE_PID); then echo "the engine runs (pid $$pid): make stop first"; exit 1; fi
	cargo clean
	rm -rf results

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | awk -F '\t' '{printf "  make %-10s %s\n", $$1, $$2}'
