// Every step of the chain against a plain double-precision reference, the chain's order, its words, and log-probabilities.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <set>

#include "infer/sampler.hpp"
#include "support/malloc_counter.hpp"

namespace quern {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> random_logits(std::size_t vocab, std::uint32_t seed, float spread = 2.0F) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, spread);
  std::vector<float> logits(vocab);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

std::vector<double> softmax(const std::vector<float>& logits) {
  std::vector<double> p(logits.begin(), logits.end());
  const double largest = *std::max_element(p.begin(), p.end());
  double sum = 0.0;
  for (double& value : p) sum += value = std::exp(value - largest);
  for (double& value : p) value /= sum;
  return p;
}

/// Logits by token after a step.
std::map<std::int32_t, float> after(SamplerStep& step, const std::vector<float>& logits) {
  SamplerCandidates candidates(std::ssize(logits));
  candidates.assign(logits);
  step.apply(candidates);
  std::map<std::int32_t, float> kept;
  for (const SamplerCandidate& item : candidates.items()) kept[item.token] = item.logit;
  EXPECT_EQ(kept.size(), candidates.items().size()) << "a token stands twice";
  return kept;
}

std::set<std::int32_t> tokens_after(SamplerStep& step, const std::vector<float>& logits) {
  std::set<std::int32_t> tokens;
  for (const auto& [token, logit] : after(step, logits)) {
    tokens.insert(token);
    EXPECT_EQ(logit, logits[static_cast<std::size_t>(token)]) << "filters leave logits as they are";
  }
  return tokens;
}

TEST(SamplerSteps, MinPKeepsWhatIsLikelyEnough) {
  for (const std::size_t vocab : {1U, 2U, 31U, 500U}) {
    const std::vector<float> logits = random_logits(vocab, 3);
    const std::vector<double> p = softmax(logits);
    const double largest = *std::max_element(p.begin(), p.end());
    for (const float least : {1e-4F, 0.05F, 0.3F, 0.9F, 1.0F}) {
      auto step = min_p_step(least);
      std::set<std::int32_t> expected;
      for (std::size_t i = 0; i < vocab; ++i) {
        const double ratio = p[i] / largest;
        ASSERT_GT(std::abs(ratio / static_cast<double>(least) - 1.0) + (ratio == 1.0 ? 1.0 : 0.0), 1e-9)
            << "too near to judge";
        if (ratio >= static_cast<double>(least)) expected.insert(static_cast<std::int32_t>(i));
      }
      EXPECT_EQ(tokens_after(*step, logits), expected) << vocab << " " << least;
    }
  }
}

TEST(SamplerSteps, TypicalKeepsTheNearestToTheEntropy) {
  for (const std::size_t vocab : {1U, 2U, 31U, 500U}) {
    for (const float spread : {0.3F, 2.0F, 6.0F}) {
      const std::vector<float> logits = random_logits(vocab, 4, spread);
      const std::vector<double> p = softmax(logits);
      double entropy = 0.0;
      for (const double value : p) entropy -= value > 0.0 ? value * std::log(value) : 0.0;
      std::vector<std::size_t> order(vocab);
      for (std::size_t i = 0; i < vocab; ++i) order[i] = i;
      const auto distance = [&](std::size_t i) { return std::abs(-std::log(p[i]) - entropy); };
      std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return distance(a) < distance(b); });
      for (const float wanted : {0.05F, 0.5F, 0.95F}) {
        std::set<std::int32_t> expected;
        double sum = 0.0;
        for (std::size_t i = 0; i < vocab && (i == 0 || sum < static_cast<double>(wanted)); ++i) {
          expected.insert(static_cast<std::int32_t>(order[i]));
          sum += p[order[i]];
        }
        auto step = typical_step(wanted);
        EXPECT_EQ(tokens_after(*step, logits), expected) << vocab << " " << spread << " " << wanted;
      }
    }
  }
}

TEST(SamplerSteps, TypicalCanDropTheLikeliest) {
  // Entropy 1.47: the surprise of 0.4 is 0.92, that of 0.2 is 1.61.
  const std::vector<float> logits = {std::log(0.4F), std::log(0.2F), std::log(0.2F), std::log(0.2F)};
  auto step = typical_step(0.3F);
  EXPECT_EQ(tokens_after(*step, logits), (std::set<std::int32_t>{1, 2}));
}

