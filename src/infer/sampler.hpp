// From logits to a token: a chain of steps that drop candidates or change their logits, then one draw.
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

/// One step of the chain. Allocates nothing in apply().
class SamplerStep {
 public:
  virtual ~SamplerStep() = default;
  virtual void apply(SamplerCandidates& candidates) = 0;
  /// Told of every token that was drawn (penalties count them).
  virtual void accept(std::int32_t /*token*/) {}
};

/// Divides logits by a temperature > 0.
[[nodiscard]] std::unique_ptr<SamplerStep> temperature_step(float temperature);
/// Keeps the k >= 1 likeliest candidates (Fan et al. 2018).
[[nodiscard]] std::unique_ptr<SamplerStep> top_k_step(std::int64_t k);
/// Keeps the fewest likeliest candidates whose probabilities sum to at least p, 0 < p <= 1 (Holtzman et al. 2020).
[[nodiscard]] std::unique_ptr<SamplerStep> top_p_step(float p);

/// The settings that make the usual chain.
struct SamplerConfig {
  float temperature = 0.8F;  ///< 0: always the likeliest token (the lowest where several are)
  std::int64_t top_k = 0;    ///< 0: all
  float top_p = 1.0F;        ///< 1: all
  std::uint64_t seed = 0;
};

/// Draws tokens. Draw i depends on nothing but the seed, i and the logits: the generator is counter-based (Philox4x32-10).
class Sampler {
 public:
  /// The chain temperature, top-k, top-p, with steps left out that would change nothing.
  Sampler(std::int64_t vocab, const SamplerConfig& config);
  /// Any chain, applied in order.
  Sampler(std::int64_t vocab, std::vector<std::unique_ptr<SamplerStep>> chain, std::uint64_t seed);

  /// The next token. `logits` is [vocab], any values: see SamplerCandidates::assign. Allocates nothing.
  [[nodiscard]] std::int32_t sample(std::span<const float> logits);

  /// Number of the next draw; seek(i) continues as if i draws had been made (steps' own memory aside).
  [[nodiscard]] std::uint64_t position() const { return position_; }
  void seek(std::uint64_t position) { position_ = position; }

 private:
  std::vector<std::unique_ptr<SamplerStep>> chain_;
  SamplerCandidates candidates_;
  std::uint64_t seed_ = 0;
  std::uint64_t position_ = 0;
  bool greedy_ = false;
};

/// Index of the largest logit, the lowest where several are equal; NaN counts as -infinity. 0 where nothing is above that.
[[nodiscard]] std::int32_t greedy_token(std::span<const float> logits);

}  // namespace quern
