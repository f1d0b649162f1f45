// Tokenizers as GGUF metadata: the keys tokenizer.ggml.*.
#include <fmt/format.h>

#include <unordered_set>

#include "model/byte_alphabet.hpp"
#include "model/tokenizer_files.hpp"
#include "model/tokenizer_internal.hpp"

namespace quern {
namespace {

using internal::TokenizerAccess;
using internal::TokenizerData;

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

}  // namespace

Result<void> add_tokenizer(GgufWriter& writer, const Tokenizer& tokenizer, std::int64_t vocab) {
  if (vocab < tokenizer.vocab_size()) {
    return bad_input(fmt::format("tokenizer: expected at most as many tokens as the model's vocabulary of {} has, found {}",
                                 vocab, tokenizer.vocab_size()));
  }
  if (TokenizerAccess::data(tokenizer).published != nullptr) return bad_input("published");
  GgufVocabulary vocabulary = describe_own(tokenizer);
  add_padding(vocabulary, static_cast<std::size_t>(vocab));
  write(writer, vocabulary);
  return {};
}

}  // namespace quern
