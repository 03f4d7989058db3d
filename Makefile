# Logboom, in containers or native. `make help` lists the targets; settings come from the environment:
# `MIN_LOG_LEVEL=INFO make run`. ARGS goes to the program: `make load ARGS='-n 1M -c 50'`.
.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/sh
RUN := target/run
BIN := target/release
COMPOSE := docker compose
# A project of its own: its engine and volumes come and go with the measurement.
PERF := docker compose -p logboom-perf -f docker-compose.yml -f docker-compose.perf.yml

# docker where an engine with compose answers, else native. `make run VIA=native` decides otherwise.
ifndef VIA
VIA := $(shell docker compose version >/dev/null 2>&1 && timeout 10 docker info >/dev/null 2>&1 \
  && echo docker || echo native)
endif
export VIA
ifeq ($(filter docker native,$(VIA)),)
$(error VIA=$(VIA) is neither docker nor native)
endif

# The engine's pid, if it is one that `make run` started here and that still runs.
ENGINE_PID = { pid=$$(cat $(RUN)/pid 2>/dev/null) && \
  [ "$$(cat /proc/$$pid/comm 2>/dev/null)" = logboom-engine ]; }

# Which way a target goes. What it says, it says once.
WAYS := setup build test run load benchmark perf stop clean certs observe
.PHONY: $(WAYS) $(WAYS:=-docker) $(WAYS:=-native) kill-test check help
define way
	@echo "make $@: via $(VIA)"
	+@$(MAKE) --no-print-directory $@-$(VIA)
endef

setup: ## See that what is needed is there, and fetch it
	$(way)

build: ## Build the three programs, optimised (docker: their images)
	$(way)

test: ## Run all tests (native: by cargo-nextest where it is installed)
	$(way)

run: ## Start the engine in the background: port 9000, segments in ./logs (docker: in a volume)
	$(way)

load: ## Send 1000 logs by 5 workers to the engine that runs
	$(way)

benchmark: ## Five tiers and a peak against an engine of its own: audit, verdict, report in ./results
	$(way)

perf: ## The same under caps: engine and generator on cpus of their own, time and memory limited
	$(way)

stop: ## Drain and stop the engine that `make run` started, and show its totals
	$(way)

clean: ## Remove what was built and measured (docker: images and volumes, and so stored lines)
	$(way)

certs: ## Make an authority and certificates in ./certs (docker: in a volume), unless they are there
	$(way)

observe: ## Start Prometheus on 9090 and, with docker, Grafana on 3000
	$(way)

kill-test: ## kill -9 a native engine 1000 times under load, and look for every acknowledged line
	LOGBOOM_KILLS=$${LOGBOOM_KILLS:-1000} cargo test --release -p logboom-engine --test it \
	  kill:: -- --nocapture --test-threads 1

# A check whose tool is not there is told, like a test that is skipped.
SKIPPED = echo "SKIPPED: make check: $(1) is not here" | tee -a "$${LOGBOOM_SKIPS:-/dev/null}"

check: ## Formatting, lints, documentation, licences and spelling, as CI has them (native)
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" \
	  cargo doc --workspace --no-deps --document-private-items
	@if command -v cargo-deny >/dev/null 2>&1; then cargo deny check licenses bans sources; \
	else $(call SKIPPED,cargo-deny); fi
	@if command -v typos >/dev/null 2>&1; then typos; else $(call SKIPPED,typos); fi

help: ## Show this list
	@echo "Targets, here via $(VIA) (VIA=docker or VIA=native decides otherwise):"
	@sed -n 's/^\([a-z-]*\):[^#]*## /\1\t/p' Makefile | awk -F '\t' '{printf "  make %-10s %s\n", $$1, $$2}'

# --- native ---

setup-native:
	@for tool in cargo cc; do command -v $$tool >/dev/null || { echo "$$tool is missing" >&2; exit 3; }; done
	cargo fetch --locked
	@echo "ready for make build; then $(BIN)/logboom-engine doctor says what this machine is short of"

build-native:
	cargo build --release

test-native:
	@if command -v cargo-nextest >/dev/null 2>&1; then \
	  cargo nextest run --workspace && cargo test --workspace --doc; \
	else cargo test --workspace; fi

run-native: build-native
	@if $(ENGINE_PID); then echo "the engine runs already (pid $$pid)" >&2; exit 1; fi
	@mkdir -p $(RUN); rm -f $(RUN)/ready $(RUN)/pid; \
	READY_FILE=$(RUN)/ready nohup $(BIN)/logboom-engine $(ARGS) </dev/null >$(RUN)/out 2>$(RUN)/log & \
	pid=$$!; echo $$pid >$(RUN)/pid; \
	until [ -f $(RUN)/ready ]; do \
	  if ! kill -0 $$pid 2>/dev/null; then cat $(RUN)/log >&2; rm -f $(RUN)/pid; exit 3; fi; \
	  sleep 0.1; \
	done; \
	cat $(RUN)/log

