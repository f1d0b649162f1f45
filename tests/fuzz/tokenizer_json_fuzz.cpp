// Tokenizer files of strangers: reading must end in an error or a tokenizer that encodes any text and decodes it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "model/tokenizer.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quern;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  // The text to encode stands after the file, behind a zero byte.
  const std::size_t zero = input.find('\0');
  const std::string_view json = input.substr(0, zero);
  const std::string_view text =
      zero == std::string_view::npos ? std::string_view("the  <s>cab\xC3\xA9\xFF 12\n") : input.substr(zero + 1);
  for (const auto& tokenizer : {Tokenizer::from_huggingface_json(json, "fuzz"), Tokenizer::from_json(json, "fuzz")}) {
    if (!tokenizer) {
      if (tokenizer.error().message.empty()) std::abort();
      continue;
    }
    for (const bool special : {false, true}) {
      const auto tokens = tokenizer->encode(text, {.parse_special = special, .add_special = special});
      if (!tokens) continue;
      for (const std::int32_t token : *tokens) {
        if (token < 0 || token >= tokenizer->vocab_size()) std::abort();
        if (tokenizer->token_kind(token) == TokenKind::control && !special) std::abort();
      }
      StreamingDecoder stream(*tokenizer);
      std::string streamed;
      for (const std::int32_t token : *tokens) streamed += stream.push(token);
      if (streamed + stream.finish() != tokenizer->decode(*tokens)) std::abort();
    }
  }
  return 0;
}
