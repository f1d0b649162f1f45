// What several sampler steps share.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <span>

#include "infer/sampler_steps.hpp"

namespace quern::internal {

/// Of at least one candidate.
[[nodiscard]] float largest_logit(std::span<const SamplerCandidate> items);

/// exp(logit - largest): proportional to the probability, at most 1.
[[nodiscard]] inline double relative_probability(const SamplerCandidate& item, float largest) {
  return std::exp(static_cast<double>(item.logit) - static_cast<double>(largest));
}

/// Keeps the fewest candidates, first ones in the total order `before`, whose probabilities sum to at least p of all.
/// A heap gives them one by one: usually few of a large vocabulary are needed, and sorting it all is slow.
template <class Before>
void keep_probability(SamplerCandidates& candidates, double p, const Before& before) {
  const auto items = candidates.items();
  const float largest = largest_logit(items);
  double total = 0.0;
  for (const SamplerCandidate& item : items) total += relative_probability(item, largest);

  const auto after = [&](const SamplerCandidate& a, const SamplerCandidate& b) { return before(b, a); };
  std::make_heap(items.begin(), items.end(), after);
  const double wanted = p * total;
  double sum = 0.0;
  std::size_t kept = 0;
  while (kept < items.size() && (kept == 0 || sum < wanted)) {
    std::pop_heap(items.begin(), items.end() - static_cast<std::ptrdiff_t>(kept), after);
    ++kept;
    sum += relative_probability(items[items.size() - kept], largest);
  }
  std::reverse(items.begin(), items.end());  // the kept ones stand at the end, the first of them last
  candidates.keep(kept);
}

}  // namespace quern::internal
