#include <algorithm>
#include <cmath>

#include "infer/sampler_filters.hpp"
#include "infer/sampler_steps.hpp"

namespace quern {

namespace {

class MinPStep final : public SamplerStep {
 public:
  explicit MinPStep(float p) : log_p_(std::log(static_cast<double>(p))) {}
  void apply(SamplerCandidates& candidates) override {
    // Logits differ by the logarithm of the probabilities' ratio. The likeliest one stays: log(p) <= 0.
    const auto items = candidates.items();
    const double least = static_cast<double>(internal::largest_logit(items)) + log_p_;
    const auto end = std::remove_if(items.begin(), items.end(),
                                    [&](const SamplerCandidate& item) { return static_cast<double>(item.logit) < least; });
    candidates.keep(static_cast<std::size_t>(end - items.begin()));
  }

 private:
  double log_p_;
};

}  // namespace

std::unique_ptr<SamplerStep> min_p_step(float p) { return std::make_unique<MinPStep>(p); }

}  // namespace quern
