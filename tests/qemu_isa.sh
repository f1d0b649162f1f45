#!/bin/sh
# Runs the dispatch test on emulated older processors: it must choose their best path and must not crash.
# Usage: qemu_isa.sh DISPATCH_TEST_PROGRAM. Exit code 77: skipped, no qemu-x86_64 here (Debian package qemu-user).
set -eu

program=$1
if ! command -v qemu-x86_64 > /dev/null; then
  echo "skipped: qemu-x86_64 is not installed (package qemu-user)"
  exit 77
fi

# Nehalem: no AVX. SandyBridge: AVX without AVX2. Haswell: AVX2 with all that its path needs (emulated from qemu 7.2 on).
for pair in Nehalem:portable SandyBridge:portable Haswell:avx2; do
  cpu=${pair%%:*}
  path=${pair##*:}
  echo "== $cpu, expecting $path"
  # Only the path that the processor chooses: fork and exec of the native program would leave the emulation.
  env -u QUERN_ISA QUERN_EXPECT_ISA="$path" qemu-x86_64 -cpu "$cpu" "$program" --gtest_filter='Dispatch.*:Kernels.*' \
    --gtest_brief=1
done
