#include "model/tokenizer.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "model/byte_alphabet.hpp"
#include "model/tokenizer_internal.hpp"
#include "model/utf8.hpp"
#include "model/word_cache_internal.hpp"

namespace quern {
namespace {

using internal::TokenizerData;
using internal::WordCache;

void add_end_of_text(TokenizerData& data, bool wanted) {
  if (!wanted) return;
  data.end_of_text = static_cast<std::int32_t>(data.tokens.size());
  data.roles.eos = data.end_of_text;
  data.tokens.emplace_back(kEndOfText);
}

void add_byte_tokens(TokenizerData& data) {
  for (int byte = 0; byte < 256; ++byte) data.tokens.emplace_back(1, static_cast<char>(byte));
}

void encode_bpe(const TokenizerData& data, std::string_view text, std::vector<std::int32_t>& tokens) {
  std::vector<std::size_t> ends;
  data.pretokenizer.split(text, ends);
  WordCache cache;
  BpeScratch scratch;
  std::vector<std::int32_t> symbols;
  std::size_t begin = 0;
  for (const std::size_t end : ends) {
    const std::string_view word = text.substr(begin, end - begin);
    begin = end;
    cache.append(word, tokens, [&] {
      symbols.clear();
      for (const char c : word) symbols.push_back(static_cast<unsigned char>(c));
      data.merges.apply(symbols, scratch);
      tokens.insert(tokens.end(), symbols.begin(), symbols.end());
    });
  }
}

Result<void> encode_characters(const TokenizerData& data, std::string_view text, std::vector<std::int32_t>& tokens) {
  const std::size_t before = tokens.size();
  for (std::size_t at = 0; at < text.size();) {
    const Utf8Step step = utf8_step(text, at);
    std::int32_t id = -1;
    if (step.code_point >= 0 && step.code_point < 128) {
      id = data.ascii_ids[step.code_point];
    } else if (step.code_point >= 0) {
      const auto found = std::lower_bound(data.code_points.begin(), data.code_points.end(), step.code_point);
      if (found != data.code_points.end() && *found == step.code_point) {
        id = static_cast<std::int32_t>(found - data.code_points.begin());
      }
    }
    if (id < 0) {
      tokens.resize(before);
      if (step.code_point < 0) {
        return bad_input(fmt::format("byte {} (0x{:02X}) is not valid UTF-8, which a character tokenizer needs", at,
                                     static_cast<unsigned char>(text[at])));
      }
      return bad_input(fmt::format("the character '{}' (U+{:04X}) at byte {} is not among the tokenizer's {} characters",
                                   step.code_point < 32 ? std::string_view("\\") : text.substr(at, step.bytes),
                                   step.code_point, at, data.code_points.size()));
    }
    tokens.push_back(id);
    at += step.bytes;
  }
  return {};
}

Result<void> encode_own(const TokenizerData& data, std::string_view text, std::vector<std::int32_t>& tokens) {
  switch (data.kind) {
    case TokenizerKind::bytes:
      for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
      return {};
    case TokenizerKind::characters:
      return encode_characters(data, text, tokens);
    default:
      encode_bpe(data, text, tokens);
      return {};
  }
}

}  // namespace

std::string_view tokenizer_kind_name(TokenizerKind kind) {
  switch (kind) {
    case TokenizerKind::bytes:
      return "bytes";
    case TokenizerKind::characters:
      return "characters";
    case TokenizerKind::bpe:
      return "bpe";
    case TokenizerKind::byte_level_bpe:
      return "byte_level_bpe";
    case TokenizerKind::sentencepiece:
      return "sentencepiece";
  }
  return "?";
}

Tokenizer::Tokenizer() : Tokenizer(bytes(false)) {}

Tokenizer Tokenizer::bytes(bool end_of_text) {
  auto data = std::make_shared<TokenizerData>();
  add_byte_tokens(*data);
  add_end_of_text(*data, end_of_text);
  return Tokenizer(std::move(data));
}

Result<Tokenizer> Tokenizer::characters(std::span<const std::int32_t> code_points, bool end_of_text) {
  auto data = std::make_shared<TokenizerData>();
  data->kind = TokenizerKind::characters;
  data->ascii_ids.fill(-1);
  std::int32_t previous = -1;
  for (const std::int32_t code_point : code_points) {
    if (code_point <= previous || code_point > 0x10FFFF || (code_point >= 0xD800 && code_point <= 0xDFFF)) {
      return bad_input(
          fmt::format("characters: expected ascending Unicode code points, found {} after {}", code_point, previous));
    }
    previous = code_point;
    if (code_point < 128) data->ascii_ids[code_point] = static_cast<std::int32_t>(data->tokens.size());
    std::string text;
    append_utf8(text, code_point);
    data->tokens.push_back(std::move(text));
  }
  if (code_points.empty()) return bad_input("characters: expected at least one, found none");
  data->code_points.assign(code_points.begin(), code_points.end());
  add_end_of_text(*data, end_of_text);
  return Tokenizer(std::move(data));
}

Result<Tokenizer> Tokenizer::bpe(std::span<const TokenPair> merges, bool end_of_text) {
  auto vocabulary = build_bpe_vocabulary(merges);
  if (!vocabulary) return tl::make_unexpected(vocabulary.error());
  auto table = BpeMerges::create(merges, vocabulary->results, static_cast<std::int64_t>(vocabulary->tokens.size()));
  if (!table) return tl::make_unexpected(table.error());
  auto pretokenizer = Pretokenizer::create({gpt2_pattern()});
  if (!pretokenizer) return tl::make_unexpected(pretokenizer.error());
  auto data = std::make_shared<TokenizerData>();
  data->kind = TokenizerKind::bpe;
  data->tokens = std::move(vocabulary->tokens);
  data->merge_pairs.assign(merges.begin(), merges.end());
  data->merges = std::move(*table);
  data->pretokenizer = std::move(*pretokenizer);
  add_end_of_text(*data, end_of_text);
  return Tokenizer(std::move(data));
}

TokenizerKind Tokenizer::kind() const { return data_->kind; }
std::int64_t Tokenizer::vocab_size() const { return static_cast<std::int64_t>(data_->tokens.size()); }

std::optional<std::int32_t> Tokenizer::end_of_text() const { return data_->roles.eos; }

TokenKind Tokenizer::token_kind(std::int32_t id) const {
  if (id < 0 || static_cast<std::size_t>(id) >= data_->tokens.size()) return TokenKind::unused;
  if (data_->published != nullptr) return data_->published->kinds[static_cast<std::size_t>(id)];
  return id == data_->end_of_text ? TokenKind::control : TokenKind::normal;
}

bool Tokenizer::is_special(std::int32_t id) const {
  const TokenKind kind = token_kind(id);
  return kind == TokenKind::control || kind == TokenKind::unknown;
}

const SpecialTokens& Tokenizer::special_tokens() const { return data_->roles; }

std::span<const std::int32_t> Tokenizer::end_of_generation() const {
  if (data_->published != nullptr) return data_->published->ends;
  return {&data_->end_of_text, data_->end_of_text < 0 ? 0U : 1U};
}

bool Tokenizer::ends_generation(std::int32_t id) const {
  const auto ends = end_of_generation();
  return std::binary_search(ends.begin(), ends.end(), id);
}

std::optional<std::int32_t> Tokenizer::find_token(std::string_view text) const {
  if (data_->published != nullptr) {
    const std::int32_t found = internal::find_published(*data_, text);
    if (found < 0) return std::nullopt;
    return found;
  }
  if (data_->end_of_text >= 0 && text == kEndOfText) return data_->end_of_text;
  const auto found = std::find(data_->tokens.begin(), data_->tokens.end(), text);
  if (found == data_->tokens.end()) return std::nullopt;
  return static_cast<std::int32_t>(found - data_->tokens.begin());
}

std::string Tokenizer::token_text(std::int32_t id) const {
  const std::string text(token_bytes(id));
  const TokenKind kind = token_kind(id);
  if (kind == TokenKind::byte) return fmt::format("<0x{:02X}>", static_cast<unsigned char>(text[0]));
  if (kind != TokenKind::normal) return text;
  switch (data_->kind) {
    case TokenizerKind::bytes:
    case TokenizerKind::bpe:
    case TokenizerKind::byte_level_bpe:
      return spell_bytes(text);
    case TokenizerKind::sentencepiece:
      if (!data_->published->source.marks_spaces) return text;
      return replace_all(text, " ", kSpaceMark);
    case TokenizerKind::characters:
      break;
  }
  return text;
}

std::string_view Tokenizer::token_bytes(std::int32_t id) const {
  if (id < 0 || static_cast<std::size_t>(id) >= data_->tokens.size()) return {};
  return data_->tokens[static_cast<std::size_t>(id)];
}

Result<std::vector<std::int32_t>> Tokenizer::encode(std::string_view text, EncodeOptions options) const {
  std::vector<std::int32_t> tokens;
  if (auto done = encode_append(text, tokens, options); !done) return tl::make_unexpected(done.error());
  return tokens;
}

Result<void> Tokenizer::encode_append(std::string_view text, std::vector<std::int32_t>& tokens,
                                      EncodeOptions options) const {
  const std::size_t before = tokens.size();
  Result<void> done;
  if (data_->published != nullptr) {
    done = internal::encode_published(*data_, text, options, tokens);
  } else {
    // The one special token of our own kinds is cut out first; between two of them stands ordinary text.
    std::size_t begin = 0;
    while (done) {
      const bool parse = options.parse_special && data_->end_of_text >= 0;
      const std::size_t at = parse ? text.find(kEndOfText, begin) : std::string_view::npos;
      done = encode_own(*data_, text.substr(begin, at == std::string_view::npos ? at : at - begin), tokens);
      if (at == std::string_view::npos) break;
      if (done) tokens.push_back(data_->end_of_text);
      begin = at + kEndOfText.size();
    }
  }
  if (!done) tokens.resize(before);
  return done;
}

bool internal::decode_token(const TokenizerData& data, std::int32_t id, DecodeOptions options, bool& text_start,
                            std::string& text) {
  if (id < 0 || static_cast<std::size_t>(id) >= data.tokens.size()) return false;
  std::string_view bytes = data.tokens[static_cast<std::size_t>(id)];
  if (data.published == nullptr) {
    if (options.special || id != data.end_of_text) text += bytes;
    return true;
  }
  const internal::PublishedVocabulary& published = *data.published;
  const TokenKind kind = published.kinds[static_cast<std::size_t>(id)];
  if (kind == TokenKind::control || kind == TokenKind::unknown || kind == TokenKind::user_defined) {
    const auto& shown = published.always_shown;
    const bool hidden =
        kind != TokenKind::user_defined && !options.special && std::find(shown.begin(), shown.end(), id) == shown.end();
    if (!hidden) text += bytes;
    // A token that is left out at the start leaves the start where it was.
    text_start = published.source.strips_after_special || (text_start && hidden);
    return true;
  }
  if (text_start && published.source.strips_prefix && bytes.starts_with(' ')) bytes.remove_prefix(1);
  text_start = false;
  text += bytes;
  return true;
}

std::string Tokenizer::decode(std::span<const std::int32_t> tokens, DecodeOptions options) const {
  std::string text;
  bool text_start = options.text_start;
  for (const std::int32_t token : tokens) internal::decode_token(*data_, token, options, text_start, text);
  return text;
}

bool operator==(const Tokenizer& a, const Tokenizer& b) {
  if (a.data_ == b.data_) return true;
  if (a.data_->published != nullptr || b.data_->published != nullptr) {
    if (a.data_->published == nullptr || b.data_->published == nullptr) return false;
    return internal::published_to_json(*a.data_, false) == internal::published_to_json(*b.data_, false);
  }
  // The merges' order matters beside the tokens; what else there is follows from them.
  return a.data_->kind == b.data_->kind && a.data_->tokens == b.data_->tokens &&
         a.data_->end_of_text == b.data_->end_of_text && a.data_->merge_pairs == b.data_->merge_pairs;
}

std::string StreamingDecoder::push(std::int32_t token) {
  internal::decode_token(*tokenizer_.data_, token, options_, text_start_, pending_);
  const std::size_t complete = complete_utf8_prefix(pending_);
  std::string text = pending_.substr(0, complete);
  pending_.erase(0, complete);
  return text;
}

std::string StreamingDecoder::finish() { return std::exchange(pending_, {}); }

}  // namespace quern
