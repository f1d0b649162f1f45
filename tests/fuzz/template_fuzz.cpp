// Chat templates from strangers: the input is a template, a line of its own "----", and a context (both are arbitrary);
// without that line the context is a small conversation. What renders is also told apart as an answer would be.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "infer/chat_answer.hpp"
#include "infer/chat_template.hpp"
#include "infer/jinja_interpreter.hpp"
#include "infer/jinja_json.hpp"

namespace {

constexpr std::string_view kContext =
    R"({"messages": [{"role": "system", "content": " S "}, {"role": "user", "content": "naïve ❤️"},
        {"role": "assistant", "content": "A", "tool_calls": [{"function": {"name": "f", "arguments": {"x": [1, 2.5, null]}}}]}],
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "add_generation_prompt": true, "bos_token": "<s>", "eos_token": "</s>", "n": 7, "l": [3, 1, 2], "d": {"b": 1, "a": 2}})";

/// Renders with bounds that keep each input under a second under sanitizers.
void render(std::string_view text, std::string_view context_json) {
  quern::jinja::Limits limits;
  limits.steps = 300'000;
  limits.memory_bytes = std::size_t{1} << 24;
  limits.output_bytes = std::size_t{1} << 20;
  try {
    const quern::jinja::Block body = quern::jinja::parse_template(text);
    quern::jinja::Heap heap(limits);
    const quern::jinja::Value context = quern::jinja::read_json(heap, context_json);
    if (!context.is(quern::jinja::Kind::dict)) return;
    (void)quern::jinja::Interpreter(heap, limits, context, {}).render(body);
  } catch (const quern::jinja::Failure& failure) {
    if (failure.message.empty()) std::abort();
  }
}

void tell_apart(std::string_view text) {
  for (const auto style : {quern::AnswerStyle::plain, quern::AnswerStyle::tags, quern::AnswerStyle::channels}) {
    quern::AnswerParser parser(style, text.substr(0, text.size() / 2));
    for (std::size_t at = text.size() / 2; at < text.size();) {
      const std::size_t size = 1 + static_cast<unsigned char>(text[at]) % 12;
      const std::string_view token = text.substr(at, size);
      for (const auto& piece : parser.push(token, token.starts_with("<|"))) {
        if (piece.text.empty()) std::abort();
      }
      at += token.size();
    }
    (void)parser.finish();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::size_t line = input.find("\n----\n");
  const bool has_context = line != std::string_view::npos;
  render(input.substr(0, line), has_context ? input.substr(line + 6) : kContext);
  tell_apart(input);
  return 0;
}
