// Text to token ids and back.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "math/result.hpp"
#include "model/bpe.hpp"

namespace quern {

enum class TokenizerKind : std::uint8_t {
  bytes,       ///< 256 ids, one per byte
  characters,  ///< the Unicode characters of one text, sorted; others cannot be encoded
  bpe          ///< byte-level byte-pair encoding with GPT-2's pieces
};
[[nodiscard]] std::string_view tokenizer_kind_name(TokenizerKind kind);

/// Text of the special token that ends a document.
inline constexpr std::string_view kEndOfText = "<|endoftext|>";

namespace internal {
struct TokenizerData;
}

/// A tokenizer: an immutable value, cheap to copy, safe to share between threads. decode(encode(text)) == text for every
/// text that encodes: any bytes with `bytes` and `bpe`, text of known characters with `characters`. Special tokens are never
/// made from text; a caller puts their ids where they belong.
class Tokenizer {
 public:
  /// The byte tokenizer without special tokens.
  Tokenizer();
  /// Ids 0 to 255, and 256 for end of text where asked for.
  [[nodiscard]] static Tokenizer bytes(bool end_of_text);
  /// Ids in the code points' order, which must ascend strictly (valid ones, no surrogates); end of text comes last.
  [[nodiscard]] static Result<Tokenizer> characters(std::span<const std::int32_t> code_points, bool end_of_text);
  /// Ids 0 to 255 are the bytes, then the merges' results (see build_bpe_vocabulary), then end of text.
  [[nodiscard]] static Result<Tokenizer> bpe(std::span<const TokenPair> merges, bool end_of_text);

  /// Self-describing JSON, as kept in corpora and checkpoints, and back. `where` names the file in errors; the text is not
  /// trusted.
  [[nodiscard]] std::string to_json() const;
  [[nodiscard]] static Result<Tokenizer> from_json(std::string_view json, std::string_view where);

  /// The same tokenizer as Hugging Face's tokenizer.json: a BPE model over GPT-2's printable byte alphabet (bytes, and
  /// characters that are all ASCII, as BPE without merges); other characters as BPE without merges over themselves.
  [[nodiscard]] std::string to_huggingface_json() const;

  [[nodiscard]] TokenizerKind kind() const;
  /// Number of ids, special ones included.
  [[nodiscard]] std::int64_t vocab_size() const;
  [[nodiscard]] std::optional<std::int32_t> end_of_text() const;
  [[nodiscard]] bool is_special(std::int32_t id) const;

  /// Bytes of a token; a special token's name; empty for ids outside the vocabulary. Valid as long as any copy.
  [[nodiscard]] std::string_view token_bytes(std::int32_t id) const;

  /// Error bad_input (`characters` only) names the first character, or byte that is not UTF-8, that has no token, and its
  /// byte offset. Deterministic; O(n log n).
  [[nodiscard]] Result<std::vector<std::int32_t>> encode(std::string_view text) const;
  /// The same, appended to `tokens`, which is unchanged on an error.
  [[nodiscard]] Result<void> encode_append(std::string_view text, std::vector<std::int32_t>& tokens) const;

  /// The tokens' bytes, one after another; see token_bytes.
  [[nodiscard]] std::string decode(std::span<const std::int32_t> tokens) const;

  friend bool operator==(const Tokenizer& a, const Tokenizer& b);

 private:
  explicit Tokenizer(std::shared_ptr<const internal::TokenizerData> data) : data_(std::move(data)) {}
  std::shared_ptr<const internal::TokenizerData> data_;
};

/// Decodes a stream of tokens for display: what comes out never ends inside a character that a later token may complete.
class StreamingDecoder {
 public:
  explicit StreamingDecoder(Tokenizer tokenizer) : tokenizer_(std::move(tokenizer)) {}
  /// The text that has become complete with this token, maybe empty. All pieces and finish() together are decode()'s text.
  [[nodiscard]] std::string push(std::int32_t token);
  /// What is left: at most three bytes of an unfinished character.
  [[nodiscard]] std::string finish();

 private:
  Tokenizer tokenizer_;
  std::string pending_;
};

}  // namespace quern
