#!/usr/bin/env bash
# Makes deploy/seccomp.json: what the container engine on this machine allows by default to a container
# without capabilities, and the three calls of io_uring.
#
#   deploy/make-seccomp.sh            writes the profile
#   deploy/make-seccomp.sh --check    says how the profile differs from what would be written; 1 if so
#
# The engine's default is not asked for as text: a container is started with it, and the rules are read
# from what the engine handed to its runtime for that container (config.json in the shim's folder). So
# they are those of this engine, for this architecture, with everything taken away that needs a
# capability. Needs root on the engine's machine, docker and jq.
set -euo pipefail
shopt -s inherit_errexit
cd "$(dirname "$0")"
image=${IMAGE:-debian:bookworm-slim}
profile=seccomp.json
uring='["io_uring_setup","io_uring_enter","io_uring_register"]'

fail() { echo "make-seccomp.sh: $*" >&2; exit 1; }
command -v jq >/dev/null || fail "jq is needed"
[ "$(id -u)" = 0 ] || fail "root is needed to read what the engine hands to its runtime"

# The rules that the engine gives to a container by default, as its runtime gets them.
default_rules() {
  local id pid shim rules
  id=$(docker run --detach --rm --cap-drop ALL --security-opt no-new-privileges --network none \
    --entrypoint sleep "$image" 60)
  pid=$(docker inspect --format '{{.State.Pid}}' "$id")
  shim=$(awk '/^PPid:/ { print $2 }' "/proc/$pid/status")
  rules=$(jq --exit-status .linux.seccomp "/proc/$shim/cwd/config.json") || rules=
  docker kill "$id" >/dev/null
  [ -n "$rules" ] || fail "no rules found for the container: does this engine filter system calls?"
  printf '%s\n' "$rules"
}

# One rule with all calls that are allowed whatever their arguments, one for each other condition.
profile_of() {
  jq --argjson uring "$uring" '
    def merged: group_by([.action, .errnoRet, .args]) | map(
      {names: (map(.names[]) | unique), action: .[0].action}
      + (if .[0].errnoRet then {errnoRet: .[0].errnoRet} else {} end)
      + (if .[0].args then {args: .[0].args} else {} end));
    {
      defaultAction, defaultErrnoRet,
      archMap: [
        {architecture: "SCMP_ARCH_X86_64", subArchitectures: ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]},
        {architecture: "SCMP_ARCH_AARCH64", subArchitectures: ["SCMP_ARCH_ARM"]}
      ],
      syscalls: (
        [{comment: "What Logboom needs beyond the default", names: $uring, action: "SCMP_ACT_ALLOW"}]
        + ([.syscalls[] | .names -= $uring | select(.names != [])] | merged))
    }'
}

made=$(default_rules | profile_of)
case ${1:-} in
  '') printf '%s\n' "$made" >"$profile"; echo "wrote deploy/$profile" ;;
  --check)
    # Lines of "name condition", so that the difference names calls.
    flat='.syscalls[] | . as $rule | .names[] | "\(.) \($rule.action) \($rule.args // [] | tojson)"'
    if diff <(jq -r "$flat" "$profile" | sort) <(printf '%s\n' "$made" | jq -r "$flat" | sort); then
      echo "deploy/$profile is this engine's default and io_uring"
    else
      echo "deploy/$profile (<) is not this engine's default and io_uring (>)"; exit 1
    fi ;;
  *) fail "usage: deploy/make-seccomp.sh [--check]" ;;
esac
