#include "math/memory_plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <random>
#include <string>
#include <vector>

namespace quern {
namespace {

struct Wanted {
  std::size_t bytes;
  MemoryCategory category;
  std::int64_t first;
  std::int64_t last;
};

std::size_t rounded(std::size_t bytes) { return (bytes + 63) / 64 * 64; }

bool meet(const Wanted& a, const Wanted& b) { return a.first <= b.last && b.first <= a.last; }

/// The largest sum of sizes that are live at one time, looked up at every time at which a buffer starts.
std::size_t max_live(const std::vector<Wanted>& wanted, int category) {
  std::size_t peak = 0;
  for (const Wanted& at : wanted) {
    std::size_t live = 0;
    for (const Wanted& w : wanted) {
      const bool counts = category < 0 || static_cast<int>(w.category) == category;
      if (counts && w.first <= at.first && at.first <= w.last) live += rounded(w.bytes);
    }
    peak = std::max(peak, live);
  }
  return peak;
}

TEST(MemoryPlan, ApartEachBufferHasMemoryOfItsOwn) {
  MemoryPlan plan(Placement::apart);
  const BufferId first = plan.add("first", 1000, MemoryCategory::activations, 0, 1);
  const BufferId second = plan.add("second", 1000, MemoryCategory::activations, 2, 3);  // could share the first's
  const BufferId empty = plan.add("empty", 0, MemoryCategory::scratch);
  ASSERT_TRUE(plan.place());
  EXPECT_EQ(plan.arena_bytes(), 2048U);
  EXPECT_EQ(plan.report()[MemoryCategory::activations], 2048U);
  Arena arena = Arena::allocate(plan).value();
  EXPECT_GE(arena.bytes(), 2000U);
  auto* const one = arena.get<std::byte>(plan, first);
  auto* const two = arena.get<std::byte>(plan, second);
  EXPECT_NE(arena.get<std::byte>(plan, empty), nullptr);
  std::fill_n(one, 1000, std::byte{1});
  std::fill_n(two, 1000, std::byte{2});
  EXPECT_EQ(std::count(one, one + 1000, std::byte{1}), 1000);
}

TEST(MemoryPlan, BuffersLiveTogetherNeverShareBytes) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 300; ++round) {
    std::vector<Wanted> wanted(random() % 40);
    MemoryPlan plan;
    std::size_t sum = 0;
    for (Wanted& w : wanted) {
      w.bytes = random() % 8 == 0 ? 0 : random() % 2000;
      w.category = static_cast<MemoryCategory>(random() % kMemoryCategories);
      w.first = static_cast<std::int64_t>(random() % 20) - 5;
      w.last = random() % 6 == 0 ? MemoryPlan::kForever : w.first + static_cast<std::int64_t>(random() % 8);
      plan.add("b", w.bytes, w.category, w.first, w.last);
      sum += rounded(w.bytes);
    }
    ASSERT_TRUE(plan.place());
    for (std::size_t i = 0; i < wanted.size(); ++i) {
      ASSERT_EQ(plan.offset(i) % kBufferAlignment, 0U);
      ASSERT_LE(plan.offset(i) + wanted[i].bytes, plan.arena_bytes());
      for (std::size_t j = 0; j < i; ++j) {
        if (wanted[i].bytes == 0 || wanted[j].bytes == 0 || !meet(wanted[i], wanted[j])) continue;
        const bool apart =
            plan.offset(i) + wanted[i].bytes <= plan.offset(j) || plan.offset(j) + wanted[j].bytes <= plan.offset(i);
        ASSERT_TRUE(apart) << "round " << round << ": buffers " << j << " and " << i;
      }
    }
    EXPECT_LE(plan.arena_bytes(), sum);
    EXPECT_GE(plan.arena_bytes(), max_live(wanted, -1));
    const MemoryReport report = plan.report();
    for (std::size_t c = 0; c < kMemoryCategories; ++c) {
      EXPECT_EQ(report.bytes[c], max_live(wanted, static_cast<int>(c))) << "round " << round;
    }
  }
}

TEST(MemoryPlan, ReusesBytesOfBuffersThatDoNotMeet) {
  MemoryPlan plan;
  const BufferId a = plan.add("a", 1000, MemoryCategory::activations, 0, 1);
  const BufferId b = plan.add("b", 1000, MemoryCategory::activations, 2, 3);
  const BufferId c = plan.add("c", 64, MemoryCategory::weights);
  ASSERT_TRUE(plan.place());
  EXPECT_EQ(plan.offset(a), plan.offset(b));
  EXPECT_EQ(plan.offset(c), 1024U);
  EXPECT_EQ(plan.arena_bytes(), 1088U);
  EXPECT_EQ(plan.report()[MemoryCategory::activations], 1024U);
  EXPECT_EQ(plan.report()[MemoryCategory::weights], 64U);
  EXPECT_EQ(plan.report().total(), 1088U);
}

