// Sizes as users write them, and choices within them against brute force.
#include "infer/size_budget.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <string>

namespace quern {
namespace {

using Items = std::vector<std::vector<SizeOption>>;

struct Total {
  std::size_t bytes = 0;
  double cost = 0.0;
};

Total total_of(const Items& items, const std::vector<std::size_t>& chosen) {
  Total total;
  for (std::size_t i = 0; i < items.size(); ++i) {
    total.bytes += items[i][chosen[i]].bytes;
    total.cost += items[i][chosen[i]].cost;
  }
  return total;
}

/// The least cost of all choices within the budget; infinite where there is none.
double least_cost(const Items& items, std::size_t budget, std::size_t item = 0, double cost = 0.0) {
  if (item == items.size()) return cost;
  double least = std::numeric_limits<double>::infinity();
  for (const SizeOption& option : items[item]) {
    if (option.bytes > budget) continue;
    least = std::min(least, least_cost(items, budget - option.bytes, item + 1, cost + option.cost));
  }
  return least;
}

TEST(SizeBudget, ParsesSizes) {
  const auto bytes = [](std::string_view text) { return SizeBudget::parse(text).value().bytes.value(); };
  EXPECT_EQ(bytes("123"), 123U);
  EXPECT_EQ(bytes("7B"), 7U);
  EXPECT_EQ(bytes("900MB"), 900'000'000U);
  EXPECT_EQ(bytes("1.5kb"), 1500U);
  EXPECT_EQ(bytes("4.5GiB"), (std::size_t{9} << 29));
  EXPECT_EQ(bytes("2gib"), std::size_t{2} << 30);
  EXPECT_EQ(bytes("3MiB"), std::size_t{3} << 20);
  EXPECT_EQ(bytes("3KiB"), 3072U);
  const auto rate = SizeBudget::parse("4.2bpw");
  ASSERT_TRUE(rate);
  EXPECT_DOUBLE_EQ(rate->bits_per_weight.value(), 4.2);
  EXPECT_FALSE(rate->bytes);
  for (const char* text :
       {"", "GiB", "-1GiB", "0", "4.5 GiB", "4.5X", "nan", "inf", "1e9", "4.5GiBs", "99999999999999999999"}) {
    const auto wrong = SizeBudget::parse(text);
    ASSERT_FALSE(wrong) << text;
    EXPECT_NE(wrong.error().message.find(std::string("'") + text + "'"), std::string::npos) << wrong.error().message;
  }
}

TEST(ChooseWithinBudget, EqualsBruteForce) {
  std::mt19937_64 random(3);
  int infeasible = 0;
  for (int round = 0; round < 400; ++round) {
    Items items(1 + random() % 6);
    std::size_t least = 0;
    std::size_t most = 0;
    for (auto& item : items) {
      item.resize(1 + random() % 5);
      std::size_t smallest = std::numeric_limits<std::size_t>::max();
      std::size_t largest = 0;
      for (SizeOption& option : item) {
        option = {32 * (1 + random() % 40), static_cast<double>(random() % 1000) / 7.0};
        smallest = std::min(smallest, option.bytes);
        largest = std::max(largest, option.bytes);
      }
      least += smallest;
      most += largest;
    }
    const std::size_t budget = least - 16 + random() % (most - least + 48);
    const auto chosen = choose_within_budget(items, budget);
    const double expected = least_cost(items, budget);
    ASSERT_EQ(chosen.has_value(), std::isfinite(expected)) << round;
    if (!chosen) {
      ++infeasible;
      continue;
    }
    const Total total = total_of(items, *chosen);
    EXPECT_LE(total.bytes, budget);
    EXPECT_NEAR(total.cost, expected, 1e-9) << round;
  }
  EXPECT_GT(infeasible, 5);
}

TEST(ChooseWithinBudget, RoundedBytesCostLittle) {
  // Bytes without a common divisor and far more of them than steps: the bound that the header states.
  std::mt19937_64 random(5);
  for (int round = 0; round < 20; ++round) {
    Items items(7);
    std::size_t least = 0;
    for (auto& item : items) {
      for (int i = 0; i < 4; ++i) {
        const std::size_t bytes = 1'000'003 * (1 + random() % 90) + random() % 1000;
        item.push_back({bytes, 1e15 / static_cast<double>(bytes) / static_cast<double>(bytes)});
      }
      least += std::min_element(item.begin(), item.end(), [](auto& a, auto& b) { return a.bytes < b.bytes; })->bytes;
    }
    const std::size_t room = 60'000'000;
    const auto chosen = choose_within_budget(items, least + room);
    ASSERT_TRUE(chosen);
    const Total total = total_of(items, *chosen);
    EXPECT_LE(total.bytes, least + room);
    EXPECT_GE(total.cost, least_cost(items, least + room) - 1e-9);
    EXPECT_LE(total.cost, least_cost(items, least + room - room * items.size() / 65536) + 1e-9);
  }
}

TEST(ChooseWithinBudget, Edges) {
  EXPECT_TRUE(choose_within_budget({}, 0)->empty());
  const Items one{{{10, 1.0}, {5, 3.0}, {20, 1.0}, {5, 2.0}}};
  EXPECT_FALSE(choose_within_budget(one, 4));
  EXPECT_EQ(choose_within_budget(one, 5).value(), (std::vector<std::size_t>{3})) << "the cheaper of two alike";
  EXPECT_EQ(choose_within_budget(one, 9).value(), (std::vector<std::size_t>{3}));
  EXPECT_EQ(choose_within_budget(one, 10).value(), (std::vector<std::size_t>{0}));
  EXPECT_EQ(choose_within_budget(one, std::size_t{1} << 60).value(), (std::vector<std::size_t>{0}))
      << "no larger for nothing";
  EXPECT_FALSE(choose_within_budget(Items{{}}, 10));
}

}  // namespace
}  // namespace quern
