#include "math/sample_statistics.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

namespace quern {
namespace {

std::vector<double> counting(int count) {
  std::vector<double> samples(static_cast<std::size_t>(count));
  std::iota(samples.begin(), samples.end(), 1.0);
  return samples;
}

TEST(SampleStatistics, MedianQuartilesAndEnds) {
  const Summary odd = summarize(std::vector<double>{5, 1, 4, 2, 3});
  EXPECT_EQ(odd.count, 5);
  EXPECT_EQ(odd.median, 3.0);
  EXPECT_EQ(odd.minimum, 1.0);
  EXPECT_EQ(odd.maximum, 5.0);
  EXPECT_EQ(odd.quartile_low, 2.0);
  EXPECT_EQ(odd.quartile_high, 4.0);
  EXPECT_DOUBLE_EQ(odd.spread(), 2.0 / 3.0);
  EXPECT_EQ(summarize(std::vector<double>{1, 2, 3, 10}).median, 2.5);
  EXPECT_EQ(summarize({}).count, 0);
  EXPECT_EQ(summarize({}).spread(), 0.0);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(summarize(std::vector<double>{nan, 7, INFINITY}).count, 1);
}

/// Ranks from tables of the binomial distribution (Conover, table A3).
TEST(SampleStatistics, IntervalsHaveTheRanksOfTheBinomialDistribution) {
  struct Case {
    int count;
    double low, high, coverage;
  };
  for (const Case& c :
       {Case{1, 1, 1, 0.0}, Case{2, 1, 2, 0.5}, Case{5, 1, 5, 0.9375}, Case{6, 1, 6, 0.96875}, Case{8, 1, 8, 0.9921875},
        Case{9, 2, 8, 0.9609375}, Case{10, 2, 9, 0.978515625}, Case{20, 6, 15, 0.958610535}, Case{100, 40, 61, 0.964799}}) {
    const Summary summary = summarize(counting(c.count));
    EXPECT_EQ(summary.low, c.low) << c.count;
    EXPECT_EQ(summary.high, c.high) << c.count;
    EXPECT_NEAR(summary.coverage, c.coverage, 1e-6) << c.count;
    EXPECT_EQ(summary.has_interval(), c.count >= 6) << c.count;
  }
  const Summary many = summarize(counting(5000));  // 2^-5000 is no double
  EXPECT_GE(many.coverage, 0.95);
  EXPECT_LT(many.coverage, 0.96);
  EXPECT_NEAR(many.low, 2500.0 - 0.98 * std::sqrt(5000.0), 2.0);
}

TEST(SampleStatistics, IntervalsHoldTheMedianAsOftenAsTheySay) {
  std::mt19937_64 random(7);
  std::exponential_distribution<double> skewed(1.0);
  int held = 0;
  constexpr int kTrials = 4000;
  for (int i = 0; i < kTrials; ++i) {
    std::vector<double> samples(10);
    for (double& sample : samples) sample = skewed(random);
    const Summary summary = summarize(samples);
    held += summary.low <= std::log(2.0) && std::log(2.0) <= summary.high ? 1 : 0;
  }
  EXPECT_NEAR(static_cast<double>(held) / kTrials, 0.9785, 0.01);  // four standard deviations
}

TEST(SampleStatistics, RatesFromTimes) {
  const Summary rates = summarize_rates(6.0, std::vector<double>{2.0, 3.0, 0.0, 1.0});
  EXPECT_EQ(rates.count, 3);
  EXPECT_EQ(rates.median, 3.0);
}

TEST(SampleStatistics, DifferentOnlyWhereIntervalsDoNotMeet) {
  std::vector<double> base = counting(10), above = base, touching = base;
  for (double& x : base) x += 100.0;
  for (double& x : above) x += 120.0;
  for (double& x : touching) x += 107.0;  // [109, 116] meets [102, 109]
  const Summary a = summarize(base), b = summarize(above), c = summarize(touching);
  EXPECT_EQ(compare(a, b).difference, Difference::higher);
  EXPECT_EQ(compare(b, a).difference, Difference::lower);
  EXPECT_EQ(compare(a, c).difference, Difference::not_told_apart);
  EXPECT_EQ(compare(a, a).difference, Difference::not_told_apart);
  const Comparison difference = compare(a, b);
  EXPECT_NEAR(difference.ratio, 125.5 / 105.5, 1e-12);
  EXPECT_NEAR(difference.ratio_low, 122.0 / 109.0, 1e-12);
  EXPECT_NEAR(difference.ratio_high, 129.0 / 102.0, 1e-12);
  // Three samples a thousand apart are too few to say so.
  const Summary few = summarize(std::vector<double>{1, 2, 3}), far = summarize(std::vector<double>{1001, 1002, 1003});
  EXPECT_EQ(compare(few, far).difference, Difference::not_told_apart);
  EXPECT_EQ(compare(Summary{}, a).ratio, 0.0);
}

}  // namespace
}  // namespace quern
