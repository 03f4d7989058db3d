#!/usr/bin/env bash
# Tries for real, on a running container engine, what the container files promise: builds the images,
# brings the engine up, loads it, measures it under caps, refuses io_uring, kills the engine under load
# and looks for every acknowledged line, compares its cost with the native one, and tears all down.
#
#   deploy/verify-containers.sh            everything except the tests in their image
#   deploy/verify-containers.sh --tests    those too (their image takes as long as all the others)
#
# Needs docker with compose, jq, and the ports 9000, 9001 and 9100 of the engine's network; root also for
# the seccomp check. Everything runs as project logboom-verify, so that another engine's volume is left
# alone; the images are the ordinary ones, and are removed at the end. Exits 0 if every check holds.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")/.."
export COMPOSE_PROJECT_NAME=logboom-verify VIA=docker
unset MAKEFLAGS TARGET ARGS

scratch=$(mktemp -d)
failures=()
background=
cleanup() {
  [ -z "$background" ] || kill "$background" 2>/dev/null || true
  docker compose --profile '*' down --volumes --timeout 5 >/dev/null 2>&1 || true
  docker image rm logboom-rebuilt >/dev/null 2>&1 || true
  rm -rf "$scratch"
}
trap cleanup EXIT

step() { printf '\n=== [%4ds] %s\n' "$SECONDS" "$*"; }
pass() { printf '  ok    %s\n' "$*"; }
miss() { printf '  FAIL  %s\n' "$*"; failures+=("$*"); }
# check TEXT COMMAND...: whether the command succeeds.
check() { local text=$1; shift; if "$@" >/dev/null 2>&1; then pass "$text"; else miss "$text"; fi; }
# same TEXT EXPECTED ACTUAL
same() { if [ "$2" = "$3" ]; then pass "$1: $3"; else miss "$1: $3, expected $2"; fi; }
# at_most TEXT LIMIT ACTUAL
at_most() {
  if awk -v limit="$2" -v actual="$3" 'BEGIN { exit !(actual <= limit) }'; then
    pass "$1: $3 (at most $2)"
  else
    miss "$1: $3 (at most $2)"
  fi
}
above() { if [ "$3" -gt "$2" ]; then pass "$1: $3"; else miss "$1: $3, expected more than $2"; fi; }
now() { date +%s.%N; }
since() { awk -v then="$1" -v now="$(now)" 'BEGIN { printf "%.1f", now - then }'; }
engine_id() { docker compose ps --all --quiet engine; }
status() { docker run --rm --network "container:$(engine_id)" "$helper" bash -c \
  'exec 3<>/dev/tcp/127.0.0.1/9100; printf "GET /status HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" >&3; cat <&3' \
  | sed '1,/^\r$/d'; }
