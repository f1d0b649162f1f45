// Tokenizer.bin files of llama2.c of strangers: reading must end in an error or a tokenizer that encodes any text and
// decodes it.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "model/tokenizer_internal.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace quern;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string_view text("the  <s>cab\xC3\xA9\xFF 12\n");
  // The last byte says how many tokens there are beyond those that must be.
  const std::int64_t vocab = size == 0 ? 0 : 259 + data[size - 1];
  const auto read = internal::parse_llama2c_tokenizer(input.substr(0, size == 0 ? 0 : size - 1), vocab, "fuzz");
  if (!read) {
    if (read.error().message.empty()) std::abort();
    return 0;
  }
  const Tokenizer& tokenizer = *read;
  const auto tokens = tokenizer.encode(text);
  if (!tokens) return 0;
  for (const std::int32_t token : *tokens) {
    if (token < 0 || token >= tokenizer.vocab_size()) std::abort();
    if (tokenizer.token_kind(token) == TokenKind::control) std::abort();
  }
  static_cast<void>(tokenizer.decode(*tokens));
  return 0;
}
