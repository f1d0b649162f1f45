#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

#include "infer/sampler_filters.hpp"
#include "infer/sampler_steps.hpp"

namespace quern {

namespace {
constexpr float kInfinity = std::numeric_limits<float>::infinity();
float usable(float logit) { return std::isnan(logit) ? -kInfinity : logit; }
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

namespace internal {

float largest_logit(std::span<const SamplerCandidate> items) {
  float largest = -kInfinity;
  for (const SamplerCandidate& item : items) largest = std::max(largest, item.logit);
  return largest;
}

}  // namespace internal

}  // namespace quern
