#include "infer/sampler.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

#include "math/philox.hpp"

namespace quern {

namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

float usable(float logit) { return std::isnan(logit) ? -kInfinity : logit; }

class TemperatureStep : public SamplerStep {
 public:
  explicit TemperatureStep(float temperature) : temperature_(temperature) {}
  void apply(SamplerCandidates& candidates) override {
    // Relative to the largest, so that a tiny temperature cannot overflow.
    const auto items = candidates.items();
    float largest = -kInfinity;
    for (const SamplerCandidate& item : items) largest = std::max(largest, item.logit);
    for (SamplerCandidate& item : items) item.logit = (item.logit - largest) / temperature_;
  }

 private:
  float temperature_;
};

class TopKStep : public SamplerStep {
 public:
  explicit TopKStep(std::int64_t k) : k_(static_cast<std::size_t>(k)) {}
  void apply(SamplerCandidates& candidates) override {
    const auto items = candidates.items();
    if (items.size() <= k_) return;
    const auto end = items.begin() + static_cast<std::ptrdiff_t>(k_);
    std::nth_element(items.begin(), end, items.end(), likelier);
    std::sort(items.begin(), end, likelier);
    candidates.keep(k_);
  }

 private:
  std::size_t k_;
};

class TopPStep : public SamplerStep {
 public:
  explicit TopPStep(float p) : p_(p) {}
  void apply(SamplerCandidates& candidates) override {
    const auto items = candidates.items();
    float largest = -kInfinity;
    for (const SamplerCandidate& item : items) largest = std::max(largest, item.logit);
    const auto weight = [&](const SamplerCandidate& item) { return std::exp(static_cast<double>(item.logit) - largest); };
    double total = 0.0;
    for (const SamplerCandidate& item : items) total += weight(item);

    // A heap gives the likeliest one by one: usually few of a large vocabulary are needed, and sorting it all is slow.
    const auto less_likely = [](const SamplerCandidate& a, const SamplerCandidate& b) { return likelier(b, a); };
    std::make_heap(items.begin(), items.end(), less_likely);
    const double wanted = static_cast<double>(p_) * total;
    double sum = 0.0;
    std::size_t kept = 0;
    while (kept < items.size() && (kept == 0 || sum < wanted)) {
      std::pop_heap(items.begin(), items.end() - static_cast<std::ptrdiff_t>(kept), less_likely);
      ++kept;
      sum += weight(items[items.size() - kept]);
    }
    std::reverse(items.begin(), items.end());  // the kept ones stand at the end, the likeliest last
    candidates.keep(kept);
  }

 private:
  float p_;
};

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
  float largest = -kInfinity;
  for (const SamplerCandidate& item : items) largest = std::max(largest, item.logit);
  double sum = 0.0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    sum += std::exp(static_cast<double>(items[i].logit) - largest);
    cumulative[i] = sum;
  }
  // The first whose cumulative weight is above u * sum has weight > 0. Rounding may leave none: then the last that has.
  auto found = std::upper_bound(cumulative.begin(), cumulative.end(), u * sum);
  if (found == cumulative.end()) found = std::lower_bound(cumulative.begin(), cumulative.end(), sum);
  return items[static_cast<std::size_t>(found - cumulative.begin())].token;
}

}  // namespace

SamplerCandidates::SamplerCandidates(std::int64_t vocab)
    : candidates_(static_cast<std::size_t>(vocab)), scratch_(static_cast<std::size_t>(vocab)) {}

void SamplerCandidates::assign(std::span<const float> logits) {
  assert(!logits.empty() && logits.size() <= candidates_.size() && "logits must be [vocab]");
  const bool infinite = std::find(logits.begin(), logits.end(), kInfinity) != logits.end();
  count_ = 0;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    const float logit = usable(logits[i]);
    if (logit == -kInfinity || (infinite && logit != kInfinity)) continue;
    candidates_[count_++] = {infinite ? 0.0F : logit, static_cast<std::int32_t>(i)};
  }
  if (count_ == 0) candidates_[count_++] = {0.0F, 0};
}

void SamplerCandidates::keep(std::size_t count) {
  assert(count >= 1 && count <= count_ && "a step keeps at least one candidate and adds none");
  count_ = count;
}

std::unique_ptr<SamplerStep> temperature_step(float temperature) { return std::make_unique<TemperatureStep>(temperature); }
std::unique_ptr<SamplerStep> top_k_step(std::int64_t k) { return std::make_unique<TopKStep>(k); }
std::unique_ptr<SamplerStep> top_p_step(float p) { return std::make_unique<TopPStep>(p); }

Sampler::Sampler(std::int64_t vocab, const SamplerConfig& config)
    : candidates_(vocab), seed_(config.seed), greedy_(config.temperature <= 0.0F) {
  if (greedy_) return;
  if (config.temperature != 1.0F) chain_.push_back(temperature_step(config.temperature));
  if (config.top_k > 0 && config.top_k < vocab) chain_.push_back(top_k_step(config.top_k));
  if (config.top_p < 1.0F) chain_.push_back(top_p_step(config.top_p));
}

Sampler::Sampler(std::int64_t vocab, std::vector<std::unique_ptr<SamplerStep>> chain, std::uint64_t seed)
    : chain_(std::move(chain)), candidates_(vocab), seed_(seed) {}

std::int32_t Sampler::sample(std::span<const float> logits) {
  const std::uint64_t position = position_++;
  if (greedy_) return greedy_token(logits);
  candidates_.assign(logits);
  for (const auto& step : chain_) step->apply(candidates_);
  const std::int32_t token = draw(candidates_, uniform(seed_, position));
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

}  // namespace quern
