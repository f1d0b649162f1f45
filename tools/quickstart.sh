#!/usr/bin/env bash
# From a fresh clone to a trained model and its text: installs what is missing, builds, prepares the King James text, trains
# configs/quickstart.yaml for a minute or two, prints a sample, and exports the model to GGUF. A second run reuses all of it.
#
#   tools/quickstart.sh [--steps N] [--dir RUN_FOLDER]
#
#   --steps N    optimizer steps instead of the configuration's
#   --dir DIR    run folder instead of runs/quickstart
set -euo pipefail
# shellcheck source=tools/common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

run_dir=runs/quickstart
overrides=()
while (($# > 0)); do
  case $1 in
    --steps)
      [[ ${2-} =~ ^[1-9][0-9]*$ ]] || usage_error "--steps takes a positive number, not '${2-}'"
      overrides+=("train.steps=$2")
      shift 2
      ;;
    --dir)
      [[ -n ${2-} ]] || usage_error "--dir takes a folder"
      run_dir=$2
      if [[ $run_dir != /* ]]; then run_dir=$PWD/$run_dir; fi
      overrides+=("run.dir=$run_dir")
      shift 2
      ;;
    -h | --help)
      sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *) usage_error "unknown argument '$1'" ;;
  esac
done

cd "$root"
started=$SECONDS
quern=build/release/tools/quern

step "Packages"
tools/setup.sh build
say "all there"

step "Build (release)"
build release
"$quern" --version

step "Text"
"$quern" data prepare kjv --tokenizer bpe --vocab 4096 --out data/kjv.h5

step "Training (configs/quickstart.yaml)"
how=()
if compgen -G "$run_dir/checkpoints/*.h5" >/dev/null; then
  how=(--resume)
elif [[ -e $run_dir/run.yaml ]]; then
  how=(--force) # killed before its first checkpoint: nothing to lose
fi
"$quern" train configs/quickstart.yaml ${how[@]+"${how[@]}"} ${overrides[@]+"${overrides[@]}"}

step "Sample"
"$quern" sample "$run_dir" -p "And God said" --tokens 120 --seed 1

step "GGUF: the same model for any GGUF program"
gguf=$run_dir/model.gguf
"$quern" convert "$run_dir" "$gguf" --force
"$quern" convert "$run_dir" "$run_dir/model-q8_0.gguf" --type q8_0 --force
prompt="And God said"
greedy=(-p "$prompt" --temperature 0 --tokens 40 --precision f32)
trained=$("$quern" sample "$run_dir" "${greedy[@]}")
exported=$prompt$("$quern" run "$gguf" "${greedy[@]}")
printf '%s\n' "$exported"
[[ $exported == "$trained" ]] || { say "the GGUF file's text is not the checkpoint's: $trained" >&2; exit 1; }
say "the likeliest text of model.gguf is the checkpoint's, token by token"
say "model-q8_0.gguf, a quarter of the size:"
printf '%s' "$prompt"
"$quern" run "$run_dir/model-q8_0.gguf" "${greedy[@]}"

step "Done in $((SECONDS - started)) s. What to try next"
cat <<NEXT
  $quern sample "$run_dir" -p "In the beginning" --temperature 0.7
  $quern quantize "$gguf" "$run_dir/model-q4_k_m.gguf" Q4_K_M
  $quern train configs/quickstart.yaml train.steps=5000 run.dir=runs/longer
  $quern train configs/quickstart.yaml --dry-run    # parameters, memory and FLOP of a run
  $quern data prepare YOUR.txt --out data/yours.h5  # then: train ... data.corpus=data/yours.h5
  $quern hardware                                   # what this machine can do
  $quern --help
NEXT
