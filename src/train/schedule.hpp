// The learning rate of each optimizer step: linear warm-up, then a cosine to a floor.
#pragma once

#include <cstdint>

#include "train/run_config.hpp"

namespace quern {

/// Linear warm-up to `peak`, half a cosine down to `minimum`, constant afterwards (Loshchilov & Hutter 2017, SGDR, one
/// cycle). Steps are optimizer steps: gradient accumulation does not change the schedule.
struct LearningRateSchedule {
  double peak = 1e-3;
  double minimum = 1e-4;
  std::int64_t warmup_steps = 0;
  std::int64_t decay_steps = 0;  ///< the step from which the rate is `minimum`; at most warmup_steps: right after warm-up
};

/// The schedule of a run; `optimizer.decay_steps` 0 means the cosine ends with the run's `train_steps`.
[[nodiscard]] LearningRateSchedule learning_rate_schedule(const OptimizerConfig& optimizer, std::int64_t train_steps);

/// The rate used by the optimizer step that follows `step` finished ones (so the first is step 0):
///   step < warmup:           peak * (step + 1) / (warmup + 1), so that no step is wasted on a rate of 0
///   warmup <= step < decay:  minimum + (peak - minimum) * (1 + cos(pi * (step - warmup) / (decay - warmup))) / 2
///   decay <= step:           minimum
[[nodiscard]] double learning_rate_at(const LearningRateSchedule& schedule, std::int64_t step);

}  // namespace quern
