// Philox against the published known answers, and the streams and masks made from it.
#include "math/philox.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace quern {
namespace {

// Random123's kat_vectors, philox4x32 with 10 rounds.
TEST(Philox, KnownAnswers) {
  EXPECT_EQ(philox4x32_10({0, 0, 0, 0}, {0, 0}), (PhiloxBlock{0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8}));
  constexpr std::uint32_t kOnes = 0xFFFFFFFFU;
  EXPECT_EQ(philox4x32_10({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}),
            (PhiloxBlock{0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD}));
  EXPECT_EQ(philox4x32_10({0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344}, {0xA4093822, 0x299F31D0}),
            (PhiloxBlock{0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1}));
}

TEST(RandomStream, BlocksFollowTheDocumentedCounter) {
  const RandomStream stream{.seed = 0x299F31D0A4093822ULL, .purpose = 0x13198A2E, .stream = 0x03707344};
  EXPECT_EQ(stream.block(0x85A308D3243F6A88ULL), (PhiloxBlock{0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1}));
}

TEST(RandomStream, UniformStaysInRange) {
  EXPECT_EQ(uniform_from_word(0), 0.0F);
  EXPECT_EQ(uniform_from_word(0xFFFFFFFFU), 1.0F - 0x1p-24F);
  std::vector<float> u(100000);
  fill_uniform(u, -2.0F, 6.0F, {.seed = 1});
  double sum = 0.0, squares = 0.0;
  for (const float x : u) {
    ASSERT_GE(x, -2.0F);
    ASSERT_LT(x, 6.0F);
    sum += static_cast<double>(x);
    squares += (static_cast<double>(x) - 2.0) * (static_cast<double>(x) - 2.0);
  }
  EXPECT_NEAR(sum / 1e5, 2.0, 5.0 * std::sqrt(64.0 / 12.0 / 1e5));
  EXPECT_NEAR(squares / 1e5, 64.0 / 12.0, 0.1);
}

TEST(RandomStream, NormalHasItsMoments) {
  std::vector<float> z(200000);
  fill_normal(z, 3.0F, 2.0F, {.seed = 2, .purpose = 5, .stream = 6});
  double moments[5] = {};
  for (const float x : z) {
    const double y = (static_cast<double>(x) - 3.0) / 2.0;
    double power = 1.0;
    for (double& moment : moments) {
      moment += power / 2e5;
      power *= y;
    }
  }
  const double deviation = 5.0 / std::sqrt(2e5);  // five standard errors of a unit variance
  EXPECT_NEAR(moments[1], 0.0, deviation);
  EXPECT_NEAR(moments[2], 1.0, deviation * std::sqrt(2.0));
  EXPECT_NEAR(moments[3], 0.0, deviation * std::sqrt(15.0));
  EXPECT_NEAR(moments[4], 3.0, deviation * std::sqrt(96.0));
}

TEST(RandomStream, PartsEqualTheWhole) {
  const RandomStream stream{.seed = 3, .purpose = 4, .stream = 5};
  std::vector<float> normal(41), uniform(41);
  fill_normal(normal, 0.0F, 1.0F, stream);
  fill_uniform(uniform, 0.0F, 1.0F, stream);
  for (std::size_t begin = 0; begin < normal.size(); ++begin) {
    std::vector<float> part(normal.size() - begin);
    fill_normal(part, 0.0F, 1.0F, stream, begin);
    EXPECT_EQ(part, std::vector<float>(normal.begin() + static_cast<std::ptrdiff_t>(begin), normal.end()));
    fill_uniform(part, 0.0F, 1.0F, stream, begin);
    EXPECT_EQ(part, std::vector<float>(uniform.begin() + static_cast<std::ptrdiff_t>(begin), uniform.end()));
  }
}

TEST(RandomStream, EveryFieldMatters) {
  const RandomStream base{.seed = 1, .purpose = 2, .stream = 3};
  RandomStream other = base;
  other.seed += 1ULL << 32;
  EXPECT_NE(base.block(0), other.block(0));
  other = base;
  other.purpose += 1;
  EXPECT_NE(base.block(0), other.block(0));
  other = base;
  other.stream += 1;
  EXPECT_NE(base.block(0), other.block(0));
  EXPECT_NE(base.block(0), base.block(1ULL << 32));
}

// The lanes of the zero block in order: e8d5 6627 c58d e169 ac4c bc57 dbd8 9b00.
TEST(DropoutMask, LanesAreThresholded) {
  DropoutMask mask;
  mask.probability = 0.5F;  // threshold 0x8000
  const bool kept[8] = {true, false, true, true, true, true, true, true};
  for (std::uint32_t col = 0; col < 8; ++col) EXPECT_EQ(dropout_keeps(mask, 0, col), kept[col]) << col;
  mask.probability = 0.70F;  // threshold 0xb333
  const bool fewer[8] = {true, false, true, true, false, true, true, false};
  for (std::uint32_t col = 0; col < 8; ++col) EXPECT_EQ(dropout_keeps(mask, 0, col), fewer[col]) << col;
}

TEST(DropoutMask, ThresholdAndScale) {
  DropoutMask mask;
  EXPECT_EQ(dropout_threshold(mask), 0U);
  EXPECT_EQ(dropout_scale(mask), 1.0F);
  mask.probability = 0.25F;
  EXPECT_EQ(dropout_threshold(mask), 16384U);
  EXPECT_FLOAT_EQ(dropout_scale(mask), 4.0F / 3.0F);
  mask.probability = 1.0F;
  EXPECT_EQ(dropout_threshold(mask), 65536U);
  EXPECT_EQ(dropout_scale(mask), 0.0F);
}

}  // namespace
}  // namespace quern
