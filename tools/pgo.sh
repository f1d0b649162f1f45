#!/usr/bin/env bash
# Builds quern by a profile: a build that records where it spends its time, runs of training and inference with it, and a
# build in the same folder that is optimized by the records. Result: build/pgo/tools/quern.
#
#   tools/pgo.sh
#
# The records count for this compiler and these sources only. docs/performance.md says what it gives.
set -euo pipefail
# shellcheck source=tools/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
if [[ ${1-} == -h || ${1-} == --help ]]; then
  sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
  exit 0
fi
(($# == 0)) || usage_error "unknown argument '$1'"
cd "$root"
step "Packages"
tools/setup.sh build

step "A build that records"
cmake --preset pgo -DQUERN_PROFILE=make
find build/pgo -name '*.gcda' -delete
cmake --build --preset pgo

step "Runs"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
quern=build/pgo/tools/quern
"$quern" bench train configs/shakespeare_char_cpu.yaml configs/loop_small.yaml --rounds 1 --steps 4
"$quern" data prepare kjv --tokenizer bpe --vocab 4096 --out "$work/corpus.h5"
"$quern" train configs/quickstart.yaml data.corpus="$work/corpus.h5" run.dir="$work/run" train.steps=20
"$quern" convert "$work/run" "$work/model.gguf" --type f32
for type in Q8_0 Q4_0; do
  "$quern" quantize "$work/model.gguf" "$work/$type.gguf" "$type"
  "$quern" bench infer "$work/$type.gguf" --prompt 64 --decode 32 --sequences 1,8 --rounds 1
done

step "A build by the records"
cmake --preset pgo -DQUERN_PROFILE=use
cmake --build --preset pgo
say "build/pgo/tools/quern is built by the profile."
