// The sampler: greedy, exact candidate sets, distributions by chi-square on fixed seeds, reproducibility, odd logits.
#include "infer/sampler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <new>
#include <random>
#include <set>
#include <vector>

namespace {
std::size_t allocations = 0;
}  // namespace

// Counts what the sampler allocates. Every form is replaced, and none inlined, so that new and delete always match.
[[gnu::noinline]] void* operator new(std::size_t bytes, const std::nothrow_t& /*tag*/) noexcept {
  ++allocations;
  return std::malloc(bytes == 0 ? 1 : bytes);
}
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  void* memory = operator new(bytes, std::nothrow);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t /*bytes*/) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, const std::nothrow_t& /*tag*/) noexcept { std::free(memory); }

namespace quern {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
const float kNan = std::nanf("");

std::vector<float> random_logits(std::size_t vocab, std::uint32_t seed, float spread = 2.0F) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0F, spread);
  std::vector<float> logits(vocab);
  for (float& logit : logits) logit = normal(generator);
  return logits;
}

/// softmax(logits / temperature) over `allowed`, in double.
std::vector<double> reference(const std::vector<float>& logits, double temperature, const std::set<std::int32_t>& allowed) {
  std::vector<double> p(logits.size(), 0.0);
  double sum = 0.0;
  for (const std::int32_t token : allowed) {
    const auto i = static_cast<std::size_t>(token);
    sum += p[i] = std::exp(static_cast<double>(logits[i]) / temperature);
  }
  for (double& value : p) value /= sum;
  return p;
}

std::set<std::int32_t> all_tokens(std::size_t vocab) {
  std::set<std::int32_t> tokens;
  for (std::size_t i = 0; i < vocab; ++i) tokens.insert(static_cast<std::int32_t>(i));
  return tokens;
}

/// The k likeliest tokens by sorting.
std::set<std::int32_t> likeliest(const std::vector<float>& logits, std::size_t k) {
  std::vector<std::int32_t> order(logits.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  return {order.begin(), order.begin() + static_cast<std::ptrdiff_t>(k)};
}

std::set<std::int32_t> tokens_after(SamplerStep& step, const std::vector<float>& logits) {
  SamplerCandidates candidates(static_cast<std::int64_t>(logits.size()));
  candidates.assign(logits);
  step.apply(candidates);
  std::set<std::int32_t> tokens;
  for (const SamplerCandidate& item : candidates.items()) tokens.insert(item.token);
  EXPECT_EQ(tokens.size(), candidates.items().size());
  return tokens;
}

/// Chi-square of `draws` draws against `p`. With df degrees of freedom its mean is df and its variance 2 df; the bound of
/// six standard deviations fails one seed in about 10^8 (the seed is fixed, so it fails or passes for ever).
void expect_distribution(Sampler& sampler, const std::vector<float>& logits, const std::vector<double>& p, int draws) {
  std::vector<double> counts(p.size(), 0.0);
  for (int i = 0; i < draws; ++i) ++counts[static_cast<std::size_t>(sampler.sample(logits))];
  double chi_square = 0.0, rare_expected = 0.0, rare_count = 0.0;
  int cells = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    const double expected = p[i] * draws;
    if (expected < 10.0) {  // too rare for a cell of its own
      rare_expected += expected;
      rare_count += counts[i];
      if (p[i] == 0.0) {
        EXPECT_EQ(counts[i], 0.0) << i;
      }
      continue;
    }
    chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
    ++cells;
  }
  if (rare_expected >= 10.0) {
    chi_square += (rare_count - rare_expected) * (rare_count - rare_expected) / rare_expected;
    ++cells;
  }
  const double freedom = cells - 1;
  EXPECT_LT(chi_square, freedom + 6.0 * std::sqrt(2.0 * freedom));
  EXPECT_GT(cells, 3);
}

TEST(Sampler, GreedyTakesTheLowestOfTheLargest) {
  Sampler sampler(5, {.temperature = 0.0F});
  EXPECT_EQ(sampler.sample(std::vector<float>{1, 3, 2, 3, 0}), 1);
  EXPECT_EQ(sampler.sample(std::vector<float>{5, 5, 5, 5, 5}), 0);
  EXPECT_EQ(sampler.sample(std::vector<float>{-5, -4, -3, -2, -1}), 4);
  EXPECT_EQ(sampler.sample(std::vector<float>{kNan, 1, kInfinity, kInfinity, kNan}), 2);
  EXPECT_EQ(sampler.sample(std::vector<float>{kNan, -kInfinity, -1e30F, kNan, kNan}), 2);
  EXPECT_EQ(sampler.sample(std::vector<float>{kNan, kNan, kNan, kNan, kNan}), 0);
  EXPECT_EQ(sampler.position(), 6U);
}

