#!/usr/bin/env bash
# Installs clang, builds the fuzzers, and runs each for a while on its seeds.
#
#   tools/fuzz.sh [--seconds N] [NAME...]
#
#   --seconds N   for each fuzzer (default: 60)
#   NAME          only these: the X of tests/fuzz/X_fuzz.cpp (default: all)
#
# Inputs found on the way are kept in build/fuzz/corpus/NAME, those that crash, hang or exhaust memory in
# build/fuzz/findings: add them to tests/fuzz/corpus/NAME with the fix, where tools/test.sh replays them. Exit code 1 where
# there are any.
set -euo pipefail
# shellcheck source=tools/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

seconds=60
names=()
while (($# > 0)); do
  case $1 in
    --seconds)
      [[ ${2-} =~ ^[1-9][0-9]{0,5}$ ]] || usage_error "--seconds takes a number from 1 to 999999"
      seconds=$2
      shift 2
      ;;
    -h | --help)
      sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    -*) usage_error "unknown argument '$1'" ;;
    *)
      [[ -e $root/tests/fuzz/$1_fuzz.cpp ]] || usage_error "there is no fuzzer '$1'"
      names+=("$1")
      shift
      ;;
  esac
done
if ((${#names[@]} == 0)); then
  for source in "$root"/tests/fuzz/*_fuzz.cpp; do
    name=${source##*/}
    names+=("${name%_fuzz.cpp}")
  done
fi

cd "$root"
step "Packages"
tools/setup.sh build sanitize
step "Build (fuzz)"
build fuzz
step "Fuzzing, $seconds s each"
findings=build/fuzz/findings
mkdir -p "$findings"
# The HDF5 library forgets memory when a file is damaged; quern_math is not instrumented and so does not mark the ends of its
# containers.
export ASAN_OPTIONS=${ASAN_OPTIONS-detect_leaks=0:detect_container_overflow=0}
export UBSAN_OPTIONS=${UBSAN_OPTIONS-print_stacktrace=1}
status=0
for name in "${names[@]}"; do
  corpus=build/fuzz/corpus/$name
  mkdir -p "$corpus"
  log=build/fuzz/$name.log
  result=ok
  "build/fuzz/tests/fuzz/fuzz_$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -max_len=65536 -artifact_prefix="$findings/$name-" "$corpus" "tests/fuzz/corpus/$name" >"$log" 2>&1 || result=FINDING
  executions=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  say "$(printf '%-18s %12s executions  %s' "$name" "${executions:-?}" "$result")"
  if [[ $result != ok ]]; then
    tail -n 40 "$log" >&2
    status=1
  fi
done
exit "$status"