TEST(MemoryPlan, LifetimesAreInclusive) {
  MemoryPlan plan;
  const BufferId a = plan.add("a", 64, MemoryCategory::scratch, 0, 2);
  const BufferId b = plan.add("b", 64, MemoryCategory::scratch, 2, 4);
  ASSERT_TRUE(plan.place());
  EXPECT_NE(plan.offset(a), plan.offset(b));
}

TEST(MemoryPlan, FillsAGapBetweenLiveBuffers) {
  MemoryPlan plan;
  plan.add("low", 4096, MemoryCategory::scratch, 0, 0);  // dies, leaving a gap below `high`
  plan.add("high", 2048, MemoryCategory::scratch, 0, 9);
  const BufferId late = plan.add("late", 1024, MemoryCategory::scratch, 1, 9);
  ASSERT_TRUE(plan.place());
  EXPECT_EQ(plan.offset(late), 0U);
  EXPECT_EQ(plan.arena_bytes(), 6144U);
}

TEST(MemoryPlan, EmptyPlanHasNoBytes) {
  MemoryPlan plan;
  ASSERT_TRUE(plan.place());
  EXPECT_EQ(plan.arena_bytes(), 0U);
  EXPECT_EQ(plan.report().total(), 0U);
  EXPECT_TRUE(Arena::allocate(plan));
}

TEST(MemoryPlan, RefusesSizesThatOverflow) {
  constexpr std::size_t kMost = std::numeric_limits<std::size_t>::max();
  for (const std::size_t bytes : {kMost, kMost - 62, kMost / 2 + 1, kMost / 2}) {
    MemoryPlan plan;
    plan.add("giant", bytes, MemoryCategory::cache);
    const Result<void> placed = plan.place();
    ASSERT_FALSE(placed) << bytes;
    EXPECT_EQ(placed.error().code, ErrorCode::bad_input);
    EXPECT_NE(placed.error().message.find("'giant'"), std::string::npos);
  }
  MemoryPlan many;
  for (int i = 0; i < 4; ++i) many.add("part " + std::to_string(i), std::size_t{3} << 60, MemoryCategory::cache);
  EXPECT_FALSE(many.place());
}

TEST(MemoryPlan, RefusesALifetimeThatEndsBeforeItStarts) {
  MemoryPlan plan;
  plan.add("backwards", 1, MemoryCategory::scratch, 3, 2);
  const Result<void> placed = plan.place();
  ASSERT_FALSE(placed);
  EXPECT_NE(placed.error().message.find("backwards"), std::string::npos);
}

TEST(Arena, HandsOutThePlannedPlaces) {
  MemoryPlan plan;
  const BufferId a = plan.add("a", 10 * sizeof(float), MemoryCategory::weights);
  const BufferId b = plan.add("b", 3 * sizeof(double), MemoryCategory::gradients);
  ASSERT_TRUE(plan.place());
  Result<Arena> arena = Arena::allocate(plan);
  ASSERT_TRUE(arena);
  EXPECT_EQ(arena->bytes(), 128U);
  std::fill_n(arena->get<float>(plan, a), 10, 1.0F);
  EXPECT_EQ(arena->get<double>(plan, b)[0], 0.0);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(arena->get<double>(plan, b)) % kBufferAlignment, 0U);
}

TEST(Arena, RefusalNamesTheBytes) {
  MemoryPlan plan;
  plan.add("too much", std::size_t{1} << 60, MemoryCategory::weights);
  ASSERT_TRUE(plan.place());
  const Result<Arena> arena = Arena::allocate(plan);
  ASSERT_FALSE(arena);
  EXPECT_EQ(arena.error().code, ErrorCode::no_memory);
  EXPECT_NE(arena.error().message.find(std::to_string(std::size_t{1} << 60)), std::string::npos);
}

TEST(MemoryCategory, EveryCategoryHasItsOwnName) {
  std::vector<std::string_view> names;
  for (std::size_t c = 0; c < kMemoryCategories; ++c) names.push_back(category_name(static_cast<MemoryCategory>(c)));
  std::sort(names.begin(), names.end());
  EXPECT_EQ(std::adjacent_find(names.begin(), names.end()), names.end());
  EXPECT_EQ(std::count(names.begin(), names.end(), "unknown"), 0);
}

}  // namespace
}  // namespace quern
