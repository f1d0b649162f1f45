// Published vocabularies: from their description to what encodes with them.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <unordered_set>

#include "model/byte_alphabet.hpp"
#include "model/tokenizer_internal.hpp"
#include "model/utf8.hpp"
#include "model/word_cache_internal.hpp"

namespace quern::internal {
namespace {

using namespace std::string_view_literals;

// A text's offsets are kept in 32 bits.
constexpr std::size_t kMaxTextBytes = std::size_t{1} << 30;

// "<0x0A>": the byte, else -1.
int byte_of(std::string_view text) {
  if (text.size() != 6 || !text.starts_with("<0x") || text[5] != '>') return -1;
  int value = 0;
  for (const char c : text.substr(3, 2)) {
    int digit = 0;
    if (c >= '0' && c <= '9') {
      digit = c - '0';
    } else if (c >= 'A' && c <= 'F') {
      digit = c - 'A' + 10;
    } else if (c >= 'a' && c <= 'f') {
      digit = c - 'a' + 10;
    } else {
      return -1;
    }
    value = value * 16 + digit;
  }
  return value;
}

bool of_words(TokenKind kind) {
  return kind == TokenKind::normal || kind == TokenKind::user_defined || kind == TokenKind::unused;
}

// The token for what no token stands for; -1 where there is none, or where text would make a control token by it.
std::int32_t unknown_in_text(const VocabularyDescription& description) {
  const auto& unknown = description.roles.unknown;
  const bool usable = unknown && description.kinds[static_cast<std::size_t>(*unknown)] != TokenKind::control;
  return usable ? *unknown : -1;
}

Result<void> build_byte_level(VocabularyDescription& description, TokenizerData& data) {
  data.published->fallback.unknown = unknown_in_text(description);
  // Words are made of normal tokens, and of user-defined ones whose bytes no normal token has.
  std::vector<std::string> words(description.texts.size());
  const auto& kinds = description.kinds;
  const bool mixed = std::find(kinds.begin(), kinds.end(), TokenKind::user_defined) != kinds.end();
  std::unordered_set<std::string_view> known;
  for (const TokenKind kind : {TokenKind::normal, TokenKind::user_defined}) {
    for (std::size_t id = 0; id < description.texts.size(); ++id) {
      if (description.kinds[id] != kind) continue;
      if (kind == TokenKind::normal) {
        auto bytes = unspell_bytes(description.texts[id]);
        if (!bytes) continue;
        data.tokens[id] = std::move(*bytes);
      } else if (known.contains(data.tokens[id])) {
        continue;
      }
      words[id] = data.tokens[id];
      if (mixed) known.insert(words[id]);
    }
  }
  for (auto& [left, right] : description.merges) {
    auto l = unspell_bytes(left), r = unspell_bytes(right);
    if (!l || !r) {
      return bad_input(fmt::format("the merge \"{} {}\" is not written in the alphabet of bytes", left, right));
    }
    left = std::move(*l);
    right = std::move(*r);
  }
  // Bytes that no UTF-8 text has may be missing; where a user-defined token has the letter that spells such a byte it stands
  // for it (DeepSeek LLM), so that any bytes encode. It decodes to the letter.
  std::array<std::int32_t, 256> byte_tokens{};
  byte_tokens.fill(-1);
  for (std::size_t id = 0; id < description.texts.size(); ++id) {
    if (description.kinds[id] != TokenKind::user_defined || description.texts[id].size() > 2) continue;
    const auto byte = unspell_bytes(description.texts[id]);
    if (byte && byte->size() == 1) byte_tokens[static_cast<unsigned char>((*byte)[0])] = static_cast<std::int32_t>(id);
  }
  auto made = ByteBpe::create(words, description.merges, description.ignore_merges, byte_tokens);
  if (!made) return tl::make_unexpected(made.error());
  data.published->byte_bpe = std::move(*made);
  return {};
}

Result<void> build_sentencepiece(VocabularyDescription& description, TokenizerData& data) {
  PublishedVocabulary& published = *data.published;
  std::vector<std::string> words(description.texts.size());
  std::vector<bool> unused(description.texts.size());
  std::unordered_set<std::string_view> normal;
  for (std::size_t id = 0; id < description.texts.size(); ++id) {
    if (description.kinds[id] == TokenKind::normal) normal.insert(description.texts[id]);
  }
  for (std::size_t id = 0; id < description.texts.size(); ++id) {
    const TokenKind kind = description.kinds[id];
    const std::string& text = description.texts[id];
    const int byte = byte_of(text);
    if (kind == TokenKind::byte || (description.byte_fallback && kind == TokenKind::normal && byte >= 0)) {
      if (byte >= 0) {
        if (description.byte_fallback)
          published.fallback.byte_tokens[static_cast<std::size_t>(byte)] = static_cast<std::int32_t>(id);
        data.tokens[id] = std::string(1, static_cast<char>(byte));
        published.kinds[id] = TokenKind::byte;
        continue;
      }
    }
    if (of_words(kind) || kind == TokenKind::byte) {
      unused[id] = kind == TokenKind::unused;
      words[id] = description.marks_spaces ? replace_all(text, " ", kSpaceMark) : text;
      if (kind != TokenKind::normal && normal.contains(words[id])) words[id].clear();
      if (description.marks_spaces) data.tokens[id] = replace_all(text, kSpaceMark, " ");
    }
  }
  published.fallback.unknown = unknown_in_text(description);
  published.fallback.fuse_unknown = description.fuse_unknown;
  Result<CharacterBpe> made = bad_input("");
  if (!description.scores.empty()) {
    made = CharacterBpe::from_scores(words, description.scores, unused);
  } else {
    // Structure must not grow out of ordinary text, so merges that would make a control token are left out.
    std::unordered_set<std::string_view> reserved;
    for (std::size_t id = 0; id < words.size(); ++id) {
      if (words[id].empty()) reserved.insert(description.texts[id]);
    }
    for (const std::string& word : words) reserved.erase(word);
    std::vector<std::pair<std::string_view, std::string_view>> merges;
    for (const auto& [left, right] : description.merges) {
      if (!reserved.contains(left) && !reserved.contains(right) && !reserved.contains(left + right))
        merges.emplace_back(left, right);
    }
    made = CharacterBpe::from_merges(words, merges);
  }
  if (!made) return tl::make_unexpected(made.error());
  published.character_bpe = std::move(*made);
  return {};
}

// The two matchers of one list: user-defined tokens only, and all.
void build_matchers(const std::vector<SpecialText>& texts, const std::vector<TokenKind>& kinds, SpecialMatcher& user_defined,
                    SpecialMatcher& all) {
  std::vector<SpecialText> some;
  for (const SpecialText& text : texts) {
    if (kinds[static_cast<std::size_t>(text.id)] == TokenKind::user_defined) some.push_back(text);
  }
  user_defined = SpecialMatcher(std::move(some));
  all = SpecialMatcher(texts);
}

Result<void> check(const VocabularyDescription& description) {
  const std::size_t count = description.texts.size();
  if (count == 0 || count > (std::size_t{1} << 24)) {
    return bad_input(fmt::format("expected 1 to 16777216 tokens, found {}", count));
  }
  if (description.kinds.size() != count) {
    return bad_input(fmt::format("expected a type for each of the {} tokens, found {}", count, description.kinds.size()));
  }
  if (!description.scores.empty() && description.scores.size() != count) {
    return bad_input(fmt::format("expected a score for each of the {} tokens, found {}", count, description.scores.size()));
  }
  if (std::any_of(description.scores.begin(), description.scores.end(), [](float s) { return !std::isfinite(s); })) {
    return bad_input("expected scores that are numbers, found one that is not");
  }
  const auto valid = [count](std::int32_t id) { return id >= 0 && static_cast<std::size_t>(id) < count; };
  for (const std::vector<SpecialText>* list : {&description.special, &description.normalized}) {
    for (const SpecialText& text : *list) {
      if (!valid(text.id))
        return bad_input(
            fmt::format("the special token \"{}\" has the id {}, but there are {} tokens", text.text, text.id, count));
    }
  }
  const SpecialTokens& roles = description.roles;
  for (const auto& id : {roles.bos, roles.eos, roles.eot, roles.eom, roles.unknown, roles.padding, roles.separator,
                         roles.mask, roles.fim_prefix, roles.fim_suffix, roles.fim_middle}) {
    if (id && !valid(*id))
      return bad_input(fmt::format("a special token has the id {}, but there are {} tokens", *id, count));
  }
  return {};
}

}  // namespace

bool names_end_of_generation(std::string_view text) {
  static const std::unordered_set<std::string_view> names = {"<|eot_id|>"sv,
                                                             "<|im_end|>"sv,
                                                             "<|end|>"sv,
                                                             "<|return|>"sv,
                                                             "<|call|>"sv,
                                                             "<end_of_turn>"sv,
                                                             "<|endoftext|>"sv,
                                                             "</s>"sv,
                                                             "<|eom_id|>"sv,
                                                             "<EOT>"sv,
                                                             "_<EOT>"sv,
                                                             "[EOT]"sv,
                                                             "[EOS]"sv,
                                                             "<|end_of_text|>"sv,
                                                             "<end_of_utterance>"sv,
                                                             "<eos>"sv,
                                                             "<turn|>"sv,
                                                             "<|tool_response>"sv,
                                                             "<\xEF\xBD\x9C"
                                                             "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>"sv,
                                                             "[e~["sv,
                                                             "<|flush|>"sv,
                                                             "<|calls|>"sv};
  return names.contains(text);
}

void reserve_ends_of_generation(VocabularyDescription& description) {
  for (std::size_t id = 0; id < description.texts.size(); ++id) {
    TokenKind& kind = description.kinds[id];
    if (kind == TokenKind::user_defined && names_end_of_generation(description.texts[id])) kind = TokenKind::control;
  }
}

std::vector<std::int32_t> find_ends_of_generation(const std::vector<std::string>& texts, const std::vector<TokenKind>& kinds,
                                                  const SpecialTokens& roles) {
  std::vector<std::int32_t> ends;
  std::int32_t end_of_message = -1;  // <|end|>
  bool returns = false, calls = false;
  for (std::size_t id = 0; id < texts.size(); ++id) {
    if (!names_end_of_generation(texts[id])) continue;
    // Vocabularies without types write these as ordinary tokens; nothing else is spelled so.
    if (kinds[id] == TokenKind::byte || kinds[id] == TokenKind::unused) continue;
    if (texts[id] == "<|end|>") end_of_message = static_cast<std::int32_t>(id);
    returns = returns || texts[id] == "<|return|>";
    calls = calls || texts[id] == "<|call|>";
    ends.push_back(static_cast<std::int32_t>(id));
  }
  for (const auto& id : {roles.eot, roles.eom}) {
    if (id) ends.push_back(*id);
  }
  // GPT-OSS ends each message of a turn with <|end|>; only the others end the turn.
  if (returns && calls) std::erase(ends, end_of_message);
  if (roles.eos) ends.push_back(*roles.eos);
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  return ends;
}

Result<std::shared_ptr<const TokenizerData>> build_published(VocabularyDescription description) {
  if (auto right = check(description); !right) return tl::make_unexpected(right.error());
  auto data = std::make_shared<TokenizerData>();
  data->kind = description.kind;
  data->published = std::make_unique<PublishedVocabulary>();
  PublishedVocabulary& published = *data->published;
  data->tokens = description.texts;
  published.kinds = description.kinds;
  const bool byte_level = description.kind == TokenizerKind::byte_level_bpe;
  auto built = byte_level ? build_byte_level(description, *data) : build_sentencepiece(description, *data);
  if (!built) return tl::make_unexpected(built.error());
  auto pretokenizer = Pretokenizer::from_rules(description.split_rules);
  if (!pretokenizer) return tl::make_unexpected(pretokenizer.error());
  published.pretokenizer = std::move(*pretokenizer);
  build_matchers(description.special, published.kinds, published.user_defined, published.all);
  build_matchers(description.normalized, published.kinds, published.normalized_user_defined, published.normalized_all);
  published.ends = find_ends_of_generation(description.texts, published.kinds, description.roles);
  for (std::size_t id = 0; id < description.texts.size(); ++id) {
    // The frame of GPT-OSS's channels: a reader that sees no frame cannot tell reasoning from answer.
    const std::string& text = description.texts[id];
    if (text == "<|channel|>" || text == "<|message|>" || text == "<|start|>" || text == "<|constrain|>") {
      published.always_shown.push_back(static_cast<std::int32_t>(id));
    }
  }
  data->roles = description.roles;
  description.merges = {};
  published.source = std::move(description);
  published.ids.reserve(data->tokens.size());
  const auto text_of = [&](std::int32_t id) -> std::string_view { return data->tokens[static_cast<std::size_t>(id)]; };
  for (const bool special : {true, false}) {
    for (std::size_t id = 0; id < data->tokens.size(); ++id) {
      const bool is_special = published.kinds[id] != TokenKind::normal && published.kinds[id] != TokenKind::byte;
      if (is_special == special && !data->tokens[id].empty()) {
        published.ids.add(data->tokens[id], static_cast<std::int32_t>(id), text_of);
      }
    }
  }
  return data;
}

std::int32_t find_published(const TokenizerData& data, std::string_view text) {
  return data.published->ids.find(
      text, [&](std::int32_t id) -> std::string_view { return data.tokens[static_cast<std::size_t>(id)]; });
}

VocabularyDescription describe_published(const TokenizerData& data) {
  const PublishedVocabulary& published = *data.published;
  VocabularyDescription description = published.source;
  if (data.kind == TokenizerKind::byte_level_bpe) {
    for (const auto& [left, right] : published.byte_bpe.merges(data.tokens)) {
      description.merges.emplace_back(spell_bytes(left), spell_bytes(right));
    }
  } else if (description.scores.empty()) {
    for (const TokenPair& pair : published.character_bpe.merges()) {
      const auto text = [&](std::int32_t id) {
        const std::string& spelled = description.texts[static_cast<std::size_t>(id)];
        return description.marks_spaces ? replace_all(spelled, " ", kSpaceMark) : spelled;
      };
      description.merges.emplace_back(text(pair.left), text(pair.right));
    }
  }
  return description;
}

namespace {

// Encodes one stretch of ordinary text after another; all must stay where they are until the end.
class Encoder {
 public:
  Encoder(const TokenizerData& data, std::vector<std::int32_t>& tokens)
      : data_(data), published_(*data.published), tokens_(tokens) {}

