// Text from a decoder: prefill a prompt in chunks, then sample token by token.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "infer/decoder.hpp"
#include "infer/sampler.hpp"
#include "math/result.hpp"
#include "model/tokenizer.hpp"

namespace quern {

/// A prompt as tokens. An empty one becomes the end-of-text token, which begins documents, or a newline where the tokenizer
/// has none.
[[nodiscard]] Result<std::vector<std::int32_t>> encode_prompt(const Tokenizer& tokenizer, std::string_view prompt);

/// Why a generation ended.
enum class StopReason : std::uint8_t {
  token_limit,  ///< max_tokens were generated
  end_of_text,  ///< the model produced end_token
  interrupted   ///< the callback returned false
};

struct GenerateOptions {
  std::int64_t max_tokens = 100;
  std::optional<std::int32_t> end_token{};  ///< ends the text and is not part of it
};

struct Generation {
  std::vector<std::int32_t> tokens;  ///< without the prompt and the end token
  StopReason stop = StopReason::token_limit;
  std::int64_t prompt_tokens = 0;
  double prefill_seconds = 0.0;
  double decode_seconds = 0.0;
};

/// Continues `prompt` (at least one token) on a new sequence of the decoder's cache, which is given back at the end. When
/// the context is full, the older half is forgotten and the newer half is computed again at positions from 0, so any
/// length can be generated. `on_token` (may be empty) sees each token as it comes and stops the generation by returning
/// false. Deterministic: the same decoder settings, prompt and sampler state give the same tokens at any thread count.
[[nodiscard]] Result<Generation> generate(Decoder& decoder, std::span<const std::int32_t> prompt, Sampler& sampler,
                                          const GenerateOptions& options,
                                          const std::function<bool(std::int32_t token)>& on_token = {});

}  // namespace quern
