#include "infer/sampler_filters.hpp"
#include "infer/sampler_steps.hpp"

namespace quern {

namespace {

class TopPStep final : public SamplerStep {
 public:
  explicit TopPStep(float p) : p_(p) {}
  void apply(SamplerCandidates& candidates) override {
    internal::keep_probability(candidates, static_cast<double>(p_), likelier);
  }

 private:
  float p_;
};

}  // namespace

std::unique_ptr<SamplerStep> top_p_step(float p) { return std::make_unique<TopPStep>(p); }

}  // namespace quern
