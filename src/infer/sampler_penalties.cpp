#include "infer/sampler_steps.hpp"

namespace quern {

namespace {

class PenaltiesStep final : public SamplerStep {
 public:
  PenaltiesStep(std::int64_t vocab, const PenaltyConfig& config)
      : config_(config), counts_(static_cast<std::size_t>(vocab)) {
    if (config.last_tokens > 0) last_.reserve(static_cast<std::size_t>(config.last_tokens));
  }

  void apply(SamplerCandidates& candidates) override {
    for (SamplerCandidate& item : candidates.items()) {
      const std::int32_t count = counts_[static_cast<std::size_t>(item.token)];
      if (count == 0) continue;
      item.logit = item.logit > 0.0F ? item.logit / config_.repetition : item.logit * config_.repetition;
      item.logit -= static_cast<float>(count) * config_.frequency + config_.presence;
    }
  }

  void accept(std::int32_t token) override {
    if (config_.last_tokens == 0) return;
    ++counts_[static_cast<std::size_t>(token)];
    if (config_.last_tokens < 0) return;
    if (last_.size() < last_.capacity() && static_cast<std::int64_t>(last_.size()) < config_.last_tokens) {
      last_.push_back(token);
      return;
    }
    --counts_[static_cast<std::size_t>(last_[oldest_])];
    last_[oldest_] = token;
    oldest_ = (oldest_ + 1) % last_.size();
  }

 private:
  PenaltyConfig config_;
  std::vector<std::int32_t> counts_;  // [vocab] of the last tokens
  std::vector<std::int32_t> last_;    // a ring once it is full
  std::size_t oldest_ = 0;
};

}  // namespace

std::unique_ptr<SamplerStep> penalties_step(std::int64_t vocab, const PenaltyConfig& config) {
  return std::make_unique<PenaltiesStep>(vocab, config);
}

}  // namespace quern
