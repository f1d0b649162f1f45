#include "train/schedule.hpp"

#include <cmath>
#include <numbers>

namespace quern {

LearningRateSchedule learning_rate_schedule(const OptimizerConfig& optimizer, std::int64_t train_steps) {
  return {.peak = optimizer.learning_rate,
          .minimum = optimizer.min_learning_rate,
          .warmup_steps = optimizer.warmup_steps,
          .decay_steps = optimizer.decay_steps > 0 ? optimizer.decay_steps : train_steps};
}

double learning_rate_at(const LearningRateSchedule& schedule, std::int64_t step) {
  if (step < schedule.warmup_steps) {
    return schedule.peak * static_cast<double>(step + 1) / static_cast<double>(schedule.warmup_steps + 1);
  }
  if (step >= schedule.decay_steps) return schedule.minimum;
  const double done =
      static_cast<double>(step - schedule.warmup_steps) / static_cast<double>(schedule.decay_steps - schedule.warmup_steps);
  return schedule.minimum + 0.5 * (schedule.peak - schedule.minimum) * (1.0 + std::cos(std::numbers::pi * done));
}

}  // namespace quern
