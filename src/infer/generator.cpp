#include "infer/generator.hpp"

#include <utility>

#include "infer/engine.hpp"

namespace quern {

namespace {

/// Steps an engine that has one request until this ends.
Result<Generation> run(Engine& engine, RequestId id, const std::function<bool(const EngineEvent&)>& on_event) {
  Generation result;
  bool cancelled = false;
  for (bool finished = false; !finished;) {
    bool ignored = false;  // what a step drew beyond the token at which the caller stopped
    for (const EngineEvent& event : engine.step()) {
      if (event.error) return tl::make_unexpected(*event.error);
      if (event.finished && ignored) {
        finished = true;
        result.stop = StopReason::interrupted;
        result.timings = event.timings;
      }
      if (ignored) continue;
      if (event.token) result.tokens.push_back(*event.token);
      if (event.token && event.log_probabilities) result.log_probabilities.push_back(*event.log_probabilities);
      result.text += event.text;
      if (event.finished) {
        finished = true;
        result.stop = *event.finished;
        result.end_token = event.end_token;
        result.timings = event.timings;
      }
      if (on_event && !on_event(event) && !cancelled) {
        engine.cancel(id);
        cancelled = ignored = true;
      }
    }
  }
  result.prompt_tokens = result.timings.prompt_tokens;
  result.prefill_seconds = result.timings.prefill_seconds;
  result.decode_seconds = result.timings.decode_seconds;
  return result;
}

/// One request at a time shares nothing.
constexpr EngineOptions kAlone{.sequences = 1, .longest_turn = 0, .share_prefixes = false};

}  // namespace

std::int64_t drawn_vocab(const Tokenizer& tokenizer) {
  std::int64_t count = tokenizer.vocab_size();
  while (count > 1 && tokenizer.token_kind(static_cast<std::int32_t>(count - 1)) == TokenKind::unused) --count;
  return count;
}

Result<std::vector<std::int32_t>> encode_prompt(const Tokenizer& tokenizer, std::string_view prompt) {
  Result<std::vector<std::int32_t>> tokens;
  if (!prompt.empty()) tokens = tokenizer.encode(prompt);
  const SpecialTokens& special = tokenizer.special_tokens();
  if (tokens && special.add_bos && special.bos) tokens->insert(tokens->begin(), *special.bos);
  if (!tokens || !tokens->empty()) return tokens;
  if (tokenizer.end_of_text()) return std::vector<std::int32_t>{*tokenizer.end_of_text()};
  return tokenizer.encode("\n");
}

Result<Generation> generate(Decoder& decoder, const Tokenizer* tokenizer, const Request& request,
                            const std::function<bool(const EngineEvent&)>& on_event, const SpeculationOptions& speculation) {
  EngineOptions options = kAlone;
  options.speculation = speculation;
  auto engine = Engine::create(decoder, tokenizer, options);
  if (!engine) return tl::make_unexpected(engine.error());
  const auto id = (*engine)->submit(request);
  if (!id) return tl::make_unexpected(id.error());
  return run(**engine, *id, on_event);
}

Result<Generation> generate(Decoder& decoder, std::span<const std::int32_t> prompt, Sampler& sampler,
                            const GenerateOptions& options, const std::function<bool(std::int32_t token)>& on_token) {
  EngineOptions alone = kAlone;
  alone.vocab = options.vocab;
  auto engine = Engine::create(decoder, nullptr, alone);
  if (!engine) return tl::make_unexpected(engine.error());
  Request request{.prompt = {prompt.begin(), prompt.end()}, .when_full = FullContext::shift};
  request.stop.max_tokens = options.max_tokens;
  request.stop.end_tokens = options.end_tokens;
  const auto id = (*engine)->submit(std::move(request), sampler);
  if (!id) return tl::make_unexpected(id.error());
  return run(**engine, *id, [&](const EngineEvent& event) { return !event.token || !on_token || on_token(*event.token); });
}

}  // namespace quern
