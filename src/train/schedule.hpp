// The learning rate of each optimizer step: linear warm-up, then a cosine to a floor, or a plateau and a decay to it.
#pragma once

#include <cstdint>

#include "train/run_config.hpp"

namespace quern {

/// Linear warm-up to `peak`, a way down to `minimum`, constant afterwards. Steps are optimizer steps: gradient accumulation
/// does not change the schedule. The ways: half a cosine (Loshchilov & Hutter 2017, SGDR, one cycle); or a plateau at the
/// peak and a cooldown (WSD: Hu et al. 2024, MiniCPM), linear or 1 - sqrt (Haegele et al. 2024).
struct LearningRateSchedule {
  double peak = 1e-3;
  double minimum = 1e-4;
  std::int64_t warmup_steps = 0;
  std::int64_t decay_steps = 0;  ///< the step from which the rate is `minimum`; at most warmup_steps: right after warm-up
  ScheduleKind kind = ScheduleKind::cosine;
  std::int64_t cooldown_steps = 0;  ///< wsd: the last of decay_steps, in which the rate falls
  CooldownShape cooldown = CooldownShape::linear;
};

/// The schedule of a run; `optimizer.decay_steps` 0 means that the decay ends with the run's `train_steps`.
[[nodiscard]] LearningRateSchedule learning_rate_schedule(const OptimizerConfig& optimizer, std::int64_t train_steps);

/// The rate used by the optimizer step that follows `step` finished ones (so the first is step 0):
///   step < warmup:           peak * (step + 1) / (warmup + 1), so that no step is wasted on a rate of 0
///   warmup <= step < decay:  minimum + (peak - minimum) * f
///   decay <= step:           minimum
/// With cosine, f = (1 + cos(pi * (step - warmup) / (decay - warmup))) / 2. With wsd, f = 1 before decay - cooldown, then,
/// with x = (step - (decay - cooldown)) / cooldown, 1 - x or 1 - sqrt(x).
[[nodiscard]] double learning_rate_at(const LearningRateSchedule& schedule, std::int64_t step);

}  // namespace quern
