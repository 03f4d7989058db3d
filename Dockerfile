# One file, four images: engine, loadgen, bench (what `docker build .` gives), and test.
#
#   docker build --target engine -t logboom-engine .
#
# Two base images, no others. Layers go from what changes rarely to what changes often: a change of a
# source file compiles the workspace again, and no dependency.

# --- Dependencies, optimised -----------------------------------------------------------------------
FROM rust:1.95-bookworm AS manifests
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY proto/Cargo.toml proto/
COPY proto/runtime/Cargo.toml proto/runtime/build.rs proto/runtime/
COPY engine/Cargo.toml engine/build.rs engine/
COPY loadgen/Cargo.toml loadgen/build.rs loadgen/
COPY bench/Cargo.toml bench/build.rs bench/
COPY benches/Cargo.toml benches/build.rs benches/
# Empty crates in the places of ours. What cargo makes of them is forgotten again, so that the real
# sources are compiled however old their files are.
RUN set -eu; \
    for package in proto proto/runtime engine loadgen bench; do \
      mkdir -p $package/src; : > $package/src/lib.rs; \
    done; \
    for package in engine loadgen bench; do echo 'fn main() {}' > $package/src/main.rs; done; \
    for path in $(sed -n 's/^path = "\(.*\.rs\)"$/\1/p' benches/Cargo.toml); do \
      mkdir -p "benches/$(dirname "$path")"; echo 'fn main() {}' > "benches/$path"; \
    done

FROM manifests AS dependencies
RUN cargo build --release --locked -p logboom-engine -p logboom-loadgen -p logboom-bench \
 && rm -rf target/release/.fingerprint/logboom-* target/release/logboom-*

# --- The three programs ----------------------------------------------------------------------------
FROM dependencies AS build
COPY proto proto
COPY engine engine
COPY loadgen loadgen
COPY bench bench
# Names of functions stay, for backtraces and profiles.
RUN cargo build --release --locked -p logboom-engine -p logboom-loadgen -p logboom-bench \
 && strip --strip-debug target/release/logboom-engine target/release/logboom-loadgen \
      target/release/logboom-bench

# --- All tests -------------------------------------------------------------------------------------
FROM manifests AS test-dependencies
RUN apt-get update \
 && apt-get install -y --no-install-recommends openssl python3 tmux \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --uid 10001 --create-home logboom \
 && chown -R logboom /src
USER 10001
ENV CARGO_HOME=/home/logboom/.cargo
RUN cargo test --workspace --locked --no-run \
 && rm -rf target/debug/.fingerprint/logboom-*

FROM test-dependencies AS test
LABEL org.opencontainers.image.title="logboom-test" \
      org.opencontainers.image.description="Logboom's tests, compiled" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --chown=10001 . .
RUN cargo test --workspace --locked --no-run
# io_uring is not to be had while an image is built: the tests run when the container does.
CMD ["make", "test", "VIA=native"]

# --- What is shipped -------------------------------------------------------------------------------
# Debian's C library, a user and empty folders: no shell, no package manager.
FROM debian:bookworm-slim AS root
COPY --from=build /src/target/release/logboom-engine /src/target/release/logboom-loadgen \
     /src/target/release/logboom-bench /programs/
RUN set -eu; mkdir -p /root-of-image/etc; cd /root-of-image; \
    ldd /programs/* | grep -o '/lib[^ ]*' | sort -u | xargs cp --parents --dereference -t .; \
    cp /etc/os-release etc/; \
    echo 'logboom:x:10001:10001::/data:/nonexistent' > etc/passwd; \
    echo 'logboom:x:10001:' > etc/group; \
    echo 'hosts: files dns' > etc/nsswitch.conf; \
    install -d -m 1777 tmp; \
    install -d -o 10001 -g 10001 -m 0750 /folders/data /folders/certs

FROM scratch AS base
COPY --from=root /root-of-image/ /
COPY --from=root --chown=10001:10001 /folders/ /
COPY LICENSE-MIT LICENSE-APACHE /licenses/
ENV PATH=/usr/local/bin HOME=/data
USER 10001:10001
WORKDIR /data
VOLUME /data
STOPSIGNAL SIGTERM
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.vendor="Logboom" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.base.name="debian:bookworm-slim" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION"

FROM base AS engine
LABEL org.opencontainers.image.title="logboom-engine" \
      org.opencontainers.image.description="NDJSON log ingestion that says ok only when a line is safe"
COPY --from=build /src/target/release/logboom-engine /usr/local/bin/
# Inside a container loopback would be nobody's; who may come in is for the published port to say.
ENV LOG_DIR=/data/logs CERT_DIR=/certs ADMIN_HOST=0.0.0.0
EXPOSE 9000/tcp 9001/udp 9100/tcp
HEALTHCHECK --interval=5s --timeout=3s --start-period=10s --retries=3 CMD ["logboom-engine", "health"]
ENTRYPOINT ["logboom-engine"]

FROM base AS loadgen
LABEL org.opencontainers.image.title="logboom-loadgen" \
      org.opencontainers.image.description="Load generator that counts latency from the due time"
COPY --from=build /src/target/release/logboom-loadgen /usr/local/bin/
ENV CA_CERT_PATH=/certs/ca.crt
ENTRYPOINT ["logboom-loadgen"]

FROM base AS bench
LABEL org.opencontainers.image.title="logboom-bench" \
      org.opencontainers.image.description="Rising load on an engine, an audit of every acknowledged line, a verdict"
COPY --from=build /src/target/release/logboom-engine /src/target/release/logboom-bench /usr/local/bin/
ENV TMPDIR=/data RESULTS=/data/results
ENTRYPOINT ["logboom-bench"]
