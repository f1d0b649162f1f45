#include "model/character_bpe.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <numeric>

#include "model/utf8.hpp"

namespace quern {
namespace {

// A longer token's parts would cost more to look up than such tokens are worth: real ones have some dozens of bytes.
constexpr std::size_t kMaxMergedBytes = 256;

std::uint64_t join_key(std::int32_t left, std::int32_t right) {
  return (static_cast<std::uint64_t>(left) + 1) << 32 | static_cast<std::uint64_t>(right);
}
std::size_t join_slot(std::uint64_t key, std::size_t slots) {
  return static_cast<std::size_t>(key * 0x9E3779B97F4A7C15ULL >> 32) & (slots - 1);
}

std::int32_t last_character(std::string_view text) {
  return utf8_step(text, utf8_boundary_before(text, text.size() - 1)).code_point;
}

// Gives an index the texts of its ids.
auto texts_in(std::span<const std::string> texts) {
  return [texts](std::int32_t id) -> std::string_view { return texts[static_cast<std::size_t>(id)]; };
}

TextIndex index_texts(std::span<const std::string> texts) {
  TextIndex ids;
  ids.reserve(texts.size());
  for (std::size_t id = 0; id < texts.size(); ++id) {
    if (!texts[id].empty()) ids.add(texts[id], static_cast<std::int32_t>(id), texts_in(texts));
  }
  return ids;
}

}  // namespace

CharacterBpe::Next CharacterBpe::step(std::string_view text, std::size_t at) {
  const Utf8Step found = utf8_step(text, at);
  return {found.code_point, found.bytes};
}

std::int32_t CharacterBpe::symbol_of(std::int32_t code_point) const {
  if (code_point < 0) return -1;
  if (code_point < 128) return ascii_[code_point];
  const auto found = characters_.find(code_point);
  return found == characters_.end() ? -1 : found->second;
}

bool CharacterBpe::joins(std::int32_t left, std::int32_t right) const {
  if (left < 0 || right < 0 || joins_.empty()) return false;
  const std::uint64_t key = join_key(left, right);
  for (std::size_t at = join_slot(key, joins_.size()); joins_[at] != 0; at = (at + 1) & (joins_.size() - 1)) {
    if (joins_[at] == key) return true;
  }
  return false;
}

void CharacterBpe::add_join(std::string_view left, std::string_view right) {
  const std::int32_t last = last_character(left);
  const std::int32_t first = utf8_step(right, 0).code_point;
  if (last >= 0 && first >= 0) join_list_.push_back(join_key(last, first));
}

void CharacterBpe::build_joins() {
  std::sort(join_list_.begin(), join_list_.end());
  join_list_.erase(std::unique(join_list_.begin(), join_list_.end()), join_list_.end());
  joins_.assign(std::bit_ceil(join_list_.size() * 2 + 1), 0);
  for (const std::uint64_t key : join_list_) {
    std::size_t at = join_slot(key, joins_.size());
    while (joins_[at] != 0) at = (at + 1) & (joins_.size() - 1);
    joins_[at] = key;
  }
  join_list_ = {};
}

void CharacterBpe::learn_characters(std::span<const std::string> texts, const TextIndex& ids) {
  symbols_ = static_cast<std::int32_t>(texts.size());
  ascii_.fill(-1);
  for (const std::string& text : texts) {
    if (text.size() > kMaxMergedBytes) continue;
    for (std::size_t at = 0; at < text.size();) {
      const Utf8Step found = utf8_step(text, at);
      if (found.code_point >= 0 && symbol_of(found.code_point) < 0) {
        const std::int32_t id = ids.find(std::string_view(text).substr(at, found.bytes), texts_in(texts));
        const std::int32_t symbol = id >= 0 ? id : symbols_ + static_cast<std::int32_t>(extra_.size());
        if (id < 0) extra_.push_back(text.substr(at, found.bytes));
        if (found.code_point < 128) {
          ascii_[found.code_point] = symbol;
        } else {
          characters_.emplace(found.code_point, symbol);
        }
      }
      at += found.bytes;
    }
  }
}

Result<CharacterBpe> CharacterBpe::from_scores(std::span<const std::string> texts, std::span<const float> scores,
                                               const std::vector<bool>& unused) {
  CharacterBpe made;
  const TextIndex ids = index_texts(texts);
  made.learn_characters(texts, ids);
  // Equal scores share a rank, so that among them the leftmost place decides.
  std::vector<std::int32_t> order(texts.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return scores[a] > scores[b]; });
  std::vector<RankedMerge> merges;
  std::int32_t rank = 0;
  const auto symbol = [&](std::string_view part) {
    const std::int32_t found = ids.find(part, texts_in(texts));
    if (found >= 0) return found;
    const Utf8Step first = utf8_step(part, 0);
    return first.bytes == part.size() ? made.symbol_of(first.code_point) : -1;
  };
  for (std::size_t i = 0; i < order.size(); ++i) {
    const std::int32_t id = order[i];
    if (i > 0 && scores[order[i - 1]] != scores[id]) ++rank;
    const std::string_view text = texts[id];
    if (text.empty() || text.size() > kMaxMergedBytes || ids.find(text, texts_in(texts)) != id ||
        find_invalid_utf8(text) != text.npos)
      continue;
    for (std::size_t at = utf8_step(text, 0).bytes; at < text.size(); at += utf8_step(text, at).bytes) {
      const std::int32_t left = symbol(text.substr(0, at));
      const std::int32_t right = left < 0 ? -1 : symbol(text.substr(at));
      if (right < 0) continue;
      merges.push_back({{left, right}, rank, id});
      made.add_join(text.substr(0, at), text.substr(at));
      if (unused[id]) made.taken_apart_.emplace(id, TokenPair{left, right});
    }
  }
  auto table = BpeMerges::create(merges, made.symbols_ + static_cast<std::int64_t>(made.extra_.size()));
  if (!table) return tl::make_unexpected(table.error());
  made.merges_ = std::move(*table);
  made.build_joins();
  return made;
}

