// What a Tokenizer holds; only its own sources include this.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "model/bpe.hpp"
#include "model/byte_bpe.hpp"
#include "model/character_bpe.hpp"
#include "model/pretokenizer.hpp"
#include "model/special_matcher.hpp"
#include "model/text_index.hpp"
#include "model/text_normalizer.hpp"
#include "model/tokenizer.hpp"

namespace quern::internal {

/// A published vocabulary as files describe it; whatever the file, it becomes one of these first.
struct VocabularyDescription {
  TokenizerKind kind = TokenizerKind::byte_level_bpe;
  std::vector<std::string> texts;  ///< as the vocabulary spells them; special tokens' own text
  std::vector<TokenKind> kinds;    ///< one per text
  /// sentencepiece: one per text, and no merges; or none, and merges.
  std::vector<float> scores;
  std::vector<std::pair<std::string, std::string>> merges;  ///< spelled like the texts, in their order of preference
  std::vector<SplitRule> split_rules;
  std::string pretokenizer_name;  ///< GGUF's name for split_rules, where they came by name
  bool ignore_merges = false;
  bool byte_fallback = false;  ///< sentencepiece: use the byte tokens
  bool fuse_unknown = false;
  bool marks_spaces = true;                   ///< sentencepiece: U+2581 in tokens is a space
  std::vector<NormalizerStep> normalizer;     ///< before special tokens of `normalized` are looked for
  std::vector<NormalizerStep> word_spelling;  ///< after
  /// Texts by which special tokens are recognised; `normalized` ones in the normalized text.
  std::vector<SpecialText> special, normalized;
  bool strips_prefix = false;         ///< decoding takes one space from the start of the text
  bool strips_after_special = false;  ///< and from what follows a special token
  SpecialTokens roles;
};

/// A published vocabulary, ready for use. The bytes of its tokens are TokenizerData::tokens.
struct PublishedVocabulary {
  VocabularyDescription source;  // without merges, which the two below have in another form
  std::vector<TokenKind> kinds;
  std::vector<std::int32_t> ends;          // end of generation, ascending
  std::vector<std::int32_t> always_shown;  // control tokens that decoding never leaves out
  SpecialMatcher user_defined, all;        // in the text
  SpecialMatcher normalized_user_defined, normalized_all;
  Pretokenizer pretokenizer;
  ByteBpe byte_bpe;
  CharacterBpe character_bpe;
  CharacterFallback fallback;
  TextIndex ids;  // names of special tokens, bytes of others
};

struct TokenizerData {
  TokenizerKind kind = TokenizerKind::bytes;
  std::vector<std::string> tokens;  // bytes of each id; a special token's name
  std::int32_t end_of_text = -1;    // own kinds: always the last id; -1: none
  SpecialTokens roles;              // own kinds: eos = end of text

  // characters
  std::vector<std::int32_t> code_points;
  std::array<std::int32_t, 128> ascii_ids{};  // -1: not in the vocabulary

  // bpe
  std::vector<TokenPair> merge_pairs;
  BpeMerges merges;
  Pretokenizer pretokenizer;

  // byte_level_bpe, sentencepiece
  std::unique_ptr<PublishedVocabulary> published;
};

/// What the readers and writers of files need of a Tokenizer.
struct TokenizerAccess {
  [[nodiscard]] static const TokenizerData& data(const Tokenizer& tokenizer) { return *tokenizer.data_; }
  [[nodiscard]] static Tokenizer make(std::shared_ptr<const TokenizerData> data) { return Tokenizer(std::move(data)); }
};

/// The token with this name (special ones) or these bytes, -1: none.
[[nodiscard]] std::int32_t find_published(const TokenizerData& data, std::string_view text);

/// The key of GGUF files in which we keep text_handling_to_json() where it is not what add_gguf_text_handling() gives.
inline constexpr std::string_view kTextHandlingKey = "quern.tokenizer";

/// Sets what a GGUF vocabulary does with a text beside its tokens, which follows from the rest: how spaces are spelled and
/// which texts are special. `phi3`: special tokens take the white space after them.
void add_gguf_text_handling(VocabularyDescription& description, bool phi3);

/// What a tokenizer.json says. Errors name the key, not the file.
[[nodiscard]] Result<VocabularyDescription> describe_huggingface(std::string_view json);

/// llama2.c's tokenizer.bin from memory; `where` names it in errors. See load_llama2c_tokenizer.
[[nodiscard]] Result<Tokenizer> parse_llama2c_tokenizer(std::string_view bytes, std::int64_t vocab, std::string_view where);

/// Checks a description and makes a tokenizer's data of it. Errors do not name the file.
[[nodiscard]] Result<std::shared_ptr<const TokenizerData>> build_published(VocabularyDescription description);

/// A published vocabulary's description, merges included: build_published makes the same vocabulary of it.
[[nodiscard]] VocabularyDescription describe_published(const TokenizerData& data);

/// The same as JSON (an object; the keys are the description's), and back. Errors do not name the file. `with_name`: with
/// the pre-tokenizer's name, of which one set of expressions may have several.
[[nodiscard]] std::string published_to_json(const TokenizerData& data, bool with_name = true);
[[nodiscard]] Result<VocabularyDescription> published_from_json(std::string_view json);

/// What a description says of texts beside its tokens (normalizer, spelling, special texts, what decoding takes away) as
/// JSON, and back into another description.
[[nodiscard]] std::string text_handling_to_json(const VocabularyDescription& description);
[[nodiscard]] Result<void> text_handling_from_json(std::string_view json, VocabularyDescription& description);

/// Appends the tokens of a text; `tokens` may have grown on an error.
[[nodiscard]] Result<void> encode_published(const TokenizerData& data, std::string_view text, EncodeOptions options,
                                            std::vector<std::int32_t>& tokens);

/// Appends what decoding writes for one token; `text_start` says whether the next ordinary token begins the text. False for
/// ids outside the vocabulary.
bool decode_token(const TokenizerData& data, std::int32_t id, DecodeOptions options, bool& text_start, std::string& text);

/// Whether a token of this name ends an answer in every vocabulary that has it ("</s>", "<|im_end|>", ...).
[[nodiscard]] bool names_end_of_generation(std::string_view text);

/// Makes such tokens control where a file calls them user-defined, as some files do: what people type must not become them.
void reserve_ends_of_generation(VocabularyDescription& description);

/// Tokens after which generation ends: those with the roles eos, eot and eom, and those whose text says so.
[[nodiscard]] std::vector<std::int32_t> find_ends_of_generation(const std::vector<std::string>& texts,
                                                                const std::vector<TokenKind>& kinds,
                                                                const SpecialTokens& roles);

}  // namespace quern::internal
