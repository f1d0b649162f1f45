#include "model/byte_bpe.hpp"

#include <fmt/format.h>

namespace quern {

Result<ByteBpe> ByteBpe::create(std::span<const std::string> tokens,
                                std::span<const std::pair<std::string, std::string>> merges, bool whole_words,
                                const std::array<std::int32_t, 256>& byte_tokens) {
  ByteBpe made;
  made.byte_tokens_ = byte_tokens;
  made.tokens_ = static_cast<std::int32_t>(tokens.size());
  const auto text_of = [&](std::int32_t symbol) -> std::string_view {
    if (symbol < made.tokens_) return tokens[static_cast<std::size_t>(symbol)];
    return made.extra_[static_cast<std::size_t>(symbol - made.tokens_)];
  };
  TextIndex ids;
  ids.reserve(tokens.size() + 256);
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    if (!tokens[id].empty()) ids.add(tokens[id], static_cast<std::int32_t>(id), text_of);
  }
  if (whole_words) made.words_ = ids;
  const auto symbol = [&](const std::string& bytes) {
    const std::int32_t known = ids.find(bytes, text_of);
    if (known >= 0) return known;
    made.extra_.push_back(bytes);
    return ids.add(bytes, made.tokens_ + static_cast<std::int32_t>(made.extra_.size()) - 1, text_of);
  };
  for (int byte = 0; byte < 256; ++byte) made.bytes_[byte] = symbol(std::string(1, static_cast<char>(byte)));
  std::string whole;
  std::vector<RankedMerge> ranked;
  ranked.reserve(merges.size());
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    if (left.empty() || right.empty()) {
      return bad_input(fmt::format("merge {}: expected two parts, found an empty one", rank));
    }
    const std::int32_t l = symbol(left), r = symbol(right);
    whole.assign(left).append(right);
    ranked.push_back({{l, r}, static_cast<std::int32_t>(rank), symbol(whole)});
  }
  auto table = BpeMerges::create(ranked, made.tokens_ + static_cast<std::int64_t>(made.extra_.size()));
  if (!table) return tl::make_unexpected(table.error());
  made.merges_ = std::move(*table);
  return made;
}

Result<void> ByteBpe::encode(std::string_view word, std::span<const std::string> tokens, std::int32_t unknown, BpeWork& work,
                             std::vector<std::int32_t>& ids) const {
  const std::int32_t whole =
      words_.find(word, [&](std::int32_t id) -> std::string_view { return tokens[static_cast<std::size_t>(id)]; });
  if (whole >= 0) {
    ids.push_back(whole);
    return {};
  }
  work.symbols.clear();
  for (const char c : word) work.symbols.push_back(bytes_[static_cast<unsigned char>(c)]);
  merges_.apply(work.symbols, work.scratch);
  for (const std::int32_t symbol : work.symbols) {
    if (symbol < tokens_) {
      ids.push_back(symbol);
      continue;
    }
    for (const char c : extra_[symbol - tokens_]) {
      const auto byte = static_cast<unsigned char>(c);
      const std::int32_t other = byte_tokens_[byte] >= 0 ? byte_tokens_[byte] : unknown;
      const std::int32_t id = bytes_[byte] < tokens_ ? bytes_[byte] : other;
      if (id < 0) return bad_input(fmt::format("the byte 0x{:02X} has no token in the vocabulary", byte));
      ids.push_back(id);
    }
  }
  return {};
}

std::vector<std::pair<std::string, std::string>> ByteBpe::merges(std::span<const std::string> tokens) const {
  const auto bytes = [&](std::int32_t symbol) {
    return symbol < tokens_ ? tokens[static_cast<std::size_t>(symbol)] : extra_[static_cast<std::size_t>(symbol - tokens_)];
  };
  std::vector<std::pair<std::string, std::string>> list;
  for (const RankedMerge& merge : merges_.sorted()) list.emplace_back(bytes(merge.pair.left), bytes(merge.pair.right));
  return list;
}

}  // namespace quern
