#include "infer/sampler_filters.hpp"
#include "infer/sampler_steps.hpp"

namespace quern {

namespace {

class TemperatureStep final : public SamplerStep {
 public:
  explicit TemperatureStep(float temperature) : temperature_(temperature) {}
  void apply(SamplerCandidates& candidates) override {
    // Relative to the largest, so that a tiny temperature cannot overflow.
    const auto items = candidates.items();
    const float largest = internal::largest_logit(items);
    for (SamplerCandidate& item : items) item.logit = (item.logit - largest) / temperature_;
  }

 private:
  float temperature_;
};

}  // namespace

std::unique_ptr<SamplerStep> temperature_step(float temperature) { return std::make_unique<TemperatureStep>(temperature); }

}  // namespace quern
