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

class GgufFile;

enum class TokenizerKind : std::uint8_t {
  bytes,           ///< 256 ids, one per byte
  characters,      ///< the Unicode characters of one text, sorted; others cannot be encoded
  bpe,             ///< byte-level byte-pair encoding with GPT-2's pieces, trained here
  byte_level_bpe,  ///< byte-level byte-pair encoding of a published model
  sentencepiece    ///< byte-pair merges over characters, of a published model: spaces are U+2581, rare characters bytes
};
[[nodiscard]] std::string_view tokenizer_kind_name(TokenizerKind kind);

/// What a token is for; the values are GGUF's.
enum class TokenKind : std::uint8_t {
  normal = 1,
  unknown = 2,       ///< stands for what no token stands for
  control = 3,       ///< structure (begin, end, turns): made from text only where the caller asks for it
  user_defined = 4,  ///< recognised in any text before the model of words sees it
  unused = 5,
  byte = 6  ///< one byte of a character without a token of its own
};

/// The tokens that have a role, and what a vocabulary puts around and in front of a text.
struct SpecialTokens {
  std::optional<std::int32_t> bos, eos;  ///< begin and end of a text
  std::optional<std::int32_t> eot, eom;  ///< end of a turn, of a message
  std::optional<std::int32_t> unknown, padding, separator, mask;
  std::optional<std::int32_t> fim_prefix, fim_suffix, fim_middle;  ///< fill in the middle
  bool add_bos = false;                                            ///< a text begins with bos
  bool add_eos = false;                                            ///< a text ends with eos
  bool add_space_prefix = false;  ///< a text gets a space in front, which decoding takes away again
};

struct EncodeOptions {
  bool parse_special = false;  ///< control and unknown tokens that the text spells out become those tokens
  bool add_special = false;    ///< put bos and eos around the tokens where the vocabulary says so (SpecialTokens)
  bool continues = false;      ///< the text goes on where another ended: no space is put in front of it
};

struct DecodeOptions {
  bool special = true;  ///< write the names of control and unknown tokens; false: leave them out
  /// Take away the space that encoding put in front of a text. False where the tokens continue an earlier text.
  bool text_start = true;
};

/// Text of the special token that ends a document.
inline constexpr std::string_view kEndOfText = "<|endoftext|>";

namespace internal {
struct TokenizerData;
struct TokenizerAccess;
}  // namespace internal

/// A tokenizer: an immutable value, cheap to copy, safe to share between threads. decode(encode(text)) == text for every
/// text that encodes: any bytes with `bytes` and `bpe`, text of known characters with `characters`; a published vocabulary
/// may normalize (docs/tokenizers.md). Control tokens are made from text only where EncodeOptions asks for it: text of
/// strangers must not be able to end a turn. The longest one wins, from left to right.
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
  /// Published vocabularies that tokenizer.json cannot say give to_json(); huggingface_tokenizer_files() says why.
  [[nodiscard]] std::string to_huggingface_json() const;

  /// The tokenizer of a GGUF model: `tokenizer.ggml.model` llama (SentencePiece with scores), gpt2 (byte-level BPE with the
  /// pre-tokenizer that `tokenizer.ggml.pre` names) or gemma4. Errors name the file and the key.
  [[nodiscard]] static Result<Tokenizer> from_gguf(const GgufFile& file);
  /// Hugging Face's tokenizer.json with a BPE model; `where` names the file in errors. What a file asks for and this library
  /// does not do is a `bad_input` error that names it. The text is not trusted.
  [[nodiscard]] static Result<Tokenizer> from_huggingface_json(std::string_view json, std::string_view where);

  [[nodiscard]] TokenizerKind kind() const;
  /// Number of ids, special ones included.
  [[nodiscard]] std::int64_t vocab_size() const;
  /// The token that ends a document; of published vocabularies eos.
  [[nodiscard]] std::optional<std::int32_t> end_of_text() const;
  /// Whether a token is control or unknown.
  [[nodiscard]] bool is_special(std::int32_t id) const;
  /// `unused` for ids outside the vocabulary.
  [[nodiscard]] TokenKind token_kind(std::int32_t id) const;
  [[nodiscard]] const SpecialTokens& special_tokens() const;
  /// The tokens after which a model has said all it will say (eos, end of turn, ...), ascending. Valid as long as any copy.
  [[nodiscard]] std::span<const std::int32_t> end_of_generation() const;
  [[nodiscard]] bool ends_generation(std::int32_t id) const;
  /// The token with this name (special ones) or these bytes.
  [[nodiscard]] std::optional<std::int32_t> find_token(std::string_view text) const;
  /// A token as its vocabulary spells it: "\u2581Hello", "<0x0A>", "\u0120the"; empty for ids outside.
  [[nodiscard]] std::string token_text(std::int32_t id) const;

  /// Bytes of a token; a special token's name; empty for ids outside the vocabulary. Valid as long as any copy.
  [[nodiscard]] std::string_view token_bytes(std::int32_t id) const;

  /// Error bad_input names a character, or byte that is not UTF-8, that has no token (`characters`, and published
  /// vocabularies without bytes and without an unknown token). Deterministic; O(n log n).
  [[nodiscard]] Result<std::vector<std::int32_t>> encode(std::string_view text, EncodeOptions options = {}) const;
  /// The same, appended to `tokens`, which is unchanged on an error.
  [[nodiscard]] Result<void> encode_append(std::string_view text, std::vector<std::int32_t>& tokens,
                                           EncodeOptions options = {}) const;

  /// The tokens' bytes, one after another; see token_bytes.
  [[nodiscard]] std::string decode(std::span<const std::int32_t> tokens, DecodeOptions options = {}) const;

  friend bool operator==(const Tokenizer& a, const Tokenizer& b);

 private:
  friend class StreamingDecoder;
  friend struct internal::TokenizerAccess;
  explicit Tokenizer(std::shared_ptr<const internal::TokenizerData> data) : data_(std::move(data)) {}
  std::shared_ptr<const internal::TokenizerData> data_;
};

/// Decodes a stream of tokens for display: what comes out never ends inside a character that a later token may complete.
class StreamingDecoder {
 public:
  explicit StreamingDecoder(Tokenizer tokenizer, DecodeOptions options = {})
      : tokenizer_(std::move(tokenizer)), options_(options), text_start_(options.text_start) {}
  /// The text that has become complete with this token, maybe empty. All pieces and finish() together are decode()'s text.
  [[nodiscard]] std::string push(std::int32_t token);
  /// What is left: at most three bytes of an unfinished character.
  [[nodiscard]] std::string finish();

 private:
  Tokenizer tokenizer_;
  DecodeOptions options_;
  bool text_start_ = true;
  std::string pending_;
};

}  // namespace quern
