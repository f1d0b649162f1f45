#include <cmath>

#include "infer/sampler_filters.hpp"
#include "infer/sampler_steps.hpp"

namespace quern {

namespace {

class TypicalStep final : public SamplerStep {
 public:
  explicit TypicalStep(float p) : p_(p) {}
  void apply(SamplerCandidates& candidates) override {
    const auto items = candidates.items();
    const float largest = internal::largest_logit(items);
    double total = 0.0, weighted = 0.0;  // of e^x and x e^x with x = logit - largest
    for (const SamplerCandidate& item : items) {
      const double weight = internal::relative_probability(item, largest);
      total += weight;
      if (weight > 0.0) weighted += weight * (static_cast<double>(item.logit) - static_cast<double>(largest));
    }
    // With log p = x - log(total): entropy = log(total) - E[x] and surprise - entropy = E[x] - x.
    const double typical_logit = static_cast<double>(largest) + weighted / total;
    const auto distance = [&](const SamplerCandidate& item) {
      return std::abs(typical_logit - static_cast<double>(item.logit));
    };
    internal::keep_probability(candidates, static_cast<double>(p_),
                               [&](const SamplerCandidate& a, const SamplerCandidate& b) {
                                 const double of_a = distance(a), of_b = distance(b);
                                 return of_a != of_b ? of_a < of_b : likelier(a, b);
                               });
  }

 private:
  float p_;
};

}  // namespace

std::unique_ptr<SamplerStep> typical_step(float p) { return std::make_unique<TypicalStep>(p); }

}  // namespace quern