Result<CharacterBpe> CharacterBpe::from_merges(std::span<const std::string> texts,
                                               std::span<const std::pair<std::string_view, std::string_view>> list) {
  CharacterBpe made;
  const TextIndex ids = index_texts(texts);
  made.learn_characters(texts, ids);
  std::vector<RankedMerge> merges;
  merges.reserve(list.size());
  std::string whole;
  for (std::size_t rank = 0; rank < list.size(); ++rank) {
    const auto [left, right] = list[rank];
    whole.assign(left).append(right);
    const auto text_of = texts_in(texts);
    const std::int32_t l = ids.find(left, text_of), r = ids.find(right, text_of), both = ids.find(whole, text_of);
    if (l < 0 || r < 0 || both < 0) {
      return bad_input(fmt::format("merge {} (\"{}\" \"{}\"): expected tokens, found text that is none", rank,
                                   left.substr(0, 100), right.substr(0, 100)));
    }
    merges.push_back({{l, r}, static_cast<std::int32_t>(rank), both});
    made.add_join(left, right);
  }
  auto table = BpeMerges::create(merges, made.symbols_);
  if (!table) return tl::make_unexpected(table.error());
  made.merges_ = std::move(*table);
  made.build_joins();
  return made;
}

std::vector<TokenPair> CharacterBpe::merges() const {
  std::vector<TokenPair> list;
  for (const RankedMerge& merge : merges_.sorted()) list.push_back(merge.pair);
  return list;
}

bool CharacterBpe::is_unknown(std::string_view stretch) const {
  const Utf8Step first = utf8_step(stretch, 0);
  return first.bytes == stretch.size() && symbol_of(first.code_point) < 0;
}

Result<void> CharacterBpe::append_unknown(std::string_view character, const CharacterFallback& fallback,
                                          bool& unknown_before, std::vector<std::int32_t>& tokens) {
  const auto byte_token = [&](char c) { return fallback.byte_tokens[static_cast<unsigned char>(c)]; };
  if (std::all_of(character.begin(), character.end(), [&](char c) { return byte_token(c) >= 0; })) {
    for (const char c : character) tokens.push_back(byte_token(c));
    unknown_before = false;
    return {};
  }
  if (fallback.unknown < 0) {
    const Utf8Step step = utf8_step(character, 0);
    if (step.code_point < 0) {
      return bad_input(fmt::format("the byte 0x{:02X} is not valid UTF-8 and the vocabulary has no token for it",
                                   static_cast<unsigned char>(character[0])));
    }
    return bad_input(fmt::format("the character U+{:04X} has no token in the vocabulary", step.code_point));
  }
  if (!unknown_before || !fallback.fuse_unknown) tokens.push_back(fallback.unknown);
  unknown_before = true;
  return {};
}

Result<void> CharacterBpe::encode_stretch(std::string_view stretch, const CharacterFallback& fallback, BpeWork& work,
                                          std::vector<std::int32_t>& tokens) const {
  auto& symbols = work.symbols;
  symbols.clear();
  for (std::size_t at = 0; at < stretch.size();) {
    const Utf8Step next = utf8_step(stretch, at);
    symbols.push_back(symbol_of(next.code_point));  // characters that join have a symbol
    at += next.bytes;
  }
  merges_.apply(symbols, work.scratch);
  std::vector<std::int32_t> open;  // parts of unused tokens
  bool unknown_before = false;
  for (const std::int32_t merged : symbols) {
    open.push_back(merged);
    while (!open.empty()) {
      const std::int32_t symbol = open.back();
      open.pop_back();
      if (const auto parts = taken_apart_.find(symbol); parts != taken_apart_.end()) {
        open.push_back(parts->second.right);
        open.push_back(parts->second.left);
      } else if (symbol >= symbols_) {
        if (auto done = append_unknown(extra_[symbol - symbols_], fallback, unknown_before, tokens); !done) return done;
      } else {
        tokens.push_back(symbol);
        unknown_before = false;
      }
    }
  }
  return {};
}

}  // namespace quern
