#!/usr/bin/env bash
# What the way to a container costs the engine: CPU-seconds for a million lines of the same program with
# the same load, natively over loopback, in a container on the host's network, by the container's own
# address (bridge), and by a port published on loopback (bridge and docker-proxy).
#
#   deploy/compare-networks.sh             three rounds, there and back: two minutes and more
#   ROUNDS=5 LINES=8M RATE=300k deploy/compare-networks.sh
#
# Engine on cpu 0, generator natively on cpu 1. Without RATE the load is closed: 100 connections with 100
# lines each, as fast as replies come. Needs the images (`make build`), docker, jq, taskset, two cpus,
# and to run in the network namespace of the container engine, as anybody's shell usually does.
# User time is the engine's own code; system time is the kernel's on its behalf: sockets, packets both ways,
# files. Proxy is docker-proxy, which is not the engine's.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${ROUNDS:-3} lines=${LINES:-4M}
rate=()
[ -z "${RATE:-}" ] || rate=(-r "$RATE")
scratch=$(mktemp -d -p "${NATIVE_TMPDIR:-/var/tmp}")
name=logboom-networks
native=
cleanup() {
  [ -z "$native" ] || kill "$native" 2>/dev/null || true
  docker rm --force --volumes $name >/dev/null 2>&1 || true
  rm -rf "$scratch"
}
trap cleanup EXIT

for image in engine loadgen; do
  holder=$(docker create logboom-$image)
  docker cp --quiet "$holder:/usr/local/bin/logboom-$image" "$scratch/"
  docker rm --volumes "$holder" >/dev/null
done
# The same on both sides: that of whatever the container engine gives.
niceness=$(docker run --rm debian:bookworm-slim awk '{ print $19 }' /proc/self/stat)
settings=(SERVER_PORT=9000 ADMIN_ENABLED=false SHARDS=1)

wait_for() { # HOST
  for _ in $(seq 200); do
    if (exec 3<>"/dev/tcp/$1/9000") 2>/dev/null; then return; fi
    sleep 0.05
  done
  echo "nobody listens on $1:9000"; exit 1
}
# Starts the engine one WAY or another; its pid is in $pid, its address in $host.
start() {
  if [ "$1" = native ]; then
    env "${settings[@]}" LOG_DIR="$scratch/logs" nice -n "$niceness" taskset -c 0 \
      "$scratch/logboom-engine" >/dev/null 2>"$scratch/said" &
    pid=$! native=$! host=127.0.0.1
  else
    local network=()
    case $1 in
      host) network=(--network host) ;;
      published) network=(--publish 127.0.0.1:9000:9000) ;;
    esac
    docker run --detach --name $name --cpuset-cpus 0 --read-only --cap-drop ALL \
      --security-opt no-new-privileges --security-opt seccomp=deploy/seccomp.json \
      --ulimit memlock=-1 --ulimit nofile=65536 "${settings[@]/#/--env=}" "${network[@]}" \
      logboom-engine >/dev/null
    pid=$(docker inspect --format '{{.State.Pid}}' $name) host=127.0.0.1
    [ "$1" != address ] || host=$(docker inspect --format '{{.NetworkSettings.IPAddress}}' $name)
  fi
  wait_for "$host"
}
stop() {
  if [ -n "$native" ]; then
    kill "$native"; wait "$native" || true; native=
    rm -rf "$scratch/logs"
  else
    docker rm --force --volumes $name >/dev/null
  fi
}
# User and system time of a process so far, in ticks; of all that are called docker-proxy without PID.
ticks() { sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12, $13 }'; }
proxy_ticks() {
  local proxy
  for proxy in $(pgrep -x docker-proxy || true); do ticks "$proxy"; done \
    | awk '{ sum += $1 + $2 } END { print sum + 0 }'
}
tick=$(getconf CLK_TCK)
run() { # WAY
  start "$1"
  local before after proxy_before proxy million
  before=$(ticks "$pid") proxy_before=$(proxy_ticks)
  taskset -c 1 "$scratch/logboom-loadgen" --target "tcp://$host:9000" --shards 1 -n "$lines" -z 0 -c 100 \
    --batch-size 100 "${rate[@]}" --quiet --json "$scratch/summary" >/dev/null 2>"$scratch/said" \
    || { cat "$scratch/said"; exit 1; }
  after=$(ticks "$pid") proxy=$(($(proxy_ticks) - proxy_before))
  million=$(jq '.load.ok / 1e6' "$scratch/summary")
  echo "$before $after $proxy $tick $million $(jq '.load.ok / .duration_ns * 1e9' "$scratch/summary")" \
    | awk -v way="$1" '{ unit = $6 * $7
        printf "%-10s %7.3f %7.3f %7.3f %7.3f %11.0f\n", way, ($3 - $1 + $4 - $2) / unit, ($3 - $1) / unit,
          ($4 - $2) / unit, $5 / unit, $8 }' | tee -a "$scratch/all"
  stop
}

ways=(native host address published)
there=("${ways[@]}") back=(published address host native)
printf '%-10s %7s %7s %7s %7s %11s\n' way engine user system proxy lines/s
for _ in $(seq "$rounds"); do
  for way in "${there[@]}" "${back[@]}"; do run "$way"; done
done
echo
echo "CPU-seconds for a million lines, median of $((2 * rounds)) runs each:"
printf '%-10s %7s %7s %7s %7s %11s %9s\n' way engine user system proxy lines/s "x native"
median() { awk -v way="$1" -v column="$2" '$1 == way { print $column }' "$scratch/all" | sort -g \
  | awk '{ row[NR] = $1 } END { print (row[int((NR + 1) / 2)] + row[int(NR / 2) + 1]) / 2 }'; }
for way in "${ways[@]}"; do
  echo "$way $(for column in 2 3 4 5 6; do median "$way" $column; done | tr '\n' ' ') $(median native 2)" \
    | awk '{ printf "%-10s %7.3f %7.3f %7.3f %7.3f %11.0f %9.2f\n", $1, $2, $3, $4, $5, $6, $2 / $7 }'
done
