# Sourced by the scripts beside it: the repository's root, messages, and a command whose output matters only when it fails.
# shellcheck shell=bash

root=$(cd -P -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
readonly root

say() { printf '%s\n' "$*"; }
# A step's heading, in bold on a terminal.
step() {
  if [[ -t 1 ]]; then printf '\033[1m== %s\033[0m\n' "$*"; else printf '== %s\n' "$*"; fi
}
fail() {
  printf '%s: %s\n' "${0##*/}" "$*" >&2
  exit 1
}
# A mistake on the command line: exit code 2, as the program itself uses for bad input.
usage_error() {
  printf '%s: %s; see --help\n' "${0##*/}" "$*" >&2
  exit 2
}

# quietly COMMAND...: shows its output only if it fails.
quietly() {
  local log status=0
  log=$(mktemp)
  "$@" >"$log" 2>&1 || status=$?
  if ((status != 0)); then
    cat "$log" >&2
    printf '%s: failed with exit code %d: %s\n' "${0##*/}" "$status" "$*" >&2
  fi
  rm -f "$log"
  return "$status"
}

# build PRESET [TARGET...]: configures and builds build/PRESET. Ninja reconfigures by itself once a build folder exists.
build() {
  local preset=$1
  shift
  local targets=() quiet=()
  if (($# > 0)); then targets=(--target "$@"); fi
  # A line per file is for terminals, where ninja overwrites it.
  if [[ ! -t 1 ]]; then quiet=(-- --quiet); fi
  if command -v ccache >/dev/null; then
    # Clones share what they compile: paths count from the clone's root.
    export CCACHE_BASEDIR=$root CCACHE_NOHASHDIR=1
    export CMAKE_C_COMPILER_LAUNCHER=${CMAKE_C_COMPILER_LAUNCHER-ccache}
    export CMAKE_CXX_COMPILER_LAUNCHER=${CMAKE_CXX_COMPILER_LAUNCHER-ccache}
  fi
  (
    cd "$root" || exit
    if [[ ! -e build/$preset/build.ninja ]]; then quietly cmake --preset "$preset"; fi
    cmake --build --preset "$preset" --parallel "$(nproc)" ${targets[@]+"${targets[@]}"} ${quiet[@]+"${quiet[@]}"}
  )
}
