#include "infer/sampler.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

#include "infer/sampler_filters.hpp"
#include "math/philox.hpp"

namespace quern {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

/// Number `position` of the seed's stream, uniform in [0, 1) with 53 bits.
double uniform(std::uint64_t seed, std::uint64_t position) {
  constexpr std::uint32_t kSamplerPurpose = 0x53414D50;  // "SAMP": apart from other uses of a run's seed
  const PhiloxBlock words = RandomStream{.seed = seed, .purpose = kSamplerPurpose}.block(position);
  const std::uint64_t bits = (static_cast<std::uint64_t>(words[1]) << 32) | words[0];
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

std::int32_t draw(SamplerCandidates& candidates, double u) {
  const auto items = candidates.items();
  const auto cumulative = candidates.scratch();
  const float largest = internal::largest_logit(items);
  double sum = 0.0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    sum += internal::relative_probability(items[i], largest);
    cumulative[i] = sum;
  }
  // The first whose cumulative weight is above u * sum has weight > 0. Rounding may leave none: then the last that has.
  auto found = std::upper_bound(cumulative.begin(), cumulative.end(), u * sum);
  if (found == cumulative.end()) found = std::lower_bound(cumulative.begin(), cumulative.end(), sum);
  return items[static_cast<std::size_t>(found - cumulative.begin())].token;
}

/// The step of a config, or null where it would change nothing.
std::unique_ptr<SamplerStep> make_step(SamplerStepKind kind, const SamplerConfig& config, std::int64_t vocab) {
  if (kind == SamplerStepKind::penalties) {
    return config.penalties.changes_anything() ? penalties_step(vocab, config.penalties) : nullptr;
  }
  if (config.temperature <= 0.0F) return nullptr;  // the likeliest token is taken whatever the filters keep beside it
  switch (kind) {
    case SamplerStepKind::penalties:
      break;
    case SamplerStepKind::top_k:
      return config.top_k > 0 && config.top_k < vocab ? top_k_step(config.top_k) : nullptr;
    case SamplerStepKind::typical:
      return config.typical_p < 1.0F ? typical_step(config.typical_p) : nullptr;
    case SamplerStepKind::top_p:
      return config.top_p < 1.0F ? top_p_step(config.top_p) : nullptr;
    case SamplerStepKind::min_p:
      return config.min_p > 0.0F ? min_p_step(config.min_p) : nullptr;
    case SamplerStepKind::temperature:
      return config.temperature != 1.0F ? temperature_step(config.temperature) : nullptr;
  }
  return nullptr;
}

}  // namespace

Sampler::Sampler(std::int64_t vocab, const SamplerConfig& config, std::shared_ptr<SamplerCandidates> workspace)
    : candidates_(std::move(workspace)), seed_(config.seed), greedy_(config.temperature <= 0.0F) {
  if (candidates_ == nullptr) candidates_ = std::make_shared<SamplerCandidates>(vocab);
  if (!config.logit_bias.empty()) chain_.push_back(logit_bias_step(config.logit_bias));
  for (const SamplerStepKind kind : config.order) {
    if (auto step = make_step(kind, config, vocab)) chain_.push_back(std::move(step));
  }
}

Sampler::Sampler(std::int64_t vocab, std::vector<std::unique_ptr<SamplerStep>> chain, std::uint64_t seed)
    : chain_(std::move(chain)), candidates_(std::make_shared<SamplerCandidates>(vocab)), seed_(seed) {}

void Sampler::accept_prompt(std::span<const std::int32_t> tokens) {
  for (const auto& step : chain_) {
    for (const std::int32_t token : tokens) step->accept(token);
  }
}

std::int32_t Sampler::sample(std::span<const float> logits) {
  const std::uint64_t position = position_++;
  if (greedy_ && chain_.empty()) return greedy_token(logits);
  candidates_->assign(logits);
  for (const auto& step : chain_) step->apply(*candidates_);
  const auto items = candidates_->items();
  const std::int32_t token =
      greedy_ ? std::min_element(items.begin(), items.end(), likelier)->token : draw(*candidates_, uniform(seed_, position));
  for (const auto& step : chain_) step->accept(token);
  return token;
}

std::int32_t greedy_token(std::span<const float> logits) {
  std::size_t best = 0;
  float largest = -kInfinity;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (logits[i] > largest) {  // false for NaN
      largest = logits[i];
      best = i;
    }
  }
  return static_cast<std::int32_t>(best);
}

LogProbabilities log_probabilities(std::span<const float> logits, std::int32_t chosen, std::int64_t top) {
  const auto logit_of = [&](std::size_t i) { return std::isnan(logits[i]) ? -kInfinity : logits[i]; };
  const float largest = logit_of(static_cast<std::size_t>(greedy_token(logits)));
  // Where the largest is infinite, the tokens that have it share the probability, as SamplerCandidates::assign says.
  const bool infinite = std::isinf(largest);
  const auto relative = [&](float logit) {
    if (infinite) return logit == largest ? 0.0 : -std::numeric_limits<double>::infinity();
    return static_cast<double>(logit) - static_cast<double>(largest);
  };
  double sum = 0.0;
  for (std::size_t i = 0; i < logits.size(); ++i) sum += std::exp(relative(logit_of(i)));
  const double log_sum = std::log(sum);
  const auto entry = [&](std::int32_t token) {
    return TokenLogProbability{token, static_cast<float>(relative(logit_of(static_cast<std::size_t>(token))) - log_sum)};
  };

  LogProbabilities result{.chosen = entry(chosen), .top = {}};
  const auto count = static_cast<std::size_t>(std::clamp<std::int64_t>(top, 0, std::ssize(logits)));
  if (count == 0) return result;
  const auto before = [](const SamplerCandidate& a, const SamplerCandidate& b) { return likelier(a, b); };
  std::vector<SamplerCandidate> heap;  // of the likeliest so far, the least likely of them first
  heap.reserve(count + 1);
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const SamplerCandidate item{logit_of(i), static_cast<std::int32_t>(i)};
    if (heap.size() == count && !likelier(item, heap.front())) continue;
    heap.push_back(item);
    std::push_heap(heap.begin(), heap.end(), before);
    if (heap.size() <= count) continue;
    std::pop_heap(heap.begin(), heap.end(), before);
    heap.pop_back();
  }
  std::sort_heap(heap.begin(), heap.end(), before);
  for (const SamplerCandidate& item : heap) result.top.push_back(entry(item.token));
  return result;
}

}  // namespace quern
