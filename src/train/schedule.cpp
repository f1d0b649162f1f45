#include "train/schedule.hpp"

#include <cmath>
#include <numbers>

namespace quern {

LearningRateSchedule learning_rate_schedule(const OptimizerConfig& optimizer, std::int64_t train_steps) {
  return {.peak = optimizer.learning_rate,
          .minimum = optimizer.min_learning_rate,
          .warmup_steps = optimizer.warmup_steps,
          .decay_steps = optimizer.decay_steps > 0 ? optimizer.decay_steps : train_steps,
          .kind = optimizer.schedule,
          .cooldown_steps = optimizer.cooldown_steps,
          .cooldown = optimizer.cooldown};
}

double learning_rate_at(const LearningRateSchedule& schedule, std::int64_t step) {
  if (step < schedule.warmup_steps) {
    return schedule.peak * static_cast<double>(step + 1) / static_cast<double>(schedule.warmup_steps + 1);
  }
  if (step >= schedule.decay_steps) return schedule.minimum;
  const bool cosine = schedule.kind == ScheduleKind::cosine;
  const std::int64_t start = cosine ? schedule.warmup_steps : schedule.decay_steps - schedule.cooldown_steps;
  if (step < start) return schedule.peak;
  const double done = static_cast<double>(step - start) / static_cast<double>(schedule.decay_steps - start);
  const double left = cosine                                       ? 0.5 * (1.0 + std::cos(std::numbers::pi * done))
                      : schedule.cooldown == CooldownShape::linear ? 1.0 - done
                                                                   : 1.0 - std::sqrt(done);
  return schedule.minimum + (schedule.peak - schedule.minimum) * left;
}

}  // namespace quern
