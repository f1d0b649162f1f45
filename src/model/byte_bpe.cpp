#include "model/byte_bpe.hpp"

#include <fmt/format.h>

namespace quern {

Result<ByteBpe> ByteBpe::create(std::span<const std::string> tokens,
                                std::span<const std::pair<std::string, std::string>> merges, bool whole_words,
                                const std::array<std::int32_t, 256>& byte_tokens) {
  ByteBpe made;
  made.byte_tokens_ = byte_tokens;
  made.tokens_ = static_cast<std::int32_t>(tokens.size());
  std::unordered_map<std::string, std::int32_t> ids;
  ids.reserve(tokens.size());
  for (std::size_t id = 0; id < tokens.size(); ++id) {
    if (!tokens[id].empty()) ids.emplace(tokens[id], static_cast<std::int32_t>(id));
  }
  if (whole_words) made.words_ = ids;
  const auto symbol = [&](const std::string& bytes) {
    const auto [place, fresh] = ids.emplace(bytes, made.tokens_ + static_cast<std::int32_t>(made.extra_.size()));
    if (fresh) made.extra_.push_back(bytes);
    return place->second;
  };
  for (int byte = 0; byte < 256; ++byte) made.bytes_[byte] = symbol(std::string(1, static_cast<char>(byte)));
  std::vector<RankedMerge> ranked;
  ranked.reserve(merges.size());
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    if (left.empty() || right.empty()) {
      return bad_input(fmt::format("merge {}: expected two parts, found an empty one", rank));
    }
    const std::int32_t l = symbol(left), r = symbol(right);
    ranked.push_back({{l, r}, static_cast<std::int32_t>(rank), symbol(left + right)});
  }
  auto table = BpeMerges::create(ranked, made.tokens_ + static_cast<std::int64_t>(made.extra_.size()));
  if (!table) return tl::make_unexpected(table.error());
  made.merges_ = std::move(*table);
  return made;
}

Result<void> ByteBpe::encode(std::string_view word, std::int32_t unknown, BpeWork& work,
                             std::vector<std::int32_t>& tokens) const {
  if (!words_.empty()) {
    if (const auto found = words_.find(std::string(word)); found != words_.end()) {
      tokens.push_back(found->second);
      return {};
    }
  }
  work.symbols.clear();
  for (const char c : word) work.symbols.push_back(bytes_[static_cast<unsigned char>(c)]);
  merges_.apply(work.symbols, work.scratch);
  for (const std::int32_t symbol : work.symbols) {
    if (symbol < tokens_) {
      tokens.push_back(symbol);
      continue;
    }
    for (const char c : extra_[symbol - tokens_]) {
      const auto byte = static_cast<unsigned char>(c);
      const std::int32_t other = byte_tokens_[byte] >= 0 ? byte_tokens_[byte] : unknown;
      const std::int32_t id = bytes_[byte] < tokens_ ? bytes_[byte] : other;
      if (id < 0) return bad_input(fmt::format("the byte 0x{:02X} has no token in the vocabulary", byte));
      tokens.push_back(id);
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
