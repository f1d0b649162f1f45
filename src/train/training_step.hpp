// One optimizer step: gradients of its micro-batches, then the update. What `quern train` repeats and `quern bench train`
// times.
#pragma once

#include <cstdint>

#include "math/exec.hpp"
#include "math/operation_profile.hpp"
#include "train/optimizer.hpp"
#include "train/run_config.hpp"
#include "train/training_memory.hpp"

namespace quern {

/// Between steps it holds nothing but the optimizer's settings. Nothing on its path allocates once the first step is over.
class TrainingStep {
 public:
  /// `team` and `memory` (planned for optimizer.kind, allocated before the first begin()) must outlive this.
  /// `nominal_tokens`: of all of a step's micro-batches, masked or not.
  TrainingStep(ThreadTeam& team, const Backend& backend, TrainingMemory& memory, const OptimizerConfig& optimizer,
               std::int64_t nominal_tokens);

  /// Steps are recorded there from now on (null: nowhere); one recorder for each of the team's threads.
  void record_to(OperationProfile* profile) { profile_ = profile; }

  void begin();
  /// Adds the gradients of a micro-batch with `targets` tokens that are not masked. dropout.layer is set by the pass.
  /// Error no_memory where the micro-batch's buffers are allocated for it (TrainingMemory::begin_pass()).
  [[nodiscard]] Result<void> add(const BatchView& batch, std::int64_t targets, const BlockDropout& dropout);

  struct Outcome {
    bool updated = false;        ///< false: every token was masked, there is no gradient and nothing changed
    double loss = 0.0;           ///< mean over the tokens that are not masked, nats
    double gradient_norm = 0.0;  ///< before clipping; not finite: nothing was updated
  };
  /// Updates the weights and their packs; `step` counts from 1.
  Outcome update(double learning_rate, std::int64_t step);

 private:
  void record(TeamMember& member) const;

  ThreadTeam& team_;
  Backend backend_;
  TrainingMemory& memory_;
  Optimizer optimizer_;
  double nominal_tokens_;
  OperationProfile* profile_ = nullptr;
  double loss_sum_ = 0.0;
  double weight_sum_ = 0.0;
  bool first_ = true;
};

}  // namespace quern
