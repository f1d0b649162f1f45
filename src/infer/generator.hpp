// Text for one prompt: a request on an engine of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "infer/decoder.hpp"
#include "infer/request.hpp"
#include "infer/sampler.hpp"
#include "infer/speculation.hpp"
#include "math/result.hpp"
#include "model/tokenizer.hpp"

namespace quern {

/// A prompt as tokens, after the beginning-of-text token where the vocabulary puts one. Names of special tokens in it are
/// plain text. One that is empty otherwise becomes the end-of-text token, which begins documents, or a newline where the
/// tokenizer has none.
[[nodiscard]] Result<std::vector<std::int32_t>> encode_prompt(const Tokenizer& tokenizer, std::string_view prompt);

/// How many tokens can be drawn: those below this. Unused tokens that end a vocabulary are rows that pad its embeddings (as
/// converted files list them).
[[nodiscard]] std::int64_t drawn_vocab(const Tokenizer& tokenizer);

struct Generation {
  std::vector<std::int32_t> tokens;  ///< without the prompt and the end token
  std::string text;                  ///< of the tokens, without a stop string; empty without a tokenizer
  StopReason stop = StopReason::token_limit;
  std::optional<std::int32_t> end_token{};          ///< that ended it
  std::vector<LogProbabilities> log_probabilities;  ///< of `tokens`, where the request asks for them
  std::int64_t prompt_tokens = 0;
  double prefill_seconds = 0.0;
  double decode_seconds = 0.0;
  RequestTimings timings;
};

/// Runs one request to its end on the decoder (made without all_logits), whose cache it needs for itself. `on_event` (may be
/// empty) sees each event as it comes and stops the generation by returning false. `tokenizer` may be null: see Engine.
/// Deterministic: the same decoder settings and request give the same tokens at any thread count.
/// `speculation` changes how fast, not what; the decoder's logit_rows bound its proposals.
[[nodiscard]] Result<Generation> generate(Decoder& decoder, const Tokenizer* tokenizer, const Request& request,
                                          const std::function<bool(const EngineEvent& event)>& on_event = {},
                                          const SpeculationOptions& speculation = {});

struct GenerateOptions {
  std::int64_t max_tokens = 100;
  std::vector<std::int32_t> end_tokens{};  ///< end the text and are not part of it
  std::int64_t vocab = 0;                  ///< only tokens below are drawn; 0: all
};

/// The same for tokens alone and with a sampler of the caller's. When the context is full, the older half is forgotten and
/// the newer half is computed again at positions from 0, so any length can be generated; of a prompt longer than the context
/// its last tokens count.
[[nodiscard]] Result<Generation> generate(Decoder& decoder, std::span<const std::int32_t> prompt, Sampler& sampler,
                                          const GenerateOptions& options,
                                          const std::function<bool(std::int32_t token)>& on_token = {});

}  // namespace quern