load-native: build-native
	$(BIN)/logboom-loadgen -n 1000 -c 5 $(ARGS)

benchmark-native: build-native
	$(BIN)/logboom-bench $(ARGS)

perf-native: build-native
	deploy/capped.sh --cpuset $${PERF_CPUSET:-0-1} --cpus $${PERF_CPUS:-2} \
	  --memory $${PERF_MEMORY:-1G} -- $(BIN)/logboom-bench $(ARGS)

stop-native:
	@if ! $(ENGINE_PID); then rm -f $(RUN)/pid; echo "no engine of make run is running"; exit 0; fi; \
	kill -TERM $$pid; \
	while [ -d /proc/$$pid ]; do sleep 0.1; done; \
	rm -f $(RUN)/pid; tail -n 1 $(RUN)/out

# Segments in ./logs stay.
clean-native:
	@if $(ENGINE_PID); then echo "the engine runs (pid $$pid): make stop first" >&2; exit 1; fi
	cargo clean
	rm -rf results

certs-native: build-native
	$(BIN)/logboom-engine certs --if-missing $(ARGS)

observe-native:
	@command -v prometheus >/dev/null || { \
	  echo "prometheus is not installed: apt-get install prometheus, or use VIA=docker" >&2; exit 3; }
	@mkdir -p target/prometheus && cp deploy/prometheus/rules.yml deploy/prometheus/alerts.yml target/prometheus/
	@sed 's/"\(engine\|loadgen\):/"127.0.0.1:/' deploy/prometheus/prometheus.yml >target/prometheus/prometheus.yml
	@echo "Prometheus: http://127.0.0.1:9090, until Ctrl-C; a generator is seen with METRICS_PORT=9101"
	prometheus --config.file=target/prometheus/prometheus.yml --storage.tsdb.path=target/prometheus/data \
	  --web.listen-address=127.0.0.1:9090 --log.level=warn

# --- docker ---

IMAGES := logboom-engine logboom-loadgen logboom-bench logboom-test
export REVISION := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)

setup-docker:
	@$(COMPOSE) --profile '*' config --quiet
	@for image in rust:1.95-bookworm debian:bookworm-slim; do \
	  docker image inspect $$image >/dev/null 2>&1 || docker pull $$image || exit 3; \
	done
	@echo "ready for make build"

build-docker:
	$(COMPOSE) --profile load --profile bench build engine loadgen bench

test-docker:
	$(COMPOSE) --profile test run --rm --build test

run-docker:
	$(COMPOSE) up --detach --build --wait engine
	@echo "lines: 127.0.0.1:9000 (UDP 9001); curl 127.0.0.1:9100/readyz; docker compose logs -f engine"

load-docker:
	$(COMPOSE) run --rm --build --use-aliases loadgen -n 1000 -c 5 $(ARGS)

# The report is brought out of the volume into ./results.
BRING_RESULTS = code=$$?; mkdir -p results; docker cp --quiet $$name:/data/results/. results/; \
  docker rm --force --volumes $$name >/dev/null

benchmark-docker:
	@name=logboom-benchmark; docker rm --force $$name >/dev/null 2>&1; \
	$(COMPOSE) run --build --name $$name bench $(ARGS); \
	$(BRING_RESULTS); exit $$code

perf-docker:
	@name=logboom-perf-bench; docker rm --force $$name >/dev/null 2>&1; \
	$(PERF) up --detach --build --wait engine || exit 3; \
	$(PERF) run --build --name $$name bench $(ARGS); \
	$(BRING_RESULTS); $(PERF) --profile '*' down --volumes; exit $$code

stop-docker:
	@if $(ENGINE_PID); then $(MAKE) --no-print-directory stop-native; fi
	@$(COMPOSE) --profile '*' stop
	@$(COMPOSE) logs --no-log-prefix --no-color engine 2>/dev/null | sed -n 's/^[^{]*\({.*"totals".*\)/\1/p' | tail -n 1
	@$(COMPOSE) --profile '*' down

clean-docker:
	$(COMPOSE) --profile '*' down --volumes --remove-orphans
	$(PERF) --profile '*' down --volumes --remove-orphans
	@for image in $(IMAGES); do \
	  if docker image inspect $$image >/dev/null 2>&1; then docker image rm $$image; fi; \
	done
	rm -rf results

certs-docker:
	$(COMPOSE) --profile tls run --rm --build certs

observe-docker:
	@$(COMPOSE) --profile observe up --detach prometheus grafana || { \
	  echo "where their images cannot be pulled, make observe VIA=native takes an installed Prometheus" >&2; exit 3; }
	@echo "Prometheus: http://127.0.0.1:9090  Grafana: http://127.0.0.1:3000"
