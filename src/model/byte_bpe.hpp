// Byte-level byte-pair encoding with a published vocabulary: ids, merges and bytes in any order.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "math/result.hpp"
#include "model/bpe.hpp"
#include "model/character_bpe.hpp"
#include "model/text_index.hpp"

namespace quern {

/// Immutable; safe to share between threads.
class ByteBpe {
 public:
  ByteBpe() = default;

  /// `tokens` are the bytes of the tokens that words are made of (empty: not one of those); `merges`, in their order of
  /// preference, are pairs of byte strings. A merge may make bytes that are no token; if nothing merges them further they
  /// are written byte by byte. With `whole_words` a word that is a token becomes it, whatever the merges say.
  /// `byte_tokens` (-1: none) stand for bytes that `tokens` lack. The tokens are not kept: give encode() and merges() the
  /// same, or ones in which the empty texts are not.
  [[nodiscard]] static Result<ByteBpe> create(std::span<const std::string> tokens,
                                              std::span<const std::pair<std::string, std::string>> merges, bool whole_words,
                                              const std::array<std::int32_t, 256>& byte_tokens);

  /// Appends the ids of one word; `tokens` as given to create(). A byte without a token becomes `unknown`, or an error where
  /// that is negative. O(n log n).
  [[nodiscard]] Result<void> encode(std::string_view word, std::span<const std::string> tokens, std::int32_t unknown,
                                    BpeWork& work, std::vector<std::int32_t>& ids) const;

  /// The merges as create() takes them; `tokens` are those that it took.
  [[nodiscard]] std::vector<std::pair<std::string, std::string>> merges(std::span<const std::string> tokens) const;

 private:
  std::array<std::int32_t, 256> bytes_{};        // symbol of each byte
  std::array<std::int32_t, 256> byte_tokens_{};  // token of each byte that is not mergeable, -1: none
  std::vector<std::string> extra_;               // what is no token: symbols tokens_ and up
  std::int32_t tokens_ = 0;
  BpeMerges merges_;
  TextIndex words_;  // with whole_words
};

}  // namespace quern