TEST(Sampler, DrawsFollowTheSoftmax) {
  for (const std::size_t vocab : {5U, 64U, 257U}) {
    for (const float temperature : {0.5F, 1.0F, 2.0F}) {
      const std::vector<float> logits = random_logits(vocab, 7);
      Sampler sampler(static_cast<std::int64_t>(vocab), {.temperature = temperature, .seed = 11});
      expect_distribution(sampler, logits, reference(logits, temperature, all_tokens(vocab)), 20000);
    }
  }
}

TEST(Sampler, DrawsWithTopKAndTopPFollowTheRenormalizedSoftmax) {
  const std::vector<float> logits = random_logits(200, 3);
  Sampler top_k(200, {.temperature = 0.9F, .top_k = 12, .seed = 5});
  expect_distribution(top_k, logits, reference(logits, 0.9F, likeliest(logits, 12)), 20000);

  auto step = top_p_step(0.7F);
  const std::set<std::int32_t> nucleus = tokens_after(*step, logits);
  Sampler top_p(200, {.temperature = 1.0F, .top_p = 0.7F, .seed = 5});
  expect_distribution(top_p, logits, reference(logits, 1.0, nucleus), 20000);
}

TEST(SamplerSteps, TopKKeepsExactlyTheLikeliest) {
  for (const std::size_t vocab : {1U, 2U, 33U, 1000U}) {
    const std::vector<float> logits = random_logits(vocab, 21);
    for (const std::size_t k : {std::size_t{1}, std::size_t{2}, std::size_t{7}, vocab - 1, vocab, vocab + 1}) {
      if (k == 0) continue;
      auto step = top_k_step(static_cast<std::int64_t>(k));
      EXPECT_EQ(tokens_after(*step, logits), likeliest(logits, std::min(k, vocab))) << vocab << " " << k;
    }
  }
}

TEST(SamplerSteps, TopKBreaksTiesByToken) {
  auto step = top_k_step(3);
  EXPECT_EQ(tokens_after(*step, {1, 2, 2, 2, 2, 0}), (std::set<std::int32_t>{1, 2, 3}));
}

TEST(SamplerSteps, TopPKeepsTheFewestThatReachP) {
  for (const std::size_t vocab : {1U, 2U, 31U, 500U}) {
    const std::vector<float> logits = random_logits(vocab, 9);
    const std::vector<double> p = reference(logits, 1.0, all_tokens(vocab));
    for (const float wanted : {1e-6F, 0.1F, 0.5F, 0.9F, 0.999F}) {
      auto step = top_p_step(wanted);
      const std::set<std::int32_t> kept = tokens_after(*step, logits);
      ASSERT_GE(kept.size(), 1U);
      EXPECT_EQ(kept, likeliest(logits, kept.size()));
      double sum = 0.0, least = 1.0;
      for (const std::int32_t token : kept) {
        sum += p[static_cast<std::size_t>(token)];
        least = std::min(least, p[static_cast<std::size_t>(token)]);
      }
      EXPECT_GE(sum, static_cast<double>(wanted) - 1e-12);
      if (kept.size() > 1) {
        EXPECT_LT(sum - least, static_cast<double>(wanted) + 1e-12);
      }
    }
  }
}

TEST(SamplerSteps, TopPOfKnownProbabilities) {
  const std::vector<float> logits = {std::log(0.1F), std::log(0.5F), std::log(0.15F), std::log(0.25F)};
  auto step = top_p_step(0.7F);
  EXPECT_EQ(tokens_after(*step, logits), (std::set<std::int32_t>{1, 3}));
  step = top_p_step(0.8F);
  EXPECT_EQ(tokens_after(*step, logits), (std::set<std::int32_t>{1, 2, 3}));
}

