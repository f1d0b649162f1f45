#include "math/operation_profile.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "math/exec.hpp"
#include "math/thread_team.hpp"

namespace quern {
namespace {

using std::chrono::milliseconds;

void work(int ms) { std::this_thread::sleep_for(milliseconds(ms)); }

TEST(OperationProfile, AMarkTakesTheTimeSinceTheOneBefore) {
  OperationProfile profile(1, true);
  OperationRecorder& recorder = *profile.recorder(0);
  profile.begin_step();
  work(30);  // before begin(): nobody's
  recorder.begin();
  work(20);
  recorder.mark(Operation::norm, StepPhase::forward, 3, {0.0, 64.0});
  work(40);
  recorder.mark(Operation::qkv_product, StepPhase::forward, 3, {100.0, 32.0});
  recorder.mark(Operation::norm, StepPhase::forward, 4, {0.0, 64.0});
  profile.end_step();

  const OperationRecorder::Total norm = profile.total(StepPhase::forward, Operation::norm);
  const OperationRecorder::Total qkv = profile.total(StepPhase::forward, Operation::qkv_product);
  EXPECT_EQ(norm.count, 2);
  EXPECT_EQ(norm.bytes, 128.0);
  EXPECT_EQ(qkv.count, 1);
  EXPECT_EQ(qkv.flops, 100.0);
  EXPECT_GE(norm.seconds, 0.020);
  EXPECT_GE(qkv.seconds, 0.040);
  EXPECT_GE(profile.seconds(), norm.seconds + qkv.seconds + 0.030);
  EXPECT_EQ(profile.steps(), 1);
  EXPECT_EQ(profile.total(StepPhase::backward, Operation::norm).count, 0);

  const auto& events = profile.recorders()[0].events();
  ASSERT_EQ(events.size(), 3U);
  EXPECT_EQ(events[0].layer, 3);
  EXPECT_EQ(events[1].operation, Operation::qkv_product);
  EXPECT_GE(events[0].begin_ns, 30'000'000);
  EXPECT_EQ(events[0].end_ns, events[1].begin_ns);
}

TEST(OperationProfile, BarriersAreTakenOutOfTheWorkAroundThem) {
  OperationProfile profile(2);
  ThreadTeam team(2);
  team.run([&](TeamMember& member) {
    member.record_to(profile.recorder(member.index()));
    OperationRecorder& recorder = *member.recorder();
    recorder.begin();
    if (member.index() == 0) work(60);
    member.barrier();
    recorder.mark(Operation::attention, StepPhase::backward, 0, {});
  });
  const OperationRecorder& first = profile.recorders()[0];
  const OperationRecorder& second = profile.recorders()[1];
  EXPECT_GE(first.total(StepPhase::backward, Operation::attention).seconds, 0.060);
  EXPECT_LT(second.total(StepPhase::backward, Operation::attention).seconds, 0.030);
  EXPECT_GE(second.total(StepPhase::forward, Operation::waiting).seconds,
            0.030);  // in the phase of the mark before: none yet
  EXPECT_TRUE(first.events().empty()) << "not traced";
}

TEST(OperationProfile, CostsAreSharedAmongATeamAndWholeForOne) {
  OperationProfile profile(3);
  ThreadTeam team(3);
  const Backend backend{};
  team.run([&](TeamMember& member) {
    member.record_to(profile.recorder(member.index()));
    member.recorder()->begin();
    Exec exec{member, backend, {}};
    mark(exec, Operation::head_product, StepPhase::forward, -1, product_cost(3, 5, 7, 2, 4));
    member.for_each(4, [&](std::int64_t) {
      TeamMember alone = member.alone();
      Exec serial{alone, backend, {}};
      mark(serial, Operation::loss, StepPhase::forward, -1, moved_cost(10, 4));
    });
  });
  const OperationRecorder::Total product = profile.total(StepPhase::forward, Operation::head_product);
  EXPECT_DOUBLE_EQ(product.flops, 2.0 * 3 * 5 * 7);
  EXPECT_DOUBLE_EQ(product.bytes, 2.0 * (3 * 7 + 5 * 7) + 4.0 * 3 * 5);
  const OperationRecorder::Total loss = profile.total(StepPhase::forward, Operation::loss);
  EXPECT_EQ(loss.count, 4);
  EXPECT_DOUBLE_EQ(loss.bytes, 4 * 40.0);
}

TEST(OperationProfile, NobodyIsToldWithoutARecorder) {
  TeamMember member;
  const Backend backend{};
  Exec exec{member, backend, {}};
  mark(exec, Operation::loss, StepPhase::forward, -1, {});  // must not crash
  EXPECT_EQ(member.alone().recorder(), nullptr);
}

TEST(OperationProfile, EveryOperationAndPhaseHasItsOwnName) {
  for (int i = 0; i < kOperations; ++i) {
    EXPECT_FALSE(to_word(static_cast<Operation>(i)).empty()) << i;
    for (int j = 0; j < i; ++j) EXPECT_NE(to_word(static_cast<Operation>(i)), to_word(static_cast<Operation>(j)));
  }
  for (int i = 0; i < kStepPhases; ++i) EXPECT_FALSE(to_word(static_cast<StepPhase>(i)).empty()) << i;
}

}  // namespace
}  // namespace quern
