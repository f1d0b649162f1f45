#!/usr/bin/env bash
# Installs what the tests need, builds them, and runs every one.
#
#   tools/test.sh [--preset test|dev|asan|tsan|coverage] [-R REGEX]
#
#   --preset NAME   asan: address and undefined-behaviour sanitizers; tsan: thread sanitizer; coverage: gcov
#                   (default: test)
#   -R REGEX        only tests whose name matches
#
# Tests that compare with reference data look for the folder $QUERN_SHARED (by default ../shared) and are skipped without it;
# where the folder is there, a skipped one counts as failed. Results: build/PRESET/tests.xml (JUnit).
set -euo pipefail
# shellcheck source=tools/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

preset="test"
select=()
while (($# > 0)); do
  case $1 in
    --preset)
      [[ ${2-} =~ ^(test|dev|asan|tsan|coverage)$ ]] || usage_error "--preset takes test, dev, asan, tsan or coverage"
      preset=$2
      shift 2
      ;;
    -R)
      [[ -n ${2-} ]] || usage_error "-R takes a regular expression"
      select=(-R "$2")
      shift 2
      ;;
    -h | --help)
      sed -n '2,11s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *) usage_error "unknown argument '$1'" ;;
  esac
done

cd "$root"
step "Packages"
packages_started=$SECONDS
tools/setup.sh build test
if [[ $preset == tsan ]]; then tools/setup.sh sanitize; fi
packages_seconds=$((SECONDS - packages_started))

step "Build ($preset)"
build_started=$SECONDS
build "$preset"
build_seconds=$((SECONDS - build_started))

step "Tests ($preset)"
if [[ -z ${QUERN_SHARED-} && -d $root/../shared ]]; then
  QUERN_SHARED=$(cd "$root/../shared" && pwd)
fi
if [[ -d ${QUERN_SHARED-} ]]; then export QUERN_SHARED; else unset QUERN_SHARED; fi
export UBSAN_OPTIONS=${UBSAN_OPTIONS-print_stacktrace=1}
# LLVM's OpenMP runtime is not instrumented; its own tool (archer) tells the sanitizer of its synchronization.
export TSAN_OPTIONS=${TSAN_OPTIONS-ignore_noninstrumented_modules=1}

results=$root/build/$preset/tests.xml
rm -f "$results"
tests_started=$SECONDS
status=0
ctest --test-dir "build/$preset" --no-tests=error --output-on-failure -j "$(nproc)" --output-junit "$results" \
  ${select[@]+"${select[@]}"} || status=$?
tests_seconds=$((SECONDS - tests_started))
[[ -e $results ]] || fail "ctest wrote no results"

# Number of an attribute of the <testsuite> element, e.g. its failures.
count() { sed -n "/<testsuite/,/>/s/.*[[:space:]]$1=\"\([0-9]*\)\".*/\1/p" "$results" | head -n 1; }
total=$(count tests)
failed=$(count failures)
skipped=$(($(count skipped) + $(count disabled)))
passed=$((total - failed - skipped))

# Names of tests that skipped for want of reference data.
without_data=$(awk '/<testcase/ { name = $0; sub(/.*<testcase name="/, "", name); sub(/".*/, "", name); skipped = 0 }
                    /<skipped/ { skipped = 1 }
                    /shared data absent:/ { if (skipped && name != "") { print name; name = "" } }' "$results")
if [[ -n ${QUERN_SHARED-} && -n $without_data ]]; then
  say "Skipped for want of data although $QUERN_SHARED is there:"
  say "$without_data"
  failed=$((failed + $(grep -c . <<<"$without_data")))
  skipped=$((total - passed - failed))
  status=1
fi

say "packages $packages_seconds s, build $build_seconds s, tests $tests_seconds s"
say "$passed passed, $failed failed, $skipped skipped"
exit "$status"
