// Lookup: what it proposes, and how sure it is.
#include "infer/ngram_drafter.hpp"

#include <gtest/gtest.h>

#include <random>

namespace quern {
namespace {

using Tokens = std::vector<std::int32_t>;

Tokens proposed(NgramDrafter& drafter, std::int64_t most) {
  Tokens tokens;
  const std::span<const DraftToken> draft = drafter.draft({}, most, 0, {}).value();
  for (const DraftToken& token : draft) {
    EXPECT_GT(token.chance, 0.0);
    EXPECT_LT(token.chance, 1.0);
    tokens.push_back(token.token);
  }
  return tokens;
}

TEST(NgramDrafter, ProposesWhatFollowedBefore) {
  NgramDrafter drafter;
  ASSERT_TRUE(drafter.begin(Tokens{1, 2, 3, 4, 5, 6, 7, 9, 2, 3}));
  EXPECT_EQ(proposed(drafter, 4), (Tokens{4, 5, 6, 7}));
  EXPECT_EQ(proposed(drafter, 0), Tokens{});
  drafter.append(8);
  EXPECT_EQ(proposed(drafter, 4), Tokens{}) << "8 is new";
  drafter.append(2);
  drafter.append(3);
  EXPECT_EQ(proposed(drafter, 1), (Tokens{8})) << "the last time";
}

TEST(NgramDrafter, ContinuesAPeriodBeyondTheTextsEnd) {
  NgramDrafter drafter;
  ASSERT_TRUE(drafter.begin(Tokens{9, 1, 2, 3, 1, 2, 3, 1}));
  EXPECT_EQ(proposed(drafter, 8), (Tokens{2, 3, 1, 2, 3, 1, 2, 3}));
  ASSERT_TRUE(drafter.begin(Tokens{5, 5}));
  EXPECT_EQ(proposed(drafter, 5), (Tokens{5, 5, 5, 5, 5}));
  ASSERT_TRUE(drafter.begin(Tokens{5}));
  EXPECT_EQ(proposed(drafter, 5), Tokens{});
}

TEST(NgramDrafter, PrefersWhatFollowsOftenToWhatFollowedOnce) {
  NgramDrafter drafter;
  ASSERT_TRUE(drafter.begin(Tokens{1, 2, 10, 1, 2, 11, 1, 2, 10, 1, 2, 12, 1, 2, 10, 1, 2, 13, 1, 2}));
  EXPECT_EQ(proposed(drafter, 1), (Tokens{10}));
}

TEST(NgramDrafter, LearnsHowSureToBe) {
  NgramDrafter drafter;
  std::mt19937 random(1);
  Tokens text;
  for (int i = 0; i < 300; ++i) text.push_back(static_cast<std::int32_t>(random() % 20));
  ASSERT_TRUE(drafter.begin(text));
  const auto chance = [&] {
    const auto draft = drafter.draft({}, 1, 0, {}).value();
    return draft.empty() ? 0.0 : draft[0].chance;
  };
  for (int i = 0; i < 400; ++i) drafter.append(static_cast<std::int32_t>(random() % 20));
  double sum = 0.0;
  for (int i = 0; i < 50; ++i) {
    sum += chance();
    drafter.append(static_cast<std::int32_t>(random() % 20));
  }
  EXPECT_LT(sum / 50.0, 0.12) << "random tokens are guessed one time in twenty";
  for (int i = 0; i < 300; ++i) drafter.append(text[static_cast<std::size_t>(i)]);
  EXPECT_GT(chance(), 0.95) << "a long quotation";
}

TEST(NgramDrafter, ForgetsOldTokensOfEndlessTexts) {
  NgramDrafter drafter(100);
  ASSERT_TRUE(drafter.begin(Tokens{1, 2, 3}));
  std::size_t most = 0;
  for (std::int32_t i = 0; i < 20000; ++i) {
    drafter.append(i);
    most = std::max(most, drafter.bytes());
  }
  EXPECT_LT(most, 100000U);
  for (std::int32_t i = 19930; i < 19950; ++i) drafter.append(i);
  EXPECT_EQ(proposed(drafter, 3), (Tokens{19950, 19951, 19952})) << "the last hundred are known";
}

}  // namespace
}  // namespace quern