  Result<void> append(std::string_view text) {
    pieces_.clear();
    if (published_.pretokenizer.empty()) {
      pieces_.push_back({0, text.size()});
    } else {
      published_.pretokenizer.pieces(text, pieces_);
    }
    const bool byte_level = data_.kind == TokenizerKind::byte_level_bpe;
    for (const Piece piece : pieces_) {
      const std::string_view word = text.substr(piece.begin, piece.end - piece.begin);
      if (auto done = byte_level ? append_bytes(word) : append_characters(word); !done) return done;
    }
    return {};
  }

 private:
  Result<void> append_bytes(std::string_view word) {
    Result<void> done;
    cache_.append(word, tokens_, [&] {
      done = published_.byte_bpe.encode(word, data_.tokens, published_.fallback.unknown, work_, tokens_);
    });
    return done;
  }

  Result<void> append_characters(std::string_view word) {
    if (published_.source.ignore_merges) {
      const std::int32_t found =
          find_published(data_, published_.source.marks_spaces ? replace_all(word, kSpaceMark, " ") : std::string(word));
      if (found >= 0 && published_.kinds[static_cast<std::size_t>(found)] == TokenKind::normal) {
        tokens_.push_back(found);
        return {};
      }
    }
    return published_.character_bpe.encode(
        word, published_.fallback, work_, tokens_,
        [&](std::string_view stretch, const auto& encode) { cache_.append(stretch, tokens_, encode); });
  }