TEST(SamplerSteps, PenaltiesCountTheLastTokens) {
  const std::int64_t vocab = 40;
  for (const std::int64_t last : {std::int64_t{-1}, std::int64_t{1}, std::int64_t{5}, std::int64_t{16}}) {
    const PenaltyConfig config{.last_tokens = last, .repetition = 1.4F, .presence = 0.3F, .frequency = 0.25F};
    auto step = penalties_step(vocab, config);
    std::vector<std::int32_t> history;
    std::mt19937 random(8);
    for (int round = 0; round < 50; ++round) {
      const std::vector<float> logits = random_logits(static_cast<std::size_t>(vocab), static_cast<std::uint32_t>(round));
      const std::size_t from = last < 0 ? 0 : history.size() - std::min(history.size(), static_cast<std::size_t>(last));
      for (const auto& [token, logit] : after(*step, logits)) {
        const auto count = std::count(history.begin() + static_cast<std::ptrdiff_t>(from), history.end(), token);
        double expected = static_cast<double>(logits[static_cast<std::size_t>(token)]);
        if (count > 0) {
          expected = expected > 0.0 ? expected / 1.4 : expected * 1.4;
          expected -= static_cast<double>(count) * 0.25 + 0.3;
        }
        ASSERT_NEAR(logit, expected, 1e-5) << round << " " << token;
      }
      history.push_back(static_cast<std::int32_t>(random() % 10));
      step->accept(history.back());
    }
  }
}

TEST(SamplerSteps, LogitBiasAddsAndForbids) {
  auto step = logit_bias_step({{2, 1.5F}, {0, -kInfinity}, {2, 0.5F}, {4, 3.0F}});
  const std::vector<float> logits = {1, 2, 3, 4, -kInfinity, 5};
  EXPECT_EQ(after(*step, logits), (std::map<std::int32_t, float>{{1, 2}, {2, 5}, {3, 4}, {5, 5}}));
  auto all = logit_bias_step({{0, -kInfinity}, {1, -kInfinity}});
  EXPECT_EQ(after(*all, {1, 2}), (std::map<std::int32_t, float>{{0, 1}})) << "something remains";

  // Behind a step that reorders.
  std::vector<std::unique_ptr<SamplerStep>> chain;
  chain.push_back(top_k_step(3));
  chain.push_back(logit_bias_step({{5, -kInfinity}, {3, -kInfinity}}));
  Sampler sampler(6, std::move(chain), 1);
  for (int i = 0; i < 20; ++i) EXPECT_EQ(sampler.sample(logits), 2);
}

TEST(SamplerChain, TheOrderIsTheConfigs) {
  // p = 0.5, 0.3, 0.2. A temperature of 4 makes them 0.37, 0.33, 0.30: top-p 0.45 then keeps two instead of one.
  const std::vector<float> logits = {std::log(0.5F), std::log(0.3F), std::log(0.2F)};
  const auto drawn = [&](std::string_view order) {
    SamplerConfig config{.temperature = 4.0F, .top_p = 0.45F, .seed = 3};
    config.order = parse_sampler_order(order).value();
    Sampler sampler(3, config);
    std::set<std::int32_t> tokens;
    for (int i = 0; i < 200; ++i) tokens.insert(sampler.sample(logits));
    return tokens;
  };
  EXPECT_EQ(drawn("top_p,temperature"), (std::set<std::int32_t>{0}));
  EXPECT_EQ(drawn("temperature,top_p"), (std::set<std::int32_t>{0, 1}));
  EXPECT_EQ(drawn("temperature"), (std::set<std::int32_t>{0, 1, 2})) << "a step that is not named is left out";
  EXPECT_EQ(to_string(default_sampler_order()), "penalties,top_k,typical,top_p,min_p,temperature");
}

TEST(SamplerChain, WordsThatAreNoneAreNamed) {
  EXPECT_EQ(parse_sampler_order(" top_k , min_p").value(),
            (std::vector<SamplerStepKind>{SamplerStepKind::top_k, SamplerStepKind::min_p}));
  for (const char* words : {"top_k,mirostat", "top_k,top_k", "", "top_k,"})
    EXPECT_FALSE(parse_sampler_order(words)) << words;
  EXPECT_NE(parse_sampler_order("heat").error().message.find("'heat'"), std::string::npos);
}

TEST(SamplerChain, GreedyFollowsBiasesAndPenalties) {
  SamplerConfig config{.temperature = 0.0F, .top_k = 2, .typical_p = 0.1F};
  config.logit_bias = {{3, -kInfinity}};
  config.penalties = {.last_tokens = 2, .repetition = 1.0F, .presence = 10.0F};
  Sampler sampler(4, config);
  const std::vector<float> logits = {1, 2, 3, 4};
  const std::vector<std::int32_t> prompt = {2, 0};
  sampler.accept_prompt(prompt);
  EXPECT_EQ(sampler.sample(logits), 1) << "2 and 0 are in the prompt, 3 is forbidden";
  EXPECT_EQ(sampler.sample(logits), 2) << "the last two are 0 and 1";
  EXPECT_EQ(sampler.sample(logits), 0);
}

