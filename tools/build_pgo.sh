#!/usr/bin/env bash
# Builds build/pgo/tools/quern with profile-guided optimization: a first build counts branches while it trains and runs models of
# random weights, a second one in the same folder uses the counts. Takes GCC and a few minutes.
set -euo pipefail
# shellcheck source=tools/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

case ${1-} in
  "") ;;
  -h | --help)
    sed -n '2,3s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
  *) usage_error "unknown argument '$1'" ;;
esac

cd "$root"
quern=build/pgo/tools/quern
rm -rf build/pgo/profile
step "a build that counts"
quietly cmake --preset pgo -DQUERN_PROFILE=generate
build pgo quern
step "runs to count"
for precision in f32 bf16; do
  for run in shakespeare_char_cpu loop_small; do
    say "train $run, $precision"
    quietly "$quern" bench train "configs/$run.yaml" train.batch=4 --precision "$precision" --rounds 1 --steps 3
  done
done
for type in q4_k_m q8_0; do
  say "infer tinyllama-1.1b, $type"
  quietly "$quern" bench infer --shape tinyllama-1.1b --type "$type" --prompt 64 --decode 16 --warmup 0 --rounds 1
done
step "the build that uses the counts"
quietly cmake --preset pgo -DQUERN_PROFILE=use
build pgo quern
say "$quern"
