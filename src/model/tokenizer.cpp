#include "model/tokenizer.hpp"

#include <fmt/format.h>
#include <xxhash.h>

#include <algorithm>

#include "model/tokenizer_internal.hpp"
#include "model/utf8.hpp"

namespace quern {
namespace {

using internal::TokenizerData;

void add_end_of_text(TokenizerData& data, bool wanted) {
  if (!wanted) return;
  data.end_of_text = static_cast<std::int32_t>(data.tokens.size());
  data.tokens.emplace_back(kEndOfText);
}

void add_byte_tokens(TokenizerData& data) {
  for (int byte = 0; byte < 256; ++byte) data.tokens.emplace_back(1, static_cast<char>(byte));
}

// Where the tokens of a word that was met before stand in the output. Words are views of the text being encoded.
class WordCache {
 public:
  struct Entry {
    std::uint64_t hash = 0;
    const char* word = nullptr;  // nullptr: free
    std::uint32_t bytes = 0;
    std::uint32_t tokens = 0;
    std::size_t first = 0;
  };

  // The entry of `word`, or a free one to fill; nullptr when there is no room for more.
  Entry* find(std::string_view word) {
    if (word.size() > kMaxBytes) return nullptr;
    if (used_ * 2 >= entries_.size()) grow();
    const std::uint64_t hash = XXH3_64bits(word.data(), word.size());
    Entry* entry = slot(hash, word);
    if (entry->word == nullptr) {
      if (used_ >= kMaxEntries) return nullptr;
      ++used_;
      entry->hash = hash;
      entry->bytes = 0;
    }
    return entry;
  }

 private:
  static constexpr std::size_t kMaxBytes = 256;                     // longer ones hardly return
  static constexpr std::size_t kMaxEntries = std::size_t{1} << 18;  // 10 MiB of entries; natural text has fewer words

  Entry* slot(std::uint64_t hash, std::string_view word) {
    for (std::size_t at = hash & (entries_.size() - 1);; at = (at + 1) & (entries_.size() - 1)) {
      Entry& entry = entries_[at];
      if (entry.word == nullptr) return &entry;
      if (entry.hash == hash && std::string_view(entry.word, entry.bytes) == word) return &entry;
    }
  }
  void grow() {
    std::vector<Entry> old(std::max<std::size_t>(64, entries_.size() * 4));
    old.swap(entries_);
    for (const Entry& entry : old) {
      if (entry.word != nullptr) *slot(entry.hash, {entry.word, entry.bytes}) = entry;
    }
  }
  std::vector<Entry> entries_;
  std::size_t used_ = 0;
};

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
    WordCache::Entry* entry = word.size() > 1 ? cache.find(word) : nullptr;
    if (entry != nullptr && entry->word != nullptr) {
      const std::size_t first = tokens.size();
      tokens.resize(first + entry->tokens);
      std::copy_n(tokens.begin() + static_cast<std::ptrdiff_t>(entry->first), entry->tokens,
                  tokens.begin() + static_cast<std::ptrdiff_t>(first));
      continue;
    }
    symbols.clear();
    for (const char c : word) symbols.push_back(static_cast<unsigned char>(c));
    data.merges.apply(symbols, scratch);
    if (entry != nullptr) {
      entry->word = word.data();
      entry->bytes = static_cast<std::uint32_t>(word.size());
      entry->tokens = static_cast<std::uint32_t>(symbols.size());
      entry->first = tokens.size();
    }
    tokens.insert(tokens.end(), symbols.begin(), symbols.end());
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

}  // namespace

std::string_view tokenizer_kind_name(TokenizerKind kind) {
  switch (kind) {
    case TokenizerKind::bytes:
      return "bytes";
    case TokenizerKind::characters:
      return "characters";
    case TokenizerKind::bpe:
      return "bpe";
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

std::optional<std::int32_t> Tokenizer::end_of_text() const {
  if (data_->end_of_text < 0) return std::nullopt;
  return data_->end_of_text;
}

bool Tokenizer::is_special(std::int32_t id) const { return id >= 0 && id == data_->end_of_text; }

std::string_view Tokenizer::token_bytes(std::int32_t id) const {
  if (id < 0 || static_cast<std::size_t>(id) >= data_->tokens.size()) return {};
  return data_->tokens[id];
}

Result<std::vector<std::int32_t>> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> tokens;
  if (auto done = encode_append(text, tokens); !done) return tl::make_unexpected(done.error());
  return tokens;
}

Result<void> Tokenizer::encode_append(std::string_view text, std::vector<std::int32_t>& tokens) const {
  switch (data_->kind) {
    case TokenizerKind::bytes:
      for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
      return {};
    case TokenizerKind::characters:
      return encode_characters(*data_, text, tokens);
    case TokenizerKind::bpe:
      encode_bpe(*data_, text, tokens);
      return {};
  }
  return {};
}

std::string Tokenizer::decode(std::span<const std::int32_t> tokens) const {
  std::string text;
  for (const std::int32_t token : tokens) text += token_bytes(token);
  return text;
}

bool operator==(const Tokenizer& a, const Tokenizer& b) {
  // The merges' order matters beside the tokens; what else there is follows from them.
  return a.data_ == b.data_ ||
         (a.data_->kind == b.data_->kind && a.data_->tokens == b.data_->tokens &&
          a.data_->end_of_text == b.data_->end_of_text && a.data_->merge_pairs == b.data_->merge_pairs);
}

std::string StreamingDecoder::push(std::int32_t token) {
  pending_ += tokenizer_.token_bytes(token);
  const std::size_t complete = complete_utf8_prefix(pending_);
  std::string text = pending_.substr(0, complete);
  pending_.erase(0, complete);
  return text;
}

std::string StreamingDecoder::finish() { return std::exchange(pending_, {}); }

}  // namespace quern