TEST(Sampler, DrawIOfASeedIsReproducible) {
  const std::vector<float> logits = random_logits(100, 1);
  const SamplerConfig config{.temperature = 1.2F, .top_k = 50, .top_p = 0.95F, .seed = 77};
  Sampler first(100, config), second(100, config);
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < 200; ++i) tokens.push_back(first.sample(logits));
  for (int i = 0; i < 200; ++i) EXPECT_EQ(second.sample(logits), tokens[static_cast<std::size_t>(i)]);
  second.seek(123);
  EXPECT_EQ(second.sample(logits), tokens[123]);

  Sampler other(100, {.temperature = 1.2F, .top_k = 50, .top_p = 0.95F, .seed = 78});
  int equal = 0;
  for (int i = 0; i < 200; ++i) equal += other.sample(logits) == tokens[static_cast<std::size_t>(i)] ? 1 : 0;
  EXPECT_LT(equal, 60);
}

TEST(Sampler, DrawingAllocatesNothing) {
  const std::vector<float> logits = random_logits(3000, 2);
  Sampler sampler(3000, {.temperature = 0.7F, .top_k = 100, .top_p = 0.9F, .seed = 1});
  const std::size_t before = allocations;
  std::int64_t sum = 0;
  for (int i = 0; i < 20; ++i) sum += sampler.sample(logits);
  EXPECT_EQ(allocations, before);
  EXPECT_GT(sum, 0);
  EXPECT_GT(before, 0U);
}

TEST(Sampler, NanAndInfinityHaveADefinedResult) {
  Sampler sampler(5, {.temperature = 1.0F, .seed = 4});
  const std::vector<float> none(5, kNan);
  EXPECT_EQ(sampler.sample(none), 0);
  EXPECT_EQ(sampler.sample(std::vector<float>(5, -kInfinity)), 0);

  std::set<std::int32_t> seen;
  for (int i = 0; i < 200; ++i) seen.insert(sampler.sample(std::vector<float>{kNan, 1.0F, -kInfinity, 1.0F, kNan}));
  EXPECT_EQ(seen, (std::set<std::int32_t>{1, 3}));
  seen.clear();
  for (int i = 0; i < 200; ++i) seen.insert(sampler.sample(std::vector<float>{kInfinity, 1e30F, kNan, kInfinity, 0.0F}));
  EXPECT_EQ(seen, (std::set<std::int32_t>{0, 3}));
}

TEST(Sampler, ExtremeLogitsAndTemperatures) {
  Sampler cold(4, {.temperature = 1e-30F, .top_p = 0.9F, .seed = 4});
  const float huge = std::numeric_limits<float>::max();
  for (int i = 0; i < 50; ++i) EXPECT_EQ(cold.sample(std::vector<float>{1.0F, 2.0F, 3.0F, 2.5F}), 2);
  Sampler warm(4, {.temperature = 0.5F, .seed = 4});
  for (int i = 0; i < 50; ++i) EXPECT_EQ(warm.sample(std::vector<float>{-huge, huge, -huge, 0.0F}), 1);
  Sampler hot(4, {.temperature = 1e30F, .seed = 4});
  std::set<std::int32_t> seen;
  for (int i = 0; i < 100; ++i) seen.insert(hot.sample(std::vector<float>{1.0F, 200.0F, 3.0F, -50.0F}));
  EXPECT_EQ(seen.size(), 4U);
  Sampler one(1, {.temperature = 1.0F, .top_k = 1, .top_p = 0.5F});
  EXPECT_EQ(one.sample(std::vector<float>{-3.0F}), 0);
}

// Steps come in any order and may carry memory: here one that forbids what was drawn before.
class NeverTwice : public SamplerStep {
 public:
  void apply(SamplerCandidates& candidates) override {
    auto items = candidates.items();
    const auto end =
        std::remove_if(items.begin(), items.end(), [&](const auto& item) { return drawn_.count(item.token) > 0; });
    candidates.keep(static_cast<std::size_t>(std::max<std::ptrdiff_t>(1, end - items.begin())));
  }
  void accept(std::int32_t token) override { drawn_.insert(token); }

 private:
  std::set<std::int32_t> drawn_;
};

TEST(Sampler, ChainsCanBeExtended) {
  std::vector<std::unique_ptr<SamplerStep>> chain;
  chain.push_back(std::make_unique<NeverTwice>());
  chain.push_back(top_k_step(1));
  Sampler sampler(6, std::move(chain), 1);
  const std::vector<float> logits = {1, 5, 3, 4, 0, 2};
  std::vector<std::int32_t> tokens;
  for (int i = 0; i < 6; ++i) tokens.push_back(sampler.sample(logits));
  EXPECT_EQ(tokens, (std::vector<std::int32_t>{1, 3, 2, 5, 0, 4}));
}

}  // namespace
}  // namespace quern
