#include <algorithm>
#include <limits>

#include "infer/sampler_steps.hpp"

namespace quern {

namespace {

class LogitBiasStep final : public SamplerStep {
 public:
  explicit LogitBiasStep(std::vector<LogitBias> biases) : biases_(std::move(biases)) {}

  void apply(SamplerCandidates& candidates) override {
    const auto items = candidates.items();
    const SamplerCandidate first = items.front();
    bool forbids = false;
    for (const LogitBias& bias : biases_) {
      SamplerCandidate* item = find(items, bias.token);
      if (item == nullptr) continue;
      item->logit += bias.bias;
      forbids = forbids || item->logit == -kInfinity;
    }
    if (!forbids) return;
    const auto end =
        std::remove_if(items.begin(), items.end(), [](const SamplerCandidate& item) { return item.logit == -kInfinity; });
    if (end == items.begin()) items.front() = first;
    candidates.keep(std::max<std::size_t>(1, static_cast<std::size_t>(end - items.begin())));
  }

 private:
  static constexpr float kInfinity = std::numeric_limits<float>::infinity();

  /// As first step of a chain it finds the candidates in ascending order; in another place it has to look at all.
  static SamplerCandidate* find(std::span<SamplerCandidate> items, std::int32_t token) {
    const auto is_before = [](const SamplerCandidate& item, std::int32_t wanted) { return item.token < wanted; };
    auto found = std::lower_bound(items.begin(), items.end(), token, is_before);
    if (found == items.end() || found->token != token) {
      found = std::find_if(items.begin(), items.end(), [&](const SamplerCandidate& item) { return item.token == token; });
    }
    return found == items.end() ? nullptr : &*found;
  }

  std::vector<LogitBias> biases_;
};

}  // namespace

std::unique_ptr<SamplerStep> logit_bias_step(std::vector<LogitBias> biases) {
  return std::make_unique<LogitBiasStep>(std::move(biases));
}

}  // namespace quern
