// SentencePiece's model files of strangers: reading must end in an error or a tokenizer that encodes any text and decodes
// it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "model/sentencepiece_model.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quern;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string_view text("the  <s>cab\xC3\xA9\xFF 12\n");
  auto description = internal::parse_sentencepiece_model(input);
  if (!description) {
    if (description.error().message.empty()) std::abort();
    return 0;
  }
  internal::add_gguf_text_handling(*description, false);
  auto built = internal::build_published(std::move(*description));
  if (!built) return 0;
  const Tokenizer tokenizer = internal::TokenizerAccess::make(std::move(*built));
  const auto tokens = tokenizer.encode(text);
  if (!tokens) return 0;
  for (const std::int32_t token : *tokens) {
    if (token < 0 || token >= tokenizer.vocab_size()) std::abort();
    if (tokenizer.token_kind(token) == TokenKind::control) std::abort();
  }
  static_cast<void>(tokenizer.decode(*tokens));
  return 0;
}
