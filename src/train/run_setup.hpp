// What a run needs before its first step: corpus, backend, precision, shapes and the memory plan.
#pragma once

#include <string>
#include <vector>

#include "math/exec.hpp"
#include "math/result.hpp"
#include "train/batch_source.hpp"
#include "train/trainer.hpp"
#include "train/training_memory.hpp"

namespace quern {

/// A run with everything decided and nothing allocated yet.
struct RunSetup {
  TrainingPlan plan;
  Backend backend;
  ComputeType compute = ComputeType::f32;
  std::vector<int> processors;  ///< of each thread; empty: threads are not bound
  BatchSource batches;
  TrainingMemory memory;
};

/// What is decided once the model is known.
struct RunDecisions {
  Backend backend;
  ComputeType compute = ComputeType::f32;
  std::string isa;               ///< instruction-set path in use
  std::string precision_reason;  ///< why this precision
  std::vector<int> processors;   ///< of each thread; empty: threads are not bound
};

/// Chooses instruction set, precision, threads, their placement and length of sequences of a run whose model is complete,
/// and writes them into it. Error bad_input where the model cannot be trained.
[[nodiscard]] Result<RunDecisions> decide_run(RunConfig& run);

/// Where a micro-batch's buffers lie by system.arena.
[[nodiscard]] Placement pass_buffers(const RunConfig& run);

/// Makes system.numa the policy of the run's threads, before memory is allocated. Error unsupported where the system
/// refuses.
[[nodiscard]] Result<void> use_memory_policy(const RunConfig& run);

/// What system.memory_limit_mib allows, in bytes.
[[nodiscard]] std::size_t memory_limit(const RunConfig& run);

/// Opens the corpus and, with `train.from`, the checkpoint whose model the run takes over (start_weights.hpp), chooses
/// instruction set, precision and threads, and plans the memory. `resume`: the run goes on from its own checkpoint.
[[nodiscard]] Result<RunSetup> set_up_run(const RunConfig& run, bool resume);

}  // namespace quern
