#!/usr/bin/env bash
# Applies the formatting of .clang-format to every C++ file, and checks shell scripts.
#
#   tools/format.sh                 formats in place
#   tools/format.sh --check         changes nothing; fails where something would change
#   tools/format.sh --tidy [BASE]   runs clang-tidy (.clang-tidy) on sources changed since BASE (default HEAD~1, and what is
#                                   not committed); BASE all: every source. Needs a configured build folder.
set -euo pipefail
# shellcheck source=tools/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
cd "$root"

need() { command -v "$1" >/dev/null || fail "$1 is missing: tools/setup.sh lint (or apt-get install $1)"; }
# Files that git does not ignore, tracked or new, that still exist.
list_files() {
  git ls-files -z --cached --others --exclude-standard -- "$@" |
    while IFS= read -r -d '' file; do
      if [[ -e $file ]]; then printf '%s\0' "$file"; fi
    done
}

mode=${1-apply}
case $mode in
  apply | --check)
    need clang-format
    mapfile -d '' -t sources < <(list_files '*.cpp' '*.hpp')
    mapfile -d '' -t scripts < <(list_files '*.sh' .ci/run)
    if command -v shellcheck >/dev/null; then shellcheck -x "${scripts[@]}"; fi
    if [[ $mode == --check ]]; then
      clang-format --dry-run --Werror "${sources[@]}"
      say "${#sources[@]} files are formatted"
    else
      clang-format -i "${sources[@]}"
    fi
    ;;
  --tidy)
    need clang-tidy
    base=${2-HEAD~1}
    database=
    for preset in dev test release; do
      if [[ -z $database && -e build/$preset/compile_commands.json ]]; then database=build/$preset; fi
    done
    [[ -n $database ]] || fail "no build folder; run cmake --preset dev first"
    if [[ $base == all ]]; then
      mapfile -d '' -t sources < <(list_files 'src/*.cpp' 'tools/*.cpp' 'tests/*.cpp' 'bench/*.cpp')
    else
      mapfile -d '' -t sources < <({
        git diff -z --name-only --diff-filter=d "$base" -- '*.cpp'
        git ls-files -z --others --exclude-standard -- '*.cpp'
      } | sort -zu)
    fi
    known=()
    for source in ${sources[@]+"${sources[@]}"}; do
      if grep -qF "\"$root/$source\"" "$database/compile_commands.json"; then known+=("$source"); fi
    done
    if ((${#known[@]} == 0)); then
      say "nothing to check"
      exit 0
    fi
    printf '%s\0' "${known[@]}" | xargs -0 -n 1 -P "$(nproc)" clang-tidy --quiet -p "$database"
    ;;
  -h | --help) sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" ;;
  *) usage_error "unknown argument '$mode'" ;;
esac
