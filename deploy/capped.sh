#!/usr/bin/env bash
# Runs a command under caps: cpus by taskset, descriptors and locked memory by ulimit, and time and
# memory by a cgroup of its own where one may be made (version 1 and 2 as root, else by systemd).
#
#   deploy/capped.sh [--cpuset 0,1] [--cpus 1.5] [--memory 512M] [--nofile 65536] -- COMMAND ...
#
# What cannot be had is said, and the command runs without it. Exits as the command does.
set -eu

cpuset='' cpus='' memory='' nofile=65536
while [ $# -gt 0 ]; do
  case $1 in
    --cpuset) cpuset=$2; shift 2 ;;
    --cpus) cpus=$2; shift 2 ;;
    --memory) memory=$2; shift 2 ;;
    --nofile) nofile=$2; shift 2 ;;
    --) shift; break ;;
    *) echo "capped.sh: unknown option $1; the command comes after --" >&2; exit 2 ;;
  esac
done
[ $# -gt 0 ] || { echo "capped.sh: no command after --" >&2; exit 2; }
say() { echo "caps     $*" >&2; }

# --- ulimits: for this shell, and so for the command ---
# A hard limit below is no reason to stop: the programs say what is too little.
ulimit -n "$nofile" 2>/dev/null || nofile="$(ulimit -n) ($nofile is above the hard limit)"
ulimit -l unlimited 2>/dev/null || ulimit -l "$(ulimit -H -l)"
say "descriptors $nofile, locked memory $(ulimit -l) KiB"

# --- a cgroup ---
root=/sys/fs/cgroup
name=logboom-capped-$$
period=100000
quota=''
[ -z "$cpus" ] || quota=$(awk -v cpus="$cpus" -v period=$period 'BEGIN { printf "%d", cpus * period }')
bytes=''
[ -z "$memory" ] || bytes=$(echo "$memory" | awk '
  /^[0-9]+[KMGkmg]?$/ { unit = toupper(substr($0, length($0)));
    power = unit == "K" ? 1 : unit == "M" ? 2 : unit == "G" ? 3 : 0; printf "%d", $0 * 1024 ^ power }')
[ -z "$memory" ] || [ -n "$bytes" ] || { echo "capped.sh: $memory (--memory) is no size" >&2; exit 2; }

made=''
give_back() { for group in $made; do rmdir "$group" 2>/dev/null || true; done; made=''; }
trap give_back EXIT

# Writes $2 into the file $1 of a cgroup.
put() { [ -w "$1" ] && { echo "$2" >"$1"; } 2>/dev/null; }
# A new cgroup below $1.
group() { mkdir "$1/$name" 2>/dev/null && made="$made $1/$name"; }

in_version_2() {
  [ -f $root/cgroup.controllers ] || return 1
  put $root/cgroup.subtree_control '+cpu +memory' && group $root || return 1
  [ -z "$quota" ] || put "$root/$name/cpu.max" "$quota $period" || return 1
  [ -z "$bytes" ] || put "$root/$name/memory.max" "$bytes" || return 1
}
in_version_1() {
  [ -f $root/cpu/cpu.cfs_quota_us ] || return 1
  if [ -n "$quota" ]; then
    group $root/cpu && put "$root/cpu/$name/cpu.cfs_period_us" $period \
      && put "$root/cpu/$name/cpu.cfs_quota_us" "$quota" || return 1
  fi
  if [ -n "$bytes" ]; then
    group $root/memory && put "$root/memory/$name/memory.limit_in_bytes" "$bytes" || return 1
  fi
}
by_systemd() {
  command -v systemd-run >/dev/null && systemd-run --quiet --user --scope true 2>/dev/null
}

wrap=''
if [ -n "$quota$bytes" ]; then
  granted="cpus ${cpus:-all}, memory ${memory:-all}"
  if in_version_2 || { give_back; in_version_1; }; then
    say "$granted, by a cgroup"
  elif give_back; by_systemd; then
    wrap="systemd-run --quiet --user --scope"
    [ -z "$cpus" ] || wrap="$wrap -p CPUQuota=$(awk -v cpus="$cpus" 'BEGIN { print cpus * 100 }')%"
    [ -z "$bytes" ] || wrap="$wrap -p MemoryMax=$bytes"
    say "$granted, by systemd"
  else
    say "$granted: NOT capped, no cgroup may be made here"
  fi
fi

# --- cpus ---
if [ -n "$cpuset" ]; then
  taskset -c "$cpuset" true || { echo "capped.sh: $cpuset (--cpuset) cannot be had" >&2; exit 2; }
  wrap="taskset -c $cpuset $wrap"
  say "on cpus $cpuset, by taskset"
fi

# The child waits in its cgroups before it becomes the command; signals are for it.
# shellcheck disable=SC2086
(
  for group in $made; do echo 0 >"$group/cgroup.procs"; done
  exec $wrap "$@"
) &
child=$!
trap 'kill -INT $child 2>/dev/null' INT
trap 'kill -TERM $child 2>/dev/null' TERM
code=0
wait $child || code=$?
# A signal ends the first wait; the command may still have to sum up.
while kill -0 $child 2>/dev/null; do code=0; wait $child || code=$?; done
exit $code
