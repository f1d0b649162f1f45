// What a function needs to compute on one thread: its place in the team, the kernels, and working memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "math/dispatch.hpp"
#include "math/operation_profile.hpp"
#include "math/thread_team.hpp"

namespace quern {

/// How much of a product a thread takes at a time. Changes speed and no bit of a result; `quern tune` measures which serve.
struct BlockSizes {
  /// Bytes of weights of a task where up to kFastRows rows meet blocks as they are (decode): long enough for hardware
  /// prefetchers and against the cost of handing out tasks (some 6 us at 10 GB/s), short enough for an even end among
  /// threads. kLeastTaskBytes to kMostTaskBytes.
  std::int64_t task_bytes = 64 * 1024;
  /// Most rows of x of a task where there are more (prefill, training): weights are read, and decoded, once for as many. 0:
  /// what matmul_blocking.hpp says; else kLeastBlockRows to kMostBlockRows.
  std::int64_t block_rows = 0;

  static constexpr std::int64_t kLeastTaskBytes = 4 * 1024, kMostTaskBytes = 1024 * 1024;
  static constexpr std::int64_t kLeastBlockRows = 16, kMostBlockRows = 2048;
  bool operator==(const BlockSizes&) const = default;
};

/// Who computes products. `eigen` is the oracle of the tests and the fallback on other machines (`--backend eigen`); all
/// else (norms, attention, ...) goes to `kernels` either way.
struct Backend {
  const KernelTable* kernels = nullptr;
  bool eigen = false;
  /// false, for measuring only: what follows a product (bias, activation, residual), the loss and the packing of updated
  /// weights are passes of their own over whole buffers. f32 activations get the same bits; bf16 ones are rounded more
  /// often.
  bool fused = true;
  BlockSizes blocks = {};
};

/// One thread's execution context. Functions that take an Exec& are called by every member of `member`'s team with the
/// same arguments ("SPMD") and return on all of them after the work is done and visible to all. With a default TeamMember
/// they run serially on the calling thread. `scratch` is this thread's own, aligned to kBufferAlignment, and holds nothing
/// between calls; functions state its size in a *_scratch_bytes function.
struct Exec {
  TeamMember& member;
  const Backend& backend;
  std::span<std::byte> scratch;
};

/// Tells the thread's recorder, if there is one, that the time since the mark before went to `operation`. `cost` is that of
/// the whole team; `layer` -1: none.
inline void mark(const Exec& exec, Operation operation, StepPhase phase, std::int64_t layer, const OperationCost& cost) {
  OperationRecorder* const recorder = exec.member.recorder();
  if (recorder == nullptr) return;
  const double part = 1.0 / exec.member.count();
  recorder->mark(operation, phase, layer, {cost.flops * part, cost.bytes * part});
}

}  // namespace quern