# shown COMMAND...: runs it, then shows what it said, without a build's progress; its exit code is in $last.
last=0
shown() {
  last=0
  "$@" >"$scratch/shown" 2>&1 || last=$?
  grep -v '^#\|^$\| Container .*ing$\| Container .*ed$\| Container .*Healthy$\| Network \| Volume ' "$scratch/shown" \
    | sed 's/^\x1b\[2K//; s/^/    /' | cut -c 1-200 || true
}
newest_report() { ls -td results/*/report.json | head -n 1; }
helper=debian:bookworm-slim

step "The container engine"
docker version --format 'engine {{.Server.Version}}, client {{.Client.Version}}'
echo "compose $(docker compose version --short), cgroup version $(docker info --format '{{.CgroupVersion}}'), \
$(docker info --format '{{.NCPU}} cpus, storage {{.Driver}}, kernel {{.KernelVersion}}')"
check "all profiles are valid" docker compose --profile '*' config --quiet
check "so they are with the caps" \
  docker compose -f docker-compose.yml -f docker-compose.perf.yml --profile '*' config --quiet

step "make build"
began=$(now)
make build >"$scratch/build" 2>&1 || { tail -n 40 "$scratch/build"; exit 1; }
echo "  built in $(since "$began") s; of its steps $(grep -c ' CACHED$' "$scratch/build" || true) were cached"
for image in engine loadgen bench; do
  bytes=$(docker image inspect --format '{{.Size}}' logboom-$image)
  at_most "size of logboom-$image in MB" 60 "$(awk -v bytes="$bytes" 'BEGIN { printf "%.1f", bytes / 1e6 }')"
done
inspect() { docker image inspect --format "$1" logboom-engine; }
same "user of the image" 10001:10001 "$(inspect '{{.Config.User}}')"
same "entry point, in exec form" '["logboom-engine"]' "$(inspect '{{json .Config.Entrypoint}}')"
same "health check" '["CMD","logboom-engine","health"]' "$(inspect '{{json .Config.Healthcheck.Test}}')"
same "label with the revision" "$(git rev-parse HEAD 2>/dev/null || echo unknown)" \
  "$(inspect '{{index .Config.Labels "org.opencontainers.image.revision"}}')"

step "io_uring and the seccomp profile"
bare=(docker run --rm --read-only --tmpfs /data --cap-drop ALL --security-opt no-new-privileges --ulimit memlock=-1)
for program in engine loadgen; do
  arguments=(); [ $program = engine ] || arguments=(--target null:// -n 10)
  code=0
  "${bare[@]}" logboom-$program "${arguments[@]}" >"$scratch/refused" 2>&1 || code=$?
  sed 's/^/    /' "$scratch/refused"
  same "exit code of $program under the engine's default profile" 3 $code
  check "its message names the missing line" grep -q 'security_opt: \[seccomp=deploy/seccomp.json\]' "$scratch/refused"
done
profile=(--security-opt seccomp=deploy/seccomp.json)
check "with deploy/seccomp.json the generator runs" "${bare[@]}" "${profile[@]}" logboom-loadgen --target null:// -n 10
code=0
docker run --rm --cap-drop ALL --security-opt no-new-privileges "${profile[@]}" $helper \
  unshare --user true >"$scratch/unshare" 2>&1 || code=$?
sed 's/^/    /' "$scratch/unshare"
same "exit code of unshare, which stays refused" 1 $code
if [ "$(id -u)" = 0 ]; then
  shown deploy/make-seccomp.sh --check
  same "deploy/seccomp.json against this engine's default" 0 $last
else
  echo "  (not root: the profile is not compared with this engine's default)"
fi

step "make run"
began=$(now)
shown make run
same "exit code" 0 $last
echo "  up and healthy after $(since "$began") s"
id=$(engine_id)
same "health" healthy "$(docker inspect --format '{{.State.Health.Status}}' "$id")"
same "root is read-only" true "$(docker inspect --format '{{.HostConfig.ReadonlyRootfs}}' "$id")"
same "privileged" false "$(docker inspect --format '{{.HostConfig.Privileged}}' "$id")"
same "published" 127.0.0.1:9000 "$(docker compose port engine 9000)"
check "the published ports answer on loopback" docker run --rm --network host logboom-engine health
shown docker compose exec -T engine logboom-engine doctor
same "lines about direct I/O that is refused" 0 "$(docker compose logs engine 2>&1 | grep -ci 'buffered' || true)"

step "make load"
shown make load
same "exit code" 0 $last
status >"$scratch/status"
same "lines acknowledged" 1000 "$(jq .totals.ok "$scratch/status")"

step "SIGTERM under load, as PID 1"
docker compose run --rm -T loadgen --total-logs 0 --duration 20s -c 20 --quiet >"$scratch/load" 2>&1 &
background=$!
sleep 5
began=$(now)
docker compose stop engine >/dev/null 2>&1
echo "  drained in $(since "$began") s"
same "exit code" 0 "$(docker inspect --format '{{.State.ExitCode}}' "$id")"
docker logs "$id" 2>/dev/null | tail -n 1 >"$scratch/totals"
jq -c .totals "$scratch/totals" | cut -c 1-200 | sed 's/^/    /'
same "received = ok + filtered + error" true \
  "$(jq '.totals | .received == .ok + .filtered + .error and .in_flight == 0' "$scratch/totals")"
above "lines taken before it" 1000 "$(jq .totals.ok "$scratch/totals")"
wait "$background" || true
background=

step "kill -9 under load, twice, and an audit of the volume"
docker compose up --detach --wait engine >/dev/null 2>&1
docker compose run --rm -T -v "${COMPOSE_PROJECT_NAME}_data:/engine:ro" bench --target tcp://engine:9000 \
  --logs /engine/logs --tier peak --peak-secs 20 --max-error-rate 100% --json - \
  >"$scratch/audit.json" 2>"$scratch/audit" &
background=$!
# By what the load says of itself: on a busy machine a container may take seconds to start.
for second in 3 8; do
  until grep -qs "^peak  *$second\.0s" "$scratch/audit" || ! kill -0 "$background" 2>/dev/null; do sleep 0.2; done
  docker kill --signal KILL "$id" >/dev/null
  docker start "$id" >/dev/null
done
code=0
wait "$background" || code=$?
background=
shown cat "$scratch/audit"
docker compose logs engine 2>&1 | grep -i 'recover\|quarantine\|cut' | cut -c 1-220 | sed 's/^/    /' || true
audit() { jq ".tiers[0].verification.audit.$1" "$scratch/audit.json"; }
above "lines acknowledged" 10000 "$(audit acknowledged)"
same "of them missing on the volume" 0 "$(audit missing)"
same "verdict on data is not 'lost' (exit code 12)" no "$([ $code = 12 ] && echo yes || echo no)"
above "messages that the kills cost" 0 "$(jq '.tiers[0].summary.load | .error + .unanswered' "$scratch/audit.json")"
above "lines acknowledged by the last life" 1000 "$(status | jq .totals.ok)"
check "fsck finds no damage" docker compose exec -T engine logboom-engine fsck /data/logs

step "make stop, of an idle engine"
sleep 2
began=$(now)
shown make stop
at_most "seconds" 5 "$(since "$began")"
check "the totals are shown" grep -q '"totals"' "$scratch/shown"

step "TLS"
shown docker compose --profile tls run --rm certs
docker compose --profile tls up --detach --wait engine-tls >/dev/null 2>&1 || true
shown docker compose --profile tls run --rm -T --no-deps loadgen --target tls://engine-tls:9000 -n 1000 -c 5
same "exit code of the generator" 0 $last
docker compose --profile '*' down --volumes >/dev/null 2>&1

step "make benchmark"
shown make benchmark ARGS='--cooldown-secs 1'
same "exit code" 0 $last

step "make perf: one cpu and 512 MiB each, engine on cpu 0, generator on cpu 1"
shown make perf ARGS='--cooldown-secs 1'
same "exit code" 0 $last
perf() { jq -c ".tiers[-1].resources.$1" "$(newest_report)"; }
same "cpus of the engine" '[0]' "$(perf engine.caps.cpus)"
same "cpus of the generator" '[1]' "$(perf generator.caps.cpus)"
same "quota of the engine" 1 "$(perf engine.caps.cpu_quota)"
same "memory that the engine may have" $((512 << 20)) "$(perf engine.caps.memory_bytes_max)"
above "bytes of it in use" 0 "$(perf engine.caps.memory_peak_bytes)"

step "make perf with a quarter of a cpu and 128 MiB for the engine"
export ENGINE_CPUS=0.25 ENGINE_MEMORY=128m MEMORY_BYTES_MAX=48MiB
shown make perf ARGS='--tier peak --peak-secs 5'
unset ENGINE_CPUS ENGINE_MEMORY MEMORY_BYTES_MAX
same "quota of the engine" 0.25 "$(perf engine.caps.cpu_quota)"
above "periods in which it was throttled" 0 "$(perf engine.caps.throttled_periods)"
at_most "cpu of the engine in percent" 30 "$(perf engine.cpu_mean_percent)"

step "CPU for a million lines: in the container, and the same program natively"
holder=$(docker create logboom-bench)
docker cp --quiet "$holder:/usr/local/bin/logboom-bench" "$scratch/logboom-bench"
docker cp --quiet "$holder:/usr/local/bin/logboom-engine" "$scratch/logboom-engine"
docker rm --volumes "$holder" >/dev/null
if "$scratch/logboom-engine" --version >/dev/null 2>&1; then
  cost() { jq '.tiers[0].resources.engine.cpu_seconds_per_million' "$1"; }
  # The same niceness on both sides: that of whatever the container engine gives.
  niceness=$(docker run --rm $helper awk '{ print $19 }' /proc/self/stat)
  echo "  round  container  native"
  for round in 1 2 3 4 5; do
    docker compose run --rm -T bench --tier peak --peak-secs 5 --json - >"$scratch/in-$round" 2>"$scratch/said" \
      || tail -n 3 "$scratch/said"
    (cd "$scratch" && TMPDIR=${NATIVE_TMPDIR:-/var/tmp} nice -n "$niceness" ./logboom-bench --tier peak \
      --peak-secs 5 --json - >"out-$round" 2>said) || tail -n 3 "$scratch/said"
    printf '  %5d  %9.5s  %6.5s\n' $round "$(cost "$scratch/in-$round")" "$(cost "$scratch/out-$round")"
  done
  median() { for round in 1 2 3 4 5; do cost "$scratch/$1-$round"; done | sort -g | sed -n 3p; }
  at_most "container against native (medians)" 1.15 \
    "$(awk -v inside="$(median in)" -v outside="$(median out)" 'BEGIN { printf "%.3f", inside / outside }')"
else
  miss "the image's program does not run on this machine's C library: nothing to compare with"
fi

step "A changed source file compiles no dependency"
mkdir "$scratch/tree"
git ls-files -z | xargs -0 tar -cf - | tar -C "$scratch/tree" -xf -
# Never the same, or a second run finds it built.
echo "// changed $(now)" >>"$scratch/tree/engine/src/main.rs"
began=$(now)
docker build --progress plain --target engine --tag logboom-rebuilt "$scratch/tree" >"$scratch/rebuild" 2>&1 \
  || { tail -n 40 "$scratch/rebuild"; exit 1; }
echo "  rebuilt in $(since "$began") s, compiling:"
sed -n 's/.*\(Compiling .*\)/    \1/p' "$scratch/rebuild"
same "dependencies compiled" 0 "$(grep 'Compiling' "$scratch/rebuild" | grep -vc 'logboom-' || true)"
above "packages of ours compiled" 0 "$(grep -c 'Compiling logboom-' "$scratch/rebuild" || true)"
docker image rm logboom-rebuilt >/dev/null

if [ "${1:-}" = --tests ]; then
  step "make test"
  make test >"$scratch/tests" 2>&1 && code=0 || code=$?
  grep 'test result:\|SKIPPED\|FAILED\|panicked' "$scratch/tests" | sed 's/^/    /'
  same "exit code" 0 $code
fi

step "make clean"
shown make clean
same "containers left" 0 "$(docker ps --all --quiet --filter label=com.docker.compose.project=$COMPOSE_PROJECT_NAME | wc -l)"
same "volumes left" 0 "$(docker volume ls --quiet --filter label=com.docker.compose.project=$COMPOSE_PROJECT_NAME | wc -l)"
# Those of the Makefile; others may be somebody's own.
left=0
for image in engine loadgen bench test; do
  if docker image inspect logboom-$image >/dev/null 2>&1; then left=$((left + 1)); fi
done
same "images left" 0 $left

step "${#failures[@]} checks failed"
[ ${#failures[@]} = 0 ] || { printf '  %s\n' "${failures[@]}"; exit 1; }
