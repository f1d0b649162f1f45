// Words met before in a text and the tokens that they became; only the tokenizers' own sources include this.
#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

namespace quern::internal {

/// Where the tokens of a word that was met before stand in the output. Words are views of the text being encoded.
class WordCache {
 public:
  struct Entry {
    std::uint64_t hash = 0;
    const char* word = nullptr;  ///< nullptr: free
    std::uint32_t bytes = 0;
    std::uint32_t tokens = 0;
    std::size_t first = 0;
  };

  /// The entry of `word`, or a free one to fill; nullptr when there is no room for more.
  Entry* find(std::string_view word) {
    if (word.size() > kMaxBytes) return nullptr;
    if (used_ * 2 >= entries_.size()) grow();
    const std::uint64_t hash = std::hash<std::string_view>{}(word);
    Entry* entry = slot(hash, word);
    if (entry->word == nullptr) {
      if (used_ >= kMaxEntries) return nullptr;
      ++used_;
      entry->hash = hash;
      entry->bytes = 0;
    }
    return entry;
  }

  /// Appends the tokens of `word`: those that it had before, or what `encode()` appends.
  template <class Encode>
  void append(std::string_view word, std::vector<std::int32_t>& tokens, const Encode& encode) {
    Entry* entry = word.size() > 1 ? find(word) : nullptr;
    const std::size_t first = tokens.size();
    if (entry != nullptr && entry->word != nullptr) {
      tokens.resize(first + entry->tokens);
      std::copy_n(tokens.begin() + static_cast<std::ptrdiff_t>(entry->first), entry->tokens,
                  tokens.begin() + static_cast<std::ptrdiff_t>(first));
      return;
    }
    encode();
    if (entry == nullptr) return;
    entry->word = word.data();
    entry->bytes = static_cast<std::uint32_t>(word.size());
    entry->tokens = static_cast<std::uint32_t>(tokens.size() - first);
    entry->first = first;
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

}  // namespace quern::internal