  const TokenizerData& data_;
  const PublishedVocabulary& published_;
  std::vector<std::int32_t>& tokens_;
  WordCache cache_;
  BpeWork work_;
  std::vector<Piece> pieces_;
};

}  // namespace

Result<void> encode_published(const TokenizerData& data, std::string_view text, EncodeOptions options,
                              std::vector<std::int32_t>& tokens) {
  if (text.size() > kMaxTextBytes)
    return bad_input(fmt::format("a text of {} bytes is longer than {}", text.size(), kMaxTextBytes));
  const PublishedVocabulary& published = *data.published;
  const SpecialMatcher& matcher = options.parse_special ? published.all : published.user_defined;
  const SpecialMatcher& normalized = options.parse_special ? published.normalized_all : published.normalized_user_defined;
  Encoder encoder(data, tokens);
  std::deque<std::string> spelled;  // the encoder remembers words by where they stand
  std::vector<SpecialMatcher::Part> parts, inner;
  matcher.split(text, parts);
  const bool plain = published.source.normalizer.empty() && published.source.word_spelling.empty() && normalized.empty();
  const auto stand = [&](bool first) {
    if (!first) return TextStand::after_special;
    return options.continues ? TextStand::continues : TextStand::first;
  };
  if (options.add_special && data.roles.add_bos && data.roles.bos) tokens.push_back(*data.roles.bos);
  for (const SpecialMatcher::Part& part : parts) {
    if (part.id >= 0) {
      tokens.push_back(part.id);
      continue;
    }
    const std::string_view stretch = text.substr(part.begin, part.end - part.begin);
    if (plain) {
      if (auto done = encoder.append(stretch); !done) return done;
      continue;
    }
    const auto normal = normalize(stretch, published.source.normalizer, stand(part.begin == 0));
    if (!normal) return tl::make_unexpected(normal.error());
    inner.clear();
    normalized.split(*normal, inner);
    for (const SpecialMatcher::Part& piece : inner) {
      if (piece.id >= 0) {
        tokens.push_back(piece.id);
        continue;
      }
      auto words = normalize(std::string_view(*normal).substr(piece.begin, piece.end - piece.begin),
                             published.source.word_spelling, stand(part.begin == 0 && piece.begin == 0));
      if (!words) return tl::make_unexpected(words.error());
      spelled.push_back(std::move(*words));
      if (auto done = encoder.append(spelled.back()); !done) return done;
    }
  }
  if (options.add_special && data.roles.add_eos && data.roles.eos) tokens.push_back(*data.roles.eos);
  return {};
}

}  // namespace quern::internal
