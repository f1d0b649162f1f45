#include <algorithm>

#include "infer/sampler_steps.hpp"

namespace quern {

namespace {

class TopKStep final : public SamplerStep {
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

}  // namespace

std::unique_ptr<SamplerStep> top_k_step(std::int64_t k) { return std::make_unique<TopKStep>(k); }

}  // namespace quern
