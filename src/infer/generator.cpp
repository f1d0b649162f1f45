#include "infer/generator.hpp"

#include <algorithm>
#include <chrono>

namespace quern {

namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Puts `tokens` into the sequence, in chunks of at most the decoder's batch.
Result<void> prefill(Decoder& decoder, KvCache::SequenceId sequence, std::span<const std::int32_t> tokens) {
  const auto batch = static_cast<std::size_t>(decoder.limits().batch_tokens);
  while (!tokens.empty()) {
    const SequenceTokens entry{sequence, tokens.first(std::min(batch, tokens.size()))};
    if (auto done = decoder.forward(std::span(&entry, 1)); !done) return done;
    tokens = tokens.subspan(entry.tokens.size());
  }
  return {};
}

Result<Generation> generate_on(Decoder& decoder, KvCache::SequenceId sequence, std::span<const std::int32_t> prompt,
                               Sampler& sampler, const GenerateOptions& options,
                               const std::function<bool(std::int32_t)>& on_token) {
  const std::int64_t context = decoder.limits().context_tokens;
  Generation result;
  result.prompt_tokens = std::ssize(prompt);
  result.tokens.reserve(static_cast<std::size_t>(options.max_tokens));
  std::vector<std::int32_t> text(prompt.begin(), prompt.end());

  const auto start = std::chrono::steady_clock::now();
  const auto first = static_cast<std::size_t>(std::max<std::int64_t>(0, std::ssize(text) - context));
  if (auto done = prefill(decoder, sequence, std::span(text).subspan(first)); !done)
    return tl::make_unexpected(done.error());
  result.prefill_seconds = seconds_since(start);

  const auto decode_start = std::chrono::steady_clock::now();
  const std::int64_t logit_row = 0;
  while (std::ssize(result.tokens) < options.max_tokens) {
    const std::int32_t token = sampler.sample(decoder.logits(logit_row));
    if (options.end_token && token == *options.end_token) {
      result.stop = StopReason::end_of_text;
      break;
    }
    result.tokens.push_back(token);
    text.push_back(token);
    if (on_token && !on_token(token)) {
      result.stop = StopReason::interrupted;
      break;
    }
    if (std::ssize(result.tokens) == options.max_tokens) break;
    if (decoder.cache().length(sequence) < context) {
      const SequenceTokens entry{sequence, std::span(&text.back(), 1)};
      if (auto done = decoder.forward(std::span(&entry, 1)); !done) return tl::make_unexpected(done.error());
    } else {
      decoder.cache().truncate(sequence, 0);
      const std::int64_t keep = std::max<std::int64_t>(1, context / 2);
      if (auto done = prefill(decoder, sequence, std::span(text).last(static_cast<std::size_t>(keep))); !done) {
        return tl::make_unexpected(done.error());
      }
    }
  }
  result.decode_seconds = seconds_since(decode_start);
  return result;
}

}  // namespace

Result<std::vector<std::int32_t>> encode_prompt(const Tokenizer& tokenizer, std::string_view prompt) {
  if (!prompt.empty()) return tokenizer.encode(prompt);
  if (tokenizer.end_of_text()) return std::vector<std::int32_t>{*tokenizer.end_of_text()};
  return tokenizer.encode("\n");
}

Result<Generation> generate(Decoder& decoder, std::span<const std::int32_t> prompt, Sampler& sampler,
                            const GenerateOptions& options, const std::function<bool(std::int32_t token)>& on_token) {
  if (prompt.empty()) return bad_input("generation: the prompt has no tokens");
  if (decoder.limits().all_logits) return bad_input("generation: the decoder must be made without all_logits");
  auto sequence = decoder.cache().add_sequence();
  if (!sequence) return tl::make_unexpected(sequence.error());
  auto result = generate_on(decoder, *sequence, prompt, sampler, options, on_token);
  decoder.cache().remove_sequence(*sequence);
  return result;
}

}  // namespace quern
