#include "train/schedule.hpp"

#include <gtest/gtest.h>

#include <cmath>

namespace quern {
namespace {

constexpr LearningRateSchedule kSchedule{.peak = 1.0, .minimum = 0.1, .warmup_steps = 9, .decay_steps = 109};

TEST(Schedule, WarmsUpLinearlyFromItsFirstStep) {
  EXPECT_DOUBLE_EQ(learning_rate_at(kSchedule, 0), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate_at(kSchedule, 4), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate_at(kSchedule, 8), 0.9);
  EXPECT_DOUBLE_EQ(learning_rate_at(kSchedule, 9), 1.0);
}

TEST(Schedule, FollowsTheCosineAndStaysAtItsFloor) {
  EXPECT_DOUBLE_EQ(learning_rate_at(kSchedule, 34), 0.55 + 0.45 * std::sqrt(0.5));
  EXPECT_DOUBLE_EQ(learning_rate_at(kSchedule, 59), 0.55);
  EXPECT_DOUBLE_EQ(learning_rate_at(kSchedule, 84), 0.55 - 0.45 * std::sqrt(0.5));
  EXPECT_GT(learning_rate_at(kSchedule, 108), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate_at(kSchedule, 109), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate_at(kSchedule, 1'000'000), 0.1);
}

TEST(Schedule, RisesThenFallsWithoutAJump) {
  for (std::int64_t step = 1; step < 120; ++step) {
    const double change = learning_rate_at(kSchedule, step) - learning_rate_at(kSchedule, step - 1);
    EXPECT_EQ(change > 0.0, step <= 9) << step;
    EXPECT_LE(std::abs(change), 0.1 + 1e-12) << step;
  }
}

TEST(Schedule, WithoutWarmupStartsAtThePeak) {
  const LearningRateSchedule schedule{.peak = 2.0, .minimum = 0.0, .warmup_steps = 0, .decay_steps = 10};
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 0), 2.0);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 5), 1.0);
}

TEST(Schedule, DecayThatEndsBeforeWarmupDropsToTheFloorAfterIt) {
  const LearningRateSchedule schedule{.peak = 2.0, .minimum = 0.5, .warmup_steps = 3, .decay_steps = 2};
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 2), 1.5);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 3), 0.5);
}

TEST(Schedule, ConstantWherePeakEqualsFloor) {
  const LearningRateSchedule schedule{.peak = 0.3, .minimum = 0.3, .warmup_steps = 0, .decay_steps = 7};
  for (std::int64_t step = 0; step < 10; ++step) EXPECT_EQ(learning_rate_at(schedule, step), 0.3);
}

TEST(Schedule, WsdHoldsItsPeakAndCoolsDownAtTheEnd) {
  LearningRateSchedule schedule{.peak = 1.0, .minimum = 0.2, .warmup_steps = 9, .decay_steps = 100};
  schedule.kind = ScheduleKind::wsd;
  schedule.cooldown_steps = 16;
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 4), 0.5);
  for (std::int64_t step = 9; step <= 84; ++step) EXPECT_EQ(learning_rate_at(schedule, step), 1.0) << step;
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 88), 1.0 - 0.8 / 4);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 99), 0.2 + 0.8 / 16);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 100), 0.2);
  schedule.cooldown = CooldownShape::sqrt;
  EXPECT_EQ(learning_rate_at(schedule, 84), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 85), 1.0 - 0.8 / 4);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 88), 1.0 - 0.8 / 2);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 93), 1.0 - 0.8 * 3 / 4);
  EXPECT_DOUBLE_EQ(learning_rate_at(schedule, 100), 0.2);
}

TEST(Schedule, WsdWithoutAPlateauOrWithoutACooldown) {
  LearningRateSchedule schedule{.peak = 1.0, .minimum = 0.0, .warmup_steps = 0, .decay_steps = 8};
  schedule.kind = ScheduleKind::wsd;
  schedule.cooldown_steps = 8;
  for (std::int64_t step = 0; step <= 8; ++step) {
    EXPECT_DOUBLE_EQ(learning_rate_at(schedule, step), 1.0 - static_cast<double>(step) / 8.0);
  }
  schedule.cooldown_steps = 0;
  EXPECT_EQ(learning_rate_at(schedule, 7), 1.0);
  EXPECT_EQ(learning_rate_at(schedule, 8), 0.0);
}

TEST(Schedule, TakesItsNumbersFromTheRun) {
  OptimizerConfig optimizer;
  optimizer.learning_rate = 0.5F;
  optimizer.min_learning_rate = 0.25F;
  optimizer.warmup_steps = 7;
  const LearningRateSchedule to_the_end = learning_rate_schedule(optimizer, 300);
  EXPECT_EQ(to_the_end.peak, 0.5);
  EXPECT_EQ(to_the_end.minimum, 0.25);
  EXPECT_EQ(to_the_end.warmup_steps, 7);
  EXPECT_EQ(to_the_end.decay_steps, 300);
  optimizer.decay_steps = 200;
  EXPECT_EQ(learning_rate_schedule(optimizer, 300).decay_steps, 200);
  optimizer.schedule = ScheduleKind::wsd;
  optimizer.cooldown_steps = 30;
  optimizer.cooldown = CooldownShape::sqrt;
  const LearningRateSchedule wsd = learning_rate_schedule(optimizer, 300);
  EXPECT_EQ(wsd.kind, ScheduleKind::wsd);
  EXPECT_EQ(wsd.cooldown_steps, 30);
  EXPECT_EQ(wsd.cooldown, CooldownShape::sqrt);
}

// Accumulation is no input of the schedule: a run that accumulates visits the same rates at the same optimizer steps.
TEST(Schedule, CountsOptimizerStepsNotMicroBatches) {
  for (const std::int64_t accumulation : {1, 4}) {
    std::int64_t step = 0;
    for (std::int64_t micro_batch = 1; micro_batch <= 109 * accumulation; ++micro_batch) {
      if (micro_batch % accumulation == 0) ++step;
    }
    EXPECT_DOUBLE_EQ(learning_rate_at(kSchedule, step), kSchedule.minimum);
  }
}

}  // namespace
}  // namespace quern
