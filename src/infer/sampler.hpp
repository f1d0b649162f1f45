// From logits to a token: a chain of steps that drop candidates or change their logits, then one draw.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "infer/sampler_steps.hpp"
#include "math/result.hpp"

namespace quern {

/// The steps that a configured chain is made of.
enum class SamplerStepKind : std::uint8_t { penalties, top_k, typical, top_p, min_p, temperature };
/// "penalties", "top_k", "typical", "top_p", "min_p", "temperature".
[[nodiscard]] std::string_view to_word(SamplerStepKind kind);

/// penalties, top_k, typical, top_p, min_p, temperature: filters see the model's own probabilities (after penalties), and
/// the temperature then acts on what is left.
[[nodiscard]] std::vector<SamplerStepKind> default_sampler_order();

/// Words with commas between, such as "top_k,temperature". A step that is not named is left out. Error bad_input names an
/// unknown or repeated word and lists the known ones.
[[nodiscard]] Result<std::vector<SamplerStepKind>> parse_sampler_order(std::string_view words);
[[nodiscard]] std::string to_string(std::span<const SamplerStepKind> order);

/// The settings that make the usual chain.
struct SamplerConfig {
  float temperature = 0.8F;  ///< 0: the likeliest token (the lowest where several are) after biases and penalties
  std::int64_t top_k = 0;    ///< 0: all
  float top_p = 1.0F;        ///< 1: all
  std::uint64_t seed = 0;
  float min_p = 0.0F;      ///< 0: all
  float typical_p = 1.0F;  ///< 1: all
  PenaltyConfig penalties{};
  std::vector<LogitBias> logit_bias{};  ///< applied before the chain
  std::vector<SamplerStepKind> order = default_sampler_order();
};

/// Error bad_input names the field, its range and the value found. `vocab` bounds the tokens of logit_bias.
[[nodiscard]] Result<void> validate(const SamplerConfig& config, std::int64_t vocab);

/// Draws tokens. Draw i depends on nothing but the seed, i, the logits and (with penalties) the tokens before: the generator
/// is counter-based (Philox4x32-10).
class Sampler {
 public:
  /// A valid config's logit biases, then its order's steps; steps that would change nothing are left out. `workspace` may be
  /// shared by samplers that never sample at the same time; null: a new one.
  Sampler(std::int64_t vocab, const SamplerConfig& config, std::shared_ptr<SamplerCandidates> workspace = nullptr);
  /// Any chain, applied in order.
  Sampler(std::int64_t vocab, std::vector<std::unique_ptr<SamplerStep>> chain, std::uint64_t seed);

  /// Tells the steps of the prompt's tokens; no draws.
  void accept_prompt(std::span<const std::int32_t> tokens);

  /// The next token. `logits` is [vocab], any values: see SamplerCandidates::assign. Allocates nothing.
  [[nodiscard]] std::int32_t sample(std::span<const float> logits);

  /// Number of the next draw; seek(i) continues as if i draws had been made (steps' own memory aside).
  [[nodiscard]] std::uint64_t position() const { return position_; }
  void seek(std::uint64_t position) { position_ = position; }

 private:
  std::vector<std::unique_ptr<SamplerStep>> chain_;
  std::shared_ptr<SamplerCandidates> candidates_;
  std::uint64_t seed_ = 0;
  std::uint64_t position_ = 0;
  bool greedy_ = false;
};

/// Index of the largest logit, the lowest where several are equal; NaN counts as -infinity. 0 where nothing is above that.
[[nodiscard]] std::int32_t greedy_token(std::span<const float> logits);

/// Natural logarithm of a token's probability under the raw logits (before any step).
struct TokenLogProbability {
  std::int32_t token = 0;
  float log_probability = 0.0F;
};
struct LogProbabilities {
  TokenLogProbability chosen;
  std::vector<TokenLogProbability> top;  ///< likeliest first, equal ones in the order of tokens
};
/// Of `chosen` and of the `top` likeliest tokens. NaN counts as -infinity; sums in double.
[[nodiscard]] LogProbabilities log_probabilities(std::span<const float> logits, std::int32_t chosen, std::int64_t top);

}  // namespace quern
