// The steps of a sampler's chain: each drops candidates or changes their logits. One small file a step.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

namespace quern {

/// A token that may still be drawn.
struct SamplerCandidate {
  float logit = 0.0F;
  std::int32_t token = 0;
};

/// The candidates of one draw, in memory that is reused from draw to draw: steps reorder and shrink it, never grow it.
class SamplerCandidates {
 public:
  explicit SamplerCandidates(std::int64_t vocab);

  /// All tokens whose logit is above -infinity, in ascending order. NaN counts as -infinity. Where some logits are
  /// +infinity, those tokens alone remain, with equal logits. Never empty: without any usable logit token 0 remains.
  void assign(std::span<const float> logits);

  [[nodiscard]] std::span<SamplerCandidate> items() { return {candidates_.data(), count_}; }
  /// Keeps the first `count` (at least 1) of items().
  void keep(std::size_t count);
  /// Work space of items().size() doubles; holds nothing between steps.
  [[nodiscard]] std::span<double> scratch() { return {scratch_.data(), count_}; }

 private:
  std::vector<SamplerCandidate> candidates_;
  std::vector<double> scratch_;
  std::size_t count_ = 0;
};

/// Likelier first; equal logits in the order of tokens. A total order, so that results do not depend on sorting details.
[[nodiscard]] inline bool likelier(const SamplerCandidate& a, const SamplerCandidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

/// One step of the chain. Allocates nothing in apply() and accept().
class SamplerStep {
 public:
  virtual ~SamplerStep() = default;
  virtual void apply(SamplerCandidates& candidates) = 0;
  /// Told of every token of the prompt and of every one that was drawn (penalties count them).
  virtual void accept(std::int32_t /*token*/) {}
};

/// Divides logits by a temperature > 0.
[[nodiscard]] std::unique_ptr<SamplerStep> temperature_step(float temperature);
/// Keeps the k >= 1 likeliest candidates (Fan et al. 2018).
[[nodiscard]] std::unique_ptr<SamplerStep> top_k_step(std::int64_t k);
/// Keeps the fewest likeliest candidates whose probabilities sum to at least p, 0 < p <= 1 (Holtzman et al. 2020).
[[nodiscard]] std::unique_ptr<SamplerStep> top_p_step(float p);
/// Keeps candidates with at least p times the likeliest one's probability, 0 < p <= 1 (Nguyen et al. 2024).
[[nodiscard]] std::unique_ptr<SamplerStep> min_p_step(float p);
/// Keeps the fewest candidates whose surprise -log(probability) is nearest to the distribution's entropy and whose
/// probabilities sum to at least p, 0 < p <= 1 (locally typical sampling, Meister et al. 2023). Equally near ones count in
/// the order of likelier().
[[nodiscard]] std::unique_ptr<SamplerStep> typical_step(float p);

/// Penalties on tokens that are among the last ones.
struct PenaltyConfig {
  std::int64_t last_tokens = 64;  ///< of prompt and drawn tokens together, as llama.cpp counts them; 0: none; -1: all
  float repetition = 1.0F;  ///< > 0; a positive logit is divided by it, another multiplied (Keskar et al. 2019); 1: none
  float presence = 0.0F;    ///< subtracted once from a token that occurs
  float frequency = 0.0F;   ///< subtracted for each time a token occurs

  [[nodiscard]] bool changes_anything() const {
    return last_tokens != 0 && (repetition != 1.0F || presence != 0.0F || frequency != 0.0F);
  }
};
/// The three penalties in the order repetition, frequency, presence. Tokens are in [0, vocab).
[[nodiscard]] std::unique_ptr<SamplerStep> penalties_step(std::int64_t vocab, const PenaltyConfig& config);

/// A number that is added to a token's logit; -infinity forbids the token.
struct LogitBias {
  std::int32_t token = 0;
  float bias = 0.0F;
};
/// Adds biases; several of one token add up. Where all candidates become forbidden, the first one remains.
[[nodiscard]] std::unique_ptr<SamplerStep> logit_bias_step(std::vector<LogitBias> biases);

}  // namespace quern
