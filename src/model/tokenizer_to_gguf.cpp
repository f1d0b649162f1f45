// Tokenizers as GGUF metadata: the keys tokenizer.ggml.*.
#include <fmt/format.h>

#include <algorithm>
#include <unordered_set>

#include "model/byte_alphabet.hpp"
#include "model/pretokenizer_names.hpp"
#include "model/regex_dialect.hpp"
#include "model/sentencepiece_ranks.hpp"
#include "model/tokenizer_files.hpp"
#include "model/tokenizer_internal.hpp"

namespace quern {
namespace {

using internal::TokenizerAccess;
using internal::TokenizerData;
using internal::VocabularyDescription;

/// A vocabulary in GGUF's words.
struct GgufVocabulary {
  std::string model, pre;
  std::vector<std::string> texts;
  std::vector<TokenKind> kinds;
  std::vector<float> scores;        // llama
  std::vector<std::string> merges;  // gpt2, gemma4
  SpecialTokens roles;
};

std::string merge_line(std::string_view left, std::string_view right) {
  return spell_bytes(left) + ' ' + spell_bytes(right);
}

// Merges that put characters together from their bytes. First bytes and later bytes of UTF-8 are different bytes, so none of
// them reaches over a character's end.
std::vector<std::string> character_merges(std::span<const std::string> characters) {
  std::vector<std::string> merges;
  std::unordered_set<std::string> known;
  for (const std::string_view character : characters) {
    for (std::size_t bytes = 1; bytes < character.size(); ++bytes) {
      std::string line = merge_line(character.substr(0, bytes), character.substr(bytes, 1));
      if (known.insert(line).second) merges.push_back(std::move(line));
    }
  }
  return merges;
}

// Our own kinds are byte-level BPE with GPT-2's pieces; none of them has a token that reaches over a piece's end.
GgufVocabulary describe_own(const Tokenizer& tokenizer) {
  const TokenizerData& data = TokenizerAccess::data(tokenizer);
  GgufVocabulary vocabulary;
  vocabulary.model = "gpt2";
  vocabulary.pre = "gpt-2";
  for (std::int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    const bool special = tokenizer.is_special(id);
    vocabulary.texts.push_back(special ? std::string(tokenizer.token_bytes(id)) : spell_bytes(tokenizer.token_bytes(id)));
    vocabulary.kinds.push_back(special ? TokenKind::control : TokenKind::normal);
  }
  const auto text = [&](std::int32_t id) { return tokenizer.token_bytes(id); };
  for (const TokenPair& pair : data.merge_pairs) vocabulary.merges.push_back(merge_line(text(pair.left), text(pair.right)));
  if (data.kind == TokenizerKind::characters) {
    vocabulary.merges = character_merges(std::span(data.tokens).first(data.code_points.size()));
  }
  // As GPT-2 has it: the token between documents is also what stands before the first.
  vocabulary.roles.bos = vocabulary.roles.eos = tokenizer.end_of_text();
  return vocabulary;
}

// ---- Published vocabularies

// Whether every normal token is what the merges make of its text, so that taking whole words first changes nothing.
Result<bool> merges_make_every_token(const TokenizerData& data) {
  VocabularyDescription description = internal::describe_published(data);
  description.ignore_merges = false;
  description.split_rules.clear();
  description.special.clear();
  description.normalized.clear();
  description.normalizer.clear();
  description.word_spelling.clear();
  const auto made = internal::build_published(std::move(description));
  if (!made) return tl::make_unexpected(made.error());
  const Tokenizer plain = TokenizerAccess::make(*made);
  std::vector<std::int32_t> ids;
  for (std::int32_t id = 0; id < plain.vocab_size(); ++id) {
    if (plain.token_kind(id) != TokenKind::normal) continue;
    const bool byte_level = data.kind == TokenizerKind::byte_level_bpe;
    const std::string text = byte_level ? std::string(plain.token_bytes(id)) : plain.token_text(id);
    ids.clear();
    if (!plain.encode_append(text, ids) || ids.size() != 1) return false;
  }
  return true;
}

// GGUF's name of what cuts the words.
Result<std::string> name_pretokenizer(const TokenizerData& data, const VocabularyDescription& description) {
  if (!description.pretokenizer_name.empty()) return description.pretokenizer_name;
  const auto names = find_pretokenizer_names(description.split_rules);
  if (names.empty()) {
    // Our bytes and ASCII characters: where nothing is merged, every byte is a token, however words are cut.
    if (description.merges.empty() && !description.ignore_merges) return "gpt-2";
    std::string rules;
    for (const SplitRule& rule : description.split_rules) {
      rules += (rules.empty() ? "" : ", then ") + rule.pattern.substr(0, 200);
    }
    rules = replace_all(replace_all(rules, "\r", "\\r"), "\n", "\\n");
    return bad_input(fmt::format("GGUF has no name for this pre-tokenizer: {}", rules.empty() ? "none" : rules));
  }
  for (const std::string_view name : names) {
    if (named_pretokenizer(name)->ignore_merges == description.ignore_merges) return std::string(name);
  }
  const auto same = merges_make_every_token(data);
  if (!same) return tl::make_unexpected(same.error());
  if (*same) return std::string(names[0]);
  return bad_input(fmt::format("GGUF's pre-tokenizer {} {} whole words that are tokens before it merges; this one does {}",
                               std::string(names[0]), description.ignore_merges ? "does not take" : "takes",
                               description.ignore_merges ? "so" : "not"));
}

Result<void> describe_byte_level(const TokenizerData& data, GgufVocabulary& vocabulary) {
  const VocabularyDescription description = internal::describe_published(data);
  if (!description.word_spelling.empty()) return bad_input("GGUF's byte-level vocabularies put no space in front of a text");
  for (const NormalizerStep& step : description.normalizer) {
    if (step.kind != NormalizerStep::Kind::nfc) {
      return bad_input(fmt::format("GGUF has no place for the normalizer that writes \"{}\"", step.to));
    }
  }
  auto name = name_pretokenizer(data, description);
  if (!name) return tl::make_unexpected(name.error());
  vocabulary.model = "gpt2";
  vocabulary.pre = std::move(*name);
  for (const auto& [left, right] : description.merges) vocabulary.merges.push_back(left + ' ' + right);
  return {};
}

// Whether the steps spell spaces as U+2581 (and put one in front), which is what GGUF's SentencePiece vocabularies do.
bool spells_spaces(const std::vector<NormalizerStep>& normalizer, const std::vector<NormalizerStep>& word_spelling) {
  bool spelled = false;
  for (const std::vector<NormalizerStep>* list : {&normalizer, &word_spelling}) {
    for (const NormalizerStep& step : *list) {
      if (step.kind == NormalizerStep::Kind::nfc) return false;
      const bool space = step.to == kSpaceMark || (step.to == " " && !spelled);
      if (!space || (step.kind == NormalizerStep::Kind::replace && step.from != " ")) return false;
      spelled = spelled || step.kind == NormalizerStep::Kind::replace;
    }
  }
  return spelled;
}

// The rules that matter: a rule about plain spaces finds none once they are spelled as U+2581, and one that cuts before
// U+2581 cuts nothing where tokens have it at their start only.
std::vector<SplitRule> rules_that_cut(const VocabularyDescription& description) {
  std::vector<SplitRule> rules;
  const bool inside = std::any_of(description.texts.begin(), description.texts.end(), [](const std::string& text) {
    return text.find(kSpaceMark, 1) != std::string::npos || text.find(' ', 1) != std::string::npos;
  });
  for (const SplitRule& rule : description.split_rules) {
    if (rule.pattern == literal_pattern(" ")) continue;
    const bool before_mark =
        rule.pattern == literal_pattern(kSpaceMark) && !rule.invert && rule.behavior == SplitBehavior::merged_with_next;
    if (!before_mark || inside) rules.push_back(rule);
  }
  return rules;
}

// gemma4's rule cuts between line breaks and what is none, which is nothing where no token has both.
bool cuts_lines_as_gemma4(const VocabularyDescription& description, const std::vector<SplitRule>& rules) {
  if (rules.size() == 1) return rules[0].pattern == kGemma4Pattern;
  return rules.empty() && std::none_of(description.texts.begin(), description.texts.end(), [](const std::string& text) {
           const auto breaks = std::count(text.begin(), text.end(), '\n');
           return breaks > 0 && static_cast<std::size_t>(breaks) < text.size();
         });
}

Result<void> describe_sentencepiece(const TokenizerData& data, GgufVocabulary& vocabulary) {
  VocabularyDescription description = internal::describe_published(data);
  const std::vector<SplitRule> rules = rules_that_cut(description);
  const bool plain = description.normalizer.empty() && description.word_spelling.empty() && description.split_rules.empty();
  if (plain && description.merges.empty() && description.scores.empty() && !description.roles.unknown &&
      !description.byte_fallback) {
    // Characters alone: what our own vocabulary of characters becomes.
    vocabulary.model = "gpt2";
    vocabulary.pre = "gpt-2";
    std::vector<std::string> characters;
    for (std::size_t id = 0; id < vocabulary.texts.size(); ++id) {
      if (vocabulary.kinds[id] != TokenKind::normal) continue;
      characters.push_back(data.tokens[id]);
      vocabulary.texts[id] = spell_bytes(data.tokens[id]);
    }
    vocabulary.merges = character_merges(characters);
    return {};
  }
  if (!spells_spaces(description.normalizer, description.word_spelling)) {
    return bad_input(
        "GGUF's SentencePiece vocabularies spell spaces as U+2581 and do nothing else to a text; this one does");
  }
  const auto& kinds = data.published->kinds;
  const auto bytes = std::count(kinds.begin(), kinds.end(), TokenKind::byte);
  if (bytes < 256 && (description.fuse_unknown || bytes > 0)) {
    return bad_input(fmt::format("GGUF spells unknown characters with 256 tokens for bytes; this vocabulary has {}", bytes));
  }
  if (description.ignore_merges) {
    const auto same = merges_make_every_token(data);
    if (!same) return tl::make_unexpected(same.error());
    if (!*same)
      return bad_input("GGUF's SentencePiece vocabularies do not take whole words that are tokens before they merge");
  }
  if (rules.empty()) {
    vocabulary.model = "llama";
    vocabulary.scores = std::move(description.scores);
    if (!vocabulary.scores.empty()) return {};
  }
  Result<std::vector<float>> scores = bad_input("the pre-tokenizer cuts words");
  if (rules.empty()) scores = internal::scores_of_merges(description);
  if (scores) {
    vocabulary.scores = std::move(*scores);
    return {};
  }
  if (!description.scores.empty() || !cuts_lines_as_gemma4(description, rules) || description.roles.add_space_prefix) {
    return bad_input(
        fmt::format("GGUF's SentencePiece vocabularies cannot say how this one merges: {}", scores.error().message));
  }
  vocabulary.model = "gemma4";
  for (const auto& [left, right] : description.merges) vocabulary.merges.push_back(left + ' ' + right);
  return {};
}

Result<GgufVocabulary> describe_published_vocabulary(const TokenizerData& data) {
  GgufVocabulary vocabulary;
  vocabulary.texts = data.published->source.texts;
  vocabulary.kinds = data.published->kinds;
  vocabulary.roles = data.roles;
  auto done = data.kind == TokenizerKind::byte_level_bpe ? describe_byte_level(data, vocabulary)
                                                         : describe_sentencepiece(data, vocabulary);
  if (!done) return tl::make_unexpected(done.error());
  return vocabulary;
}

// What the vocabulary does with texts where the keys above do not say it: white space around special tokens, Unicode's
// normalization, when a space goes in front. Other programs do not see it.
std::optional<std::string> text_handling(const TokenizerData& data, const GgufVocabulary& vocabulary) {
  VocabularyDescription said;
  said.kind = vocabulary.model == "gpt2" ? TokenizerKind::byte_level_bpe : TokenizerKind::sentencepiece;
  said.texts = vocabulary.texts;
  said.kinds = vocabulary.kinds;
  said.roles = vocabulary.roles;
  internal::add_gguf_text_handling(said, false);
  VocabularyDescription meant = data.published->source;
  meant.kind = said.kind;
  const auto by_id = [](const SpecialText& a, const SpecialText& b) { return a.id < b.id; };
  std::stable_sort(meant.special.begin(), meant.special.end(), by_id);
  std::string wanted = internal::text_handling_to_json(meant);
  if (wanted == internal::text_handling_to_json(said)) return std::nullopt;
  return wanted;
}

// ---- What all kinds share

// Unused tokens for the rows of the embedding that the tokenizer has no ids for, and for its ids without a text.
void add_padding(GgufVocabulary& vocabulary, std::size_t rows) {
  std::unordered_set<std::string> known(vocabulary.texts.begin(), vocabulary.texts.end());
  const std::size_t count = vocabulary.texts.size();
  vocabulary.texts.resize(rows);
  vocabulary.kinds.resize(rows, TokenKind::unused);
  if (!vocabulary.scores.empty()) vocabulary.scores.resize(rows, 0.0F);
  for (std::size_t id = 0; id < rows; ++id) {
    if (id < count && !vocabulary.texts[id].empty()) continue;
    std::string text = fmt::format("[PAD{}]", id);
    while (!known.insert(text).second) text.insert(text.size() - 1, "_");
    vocabulary.texts[id] = std::move(text);
    vocabulary.kinds[id] = TokenKind::unused;
  }
}

void write(GgufWriter& writer, const GgufVocabulary& vocabulary) {
  writer.add_string("tokenizer.ggml.model", vocabulary.model);
  if (!vocabulary.pre.empty()) writer.add_string("tokenizer.ggml.pre", vocabulary.pre);
  writer.add_strings("tokenizer.ggml.tokens", vocabulary.texts);
  if (!vocabulary.scores.empty()) writer.add_f32s("tokenizer.ggml.scores", vocabulary.scores);
  std::vector<std::int32_t> types;
  types.reserve(vocabulary.kinds.size());
  for (const TokenKind kind : vocabulary.kinds) types.push_back(static_cast<std::int32_t>(kind));
  writer.add_i32s("tokenizer.ggml.token_type", types);
  if (vocabulary.model != "llama") writer.add_strings("tokenizer.ggml.merges", vocabulary.merges);
  const SpecialTokens& roles = vocabulary.roles;
  const std::pair<std::string_view, std::optional<std::int32_t>> ids[] = {{"bos_token_id", roles.bos},
                                                                          {"eos_token_id", roles.eos},
                                                                          {"eot_token_id", roles.eot},
                                                                          {"eom_token_id", roles.eom},
                                                                          {"unknown_token_id", roles.unknown},
                                                                          {"padding_token_id", roles.padding},
                                                                          {"seperator_token_id", roles.separator},
                                                                          {"mask_token_id", roles.mask},
                                                                          {"fim_pre_token_id", roles.fim_prefix},
                                                                          {"fim_suf_token_id", roles.fim_suffix},
                                                                          {"fim_mid_token_id", roles.fim_middle}};
  for (const auto& [name, id] : ids) {
    if (id) writer.add_u32(fmt::format("tokenizer.ggml.{}", name), static_cast<std::uint32_t>(*id));
  }
  writer.add_bool("tokenizer.ggml.add_bos_token", roles.add_bos);
  writer.add_bool("tokenizer.ggml.add_eos_token", roles.add_eos);
  writer.add_bool("tokenizer.ggml.add_space_prefix", roles.add_space_prefix);
}

Result<GgufVocabulary> describe(const Tokenizer& tokenizer, std::int64_t vocab) {
  if (vocab < tokenizer.vocab_size()) {
    return bad_input(fmt::format("tokenizer: expected at most as many tokens as the model's vocabulary of {} has, found {}",
                                 vocab, tokenizer.vocab_size()));
  }
  const TokenizerData& data = TokenizerAccess::data(tokenizer);
  auto vocabulary =
      data.published == nullptr ? Result<GgufVocabulary>(describe_own(tokenizer)) : describe_published_vocabulary(data);
  if (!vocabulary) {
    return tl::make_unexpected(Error{vocabulary.error().code, fmt::format("tokenizer: {}", vocabulary.error().message)});
  }
  return vocabulary;
}

}  // namespace

Result<void> check_gguf_tokenizer(const Tokenizer& tokenizer, std::int64_t vocab) {
  if (auto vocabulary = describe(tokenizer, vocab); !vocabulary) return tl::make_unexpected(vocabulary.error());
  return {};
}

Result<void> add_tokenizer(GgufWriter& writer, const Tokenizer& tokenizer, std::int64_t vocab) {
  auto vocabulary = describe(tokenizer, vocab);
  if (!vocabulary) return tl::make_unexpected(vocabulary.error());
  const TokenizerData& data = TokenizerAccess::data(tokenizer);
  const auto handling = data.published == nullptr ? std::nullopt : text_handling(data, *vocabulary);
  add_padding(*vocabulary, static_cast<std::size_t>(vocab));
  write(writer, *vocabulary);
  if (handling) writer.add_string(internal::kTextHandlingKey, *handling);
  return {};
}

}  // namespace quern
