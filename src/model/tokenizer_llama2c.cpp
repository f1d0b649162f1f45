// llama2.c's tokenizer.bin: a SentencePiece vocabulary's texts and scores.
#include <fmt/format.h>

#include <bit>
#include <cmath>
#include <cstring>

#include "model/atomic_file.hpp"
#include "model/file_kind.hpp"
#include "model/tokenizer_files.hpp"
#include "model/tokenizer_internal.hpp"
#include "model/utf8.hpp"

namespace quern {
namespace {

constexpr std::size_t kMaxFileBytes = std::size_t{1} << 30;
constexpr std::int64_t kMaxTokens = std::int64_t{1} << 24;

// Little-endian, as llama2.c's exporter writes on the machines that it runs on.
std::uint32_t read_u32(std::string_view bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) value |= std::uint32_t{static_cast<unsigned char>(bytes[at + i])} << (8 * i);
  return value;
}

}  // namespace

Result<Tokenizer> internal::parse_llama2c_tokenizer(std::string_view bytes, std::int64_t vocab, std::string_view where) {
  const auto wrong = [where](const std::string& what) {
    return bad_input(fmt::format("{}: tokenizer.bin of llama2.c: {}", where, what));
  };
  if (vocab < 1 || vocab > kMaxTokens) return wrong(fmt::format("expected 1 to {} tokens, asked for {}", kMaxTokens, vocab));
  if (bytes.size() < 4) return wrong(fmt::format("expected at least 4 bytes, found {}", bytes.size()));
  const std::uint32_t longest = read_u32(bytes, 0);
  if (longest == 0 || longest > kMaxTokenBytes) {
    return wrong(fmt::format("expected a longest token of 1 to {} bytes, found {}", kMaxTokenBytes, longest));
  }
  if ((bytes.size() - 4) / 8 < static_cast<std::size_t>(vocab)) {
    return wrong(fmt::format("expected {} tokens, which the file's {} bytes cannot hold", vocab, bytes.size()));
  }
  VocabularyDescription description;
  description.kind = TokenizerKind::sentencepiece;
  std::size_t at = 4;
  for (std::int64_t id = 0; id < vocab; ++id) {
    if (bytes.size() - at < 8) return wrong(fmt::format("expected {} tokens, found {}", vocab, id));
    const auto score = std::bit_cast<float>(read_u32(bytes, at));
    const std::uint32_t length = read_u32(bytes, at + 4);
    at += 8;
    // Not compared with the longest one's: exporters counted that in different ways.
    if (length > kMaxTokenBytes || length > bytes.size() - at) {
      return wrong(fmt::format("token {} has {} bytes, but {} are left in the file", id, length, bytes.size() - at));
    }
    if (!std::isfinite(score)) return wrong(fmt::format("the score of token {} is not a number", id));
    description.texts.emplace_back(bytes.substr(at, length));
    description.scores.push_back(score);
    at += length;
  }
  if (at != bytes.size()) {
    return wrong(fmt::format("expected {} tokens, found {} bytes behind them", vocab, bytes.size() - at));
  }
  // The exporter kept neither types nor names: SentencePiece's order is the first three tokens' role, and bytes follow.
  description.kinds.assign(static_cast<std::size_t>(vocab), TokenKind::normal);
  constexpr std::size_t kFirstByte = 3;
  const char* const names[] = {"<unk>", "<s>", "</s>"};
  if (description.texts.size() < kFirstByte + 256) {
    return wrong(fmt::format("expected <unk>, <s>, </s>, 256 bytes and what they make, found {} tokens", vocab));
  }
  for (std::size_t id = 0; id < kFirstByte; ++id) {
    description.texts[id] = names[id];
    description.kinds[id] = id == 0 ? TokenKind::unknown : TokenKind::control;
  }
  for (std::size_t byte = 0; byte < 256; ++byte) {
    std::string& text = description.texts[kFirstByte + byte];
    const std::string expected = fmt::format("<0x{:02X}>", byte);
    if (text != expected) {
      return wrong(fmt::format("expected the token {} to be {}, found \"{}\"", kFirstByte + byte, expected, text));
    }
    description.kinds[kFirstByte + byte] = TokenKind::byte;
  }
  for (std::size_t id = kFirstByte + 256; id < description.texts.size(); ++id) {
    std::string& text = description.texts[id];
    if (text.empty() || find_invalid_utf8(text) != std::string_view::npos) {
      return wrong(fmt::format("token {} is not a text in UTF-8", id));
    }
    text = replace_all(text, " ", kSpaceMark);
  }
  description.byte_fallback = true;
  description.roles.unknown = 0;
  description.roles.bos = 1;
  description.roles.eos = 2;
  description.roles.add_bos = description.roles.add_space_prefix = true;
  internal::add_gguf_text_handling(description, false);
  auto data = build_published(std::move(description));
  if (!data) return wrong(data.error().message);
  return TokenizerAccess::make(std::move(*data));
}

Result<Tokenizer> load_llama2c_tokenizer(const std::string& path, std::int64_t vocab) {
  if (const auto start = read_file_start(path); !start) return tl::make_unexpected(start.error());  // no such file
  const auto bytes = read_whole_file(path, kMaxFileBytes);
  if (!bytes) return tl::make_unexpected(bytes.error());
  return internal::parse_llama2c_tokenizer(*bytes, vocab, path);
}

}  // namespace quern