TEST(SamplerChain, ConfigsAreChecked) {
  EXPECT_TRUE(validate(SamplerConfig{}, 10));
  const auto refused = [](auto change) {
    SamplerConfig config;
    change(config);
    return !validate(config, 10).has_value();
  };
  const float nan = std::nanf("");
  EXPECT_TRUE(refused([](auto& c) { c.temperature = -1.0F; }));
  EXPECT_TRUE(refused([&](auto& c) { c.temperature = nan; }));
  EXPECT_TRUE(refused([](auto& c) { c.top_k = -1; }));
  EXPECT_TRUE(refused([](auto& c) { c.top_p = 0.0F; }));
  EXPECT_TRUE(refused([&](auto& c) { c.top_p = nan; }));
  EXPECT_TRUE(refused([](auto& c) { c.min_p = 1.5F; }));
  EXPECT_TRUE(refused([](auto& c) { c.typical_p = 1.1F; }));
  EXPECT_TRUE(refused([](auto& c) { c.penalties.repetition = 0.0F; }));
  EXPECT_TRUE(refused([](auto& c) { c.penalties.last_tokens = -2; }));
  EXPECT_TRUE(refused([](auto& c) { c.penalties.presence = kInfinity; }));
  EXPECT_TRUE(refused([](auto& c) { c.logit_bias = {{10, 1.0F}}; }));
  EXPECT_TRUE(refused([](auto& c) { c.logit_bias = {{1, kInfinity}}; }));
  EXPECT_TRUE(refused([](auto& c) { c.order.push_back(SamplerStepKind::top_k); }));
}

TEST(SamplerChain, SharedWorkspaceChangesNothing) {
  const auto workspace = std::make_shared<SamplerCandidates>(300);
  const SamplerConfig a{.temperature = 1.0F, .seed = 1, .min_p = 0.01F}, b{.temperature = 0.7F, .top_k = 9, .seed = 2};
  Sampler shared_a(300, a, workspace), shared_b(300, b, workspace), own_a(300, a), own_b(300, b);
  for (std::uint32_t i = 0; i < 50; ++i) {
    const std::vector<float> logits = random_logits(300, i);
    EXPECT_EQ(shared_a.sample(logits), own_a.sample(logits));
    EXPECT_EQ(shared_b.sample(logits), own_b.sample(logits));
  }
}

TEST(SamplerChain, EveryStepDrawsWithoutAllocating) {
  if (!malloc_counting_available()) GTEST_SKIP() << "this build does not count allocations";
  SamplerConfig config{.temperature = 0.7F, .top_k = 500, .top_p = 0.9F, .seed = 1, .min_p = 0.001F, .typical_p = 0.95F};
  config.penalties = {.last_tokens = 8, .repetition = 1.1F, .presence = 0.1F, .frequency = 0.1F};
  config.logit_bias = {{7, 1.0F}, {9, -kInfinity}};
  Sampler sampler(3000, config);
  const std::vector<float> logits = random_logits(3000, 2);
  std::int64_t sum = 0;
  start_malloc_counting();
  for (int i = 0; i < 20; ++i) sum += sampler.sample(logits);
  EXPECT_EQ(stop_malloc_counting().inside, 0U);
  EXPECT_GT(sum, 0);
}

TEST(LogProbabilities, EqualTheDoubleReference) {
  const std::vector<float> logits = random_logits(1000, 6);
  const std::vector<double> p = softmax(logits);
  std::vector<std::int32_t> order(1000);
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = static_cast<std::int32_t>(i);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  for (const std::int64_t top : {0, 1, 7, 1000, 2000}) {
    const LogProbabilities result = log_probabilities(logits, 123, top);
    EXPECT_EQ(result.chosen.token, 123);
    EXPECT_NEAR(result.chosen.log_probability, std::log(p[123]), 1e-5);
    ASSERT_EQ(std::ssize(result.top), std::min<std::int64_t>(top, 1000));
    for (std::size_t i = 0; i < result.top.size(); ++i) {
      ASSERT_EQ(result.top[i].token, order[i]);
      ASSERT_NEAR(result.top[i].log_probability, std::log(p[static_cast<std::size_t>(order[i])]), 1e-5);
    }
  }
}

TEST(LogProbabilities, OddLogitsHaveADefinedResult) {
  const float nan = std::nanf("");
  const LogProbabilities infinite = log_probabilities(std::vector<float>{1, kInfinity, nan, kInfinity}, 3, 3);
  EXPECT_NEAR(infinite.chosen.log_probability, -std::log(2.0), 1e-6);
  EXPECT_EQ(infinite.top[0].token, 1);
  EXPECT_EQ(infinite.top[1].token, 3);
  EXPECT_EQ(infinite.top[2].log_probability, -kInfinity);
  const LogProbabilities some = log_probabilities(std::vector<float>{nan, 0.0F, -kInfinity, 0.0F}, 0, 1);
  EXPECT_EQ(some.chosen.log_probability, -kInfinity);
  EXPECT_NEAR(some.top[0].log_probability, -std::log(2.0), 1e-6);
}

}  // namespace
}  // namespace quern
