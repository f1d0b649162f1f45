#!/usr/bin/env bash
# Installs the Debian packages that are missing, and asks apt for nothing that is there.
#
#   tools/setup.sh [build|test|sanitize|bench|peers|lint|pytorch]...     without a word: build
#
# docs/dependencies.md says what each package is for. Works as root or with sudo.
set -euo pipefail
# shellcheck source=tools/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

declare -A packages=(
  [build]="g++ cmake ninja-build pkg-config libeigen3-dev libexpected-dev libfmt-dev libhwy-dev libhwloc-dev libpcre2-dev
           libxxhash-dev libssl-dev libhdf5-dev libyaml-cpp-dev nlohmann-json3-dev libcli11-dev libedit-dev bible-kjv"
  [test]="libgtest-dev binutils"
  [sanitize]="clang libomp-dev llvm"
  [bench]="libbenchmark-dev"
  [peers]="libdnnl-dev libopenblas0-openmp libblis4-openmp likwid" # what matmul_peers_bench and compare_hardware.py measure beside ours
  [lint]="clang-format clang-tidy libomp-dev shellcheck"
  [pytorch]="python3-torch python3-numpy libopenblas0-openmp" # without OpenBLAS, f32 takes reference BLAS: 40 times slower
)
# Older x86 processors for the tests of the instruction-set choice; other machines have nothing to emulate.
if [[ $(uname -m) == x86_64 ]]; then packages[test]+=" qemu-user"; fi

case ${1-} in
  -h | --help)
    sed -n '2,6s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac
groups=("$@")
if ((${#groups[@]} == 0)); then groups=(build); fi

wanted=()
for group in "${groups[@]}"; do
  [[ -n ${packages[$group]-} ]] || usage_error "unknown group '$group'; there are build, test, sanitize, bench, peers, lint, pytorch"
  read -r -d '' -a names <<<"${packages[$group]}" || true
  wanted+=("${names[@]}")
done

if ! command -v dpkg-query >/dev/null; then
  say "This is no Debian system: going on with what is installed (docs/dependencies.md lists what is needed)."
  exit 0
fi

# dpkg-query fails when it knows one of them not.
known=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${wanted[@]}" 2>/dev/null || true)
installed=" $(sed -n 's/^installed //p' <<<"$known" | tr '\n' ' ') "
missing=()
for package in "${wanted[@]}"; do
  if [[ $installed != *" $package "* ]]; then missing+=("$package"); fi
done
if ((${#missing[@]} == 0)); then exit 0; fi

as_root=()
if (($(id -u) != 0)); then
  command -v sudo >/dev/null || fail "these packages are missing; as root, run: apt-get install ${missing[*]}"
  as_root=(sudo)
fi
# No questions, no suggestions, and patience with another apt that is running.
apt=(${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300)

say "Installing ${#missing[@]} packages: ${missing[*]}"
# Without a network the lists at hand may still do, and if they do not, the installation says so.
"${apt[@]}" update >/dev/null 2>&1 || true
quietly "${apt[@]}" install --no-install-recommends "${missing[@]}"
