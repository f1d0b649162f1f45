// Byte-pair encoding: the table of merges, and how it turns the symbols of a word into tokens.
#pragma once

#include <array>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "math/result.hpp"

namespace quern {

/// Two tokens that stand side by side.
struct TokenPair {
  std::int32_t left = 0;
  std::int32_t right = 0;
  friend bool operator==(const TokenPair&, const TokenPair&) = default;
};

/// A merge with its order of preference written out; merges of equal rank are done from left to right.
struct RankedMerge {
  TokenPair pair;
  std::int32_t rank = 0;
  std::int32_t result = 0;
};

/// Working memory of BpeMerges::apply, kept by the caller so that words after the first allocate nothing.
struct BpeScratch {
  struct Candidate {
    std::int32_t rank = 0;
    std::int32_t position = 0;
    TokenPair pair;
  };
  std::vector<Candidate> heap;
  std::vector<std::int32_t> next, previous;
};

/// Which pairs merge, in which order of preference (rank, lower first), and into what. Immutable; safe to share.
class BpeMerges {
 public:
  struct Merge {
    std::int32_t rank = 0;
    std::int32_t result = 0;
  };

  BpeMerges() = default;
  /// `pairs[rank]` merges into `results[rank]`. Error bad_input where a pair occurs twice or a token is not in 0 ..
  /// vocab_size-1.
  [[nodiscard]] static Result<BpeMerges> create(std::span<const TokenPair> pairs, std::span<const std::int32_t> results,
                                                std::int64_t vocab_size);

  /// The same from merges with ranks of their own; of a pair that occurs twice the lower rank counts. `symbol_count` bounds
  /// all three symbols.
  [[nodiscard]] static Result<BpeMerges> create(std::span<const RankedMerge> merges, std::int64_t symbol_count);
  /// All merges, by rank and then by pair.
  [[nodiscard]] std::vector<RankedMerge> sorted() const;

  /// The merge of a pair, nullptr where there is none.
  [[nodiscard]] const Merge* find(TokenPair pair) const {
    if (slots_.empty()) return nullptr;
    for (std::size_t at = slot_of(pair);; at = (at + 1) & (slots_.size() - 1)) {
      if (slots_[at].pair == pair) return &slots_[at].merge;
      if (slots_[at].pair.left < 0) return nullptr;
    }
  }

  /// Merges the symbols in place: as long as any neighbours have a merge, the pair of lowest rank merges, the leftmost
  /// first. O(n log n) for long words.
  void apply(std::vector<std::int32_t>& symbols, BpeScratch& scratch) const;

 private:
  struct Slot {
    TokenPair pair{-1, -1};
    Merge merge;
  };
  [[nodiscard]] std::size_t slot_of(TokenPair pair) const {
    const std::uint64_t key =
        static_cast<std::uint64_t>(static_cast<std::uint32_t>(pair.left)) << 32 | static_cast<std::uint32_t>(pair.right);
    return static_cast<std::size_t>(key * 0x9E3779B97F4A7C15ULL >> 32) & (slots_.size() - 1);
  }
  void apply_short(std::vector<std::int32_t>& symbols) const;
  void apply_long(std::vector<std::int32_t>& symbols, BpeScratch& scratch) const;
  std::vector<Slot> slots_;  // open addressing; a power of two, at most half full
};

/// The tokens that byte-level merges make: ids 0 to 255 are the bytes; then, in the merges' order, each result whose bytes
/// are new. A merge into bytes that already are a token gives that token.
struct BpeVocabulary {
  std::vector<std::string> tokens;    ///< bytes of each id
  std::vector<std::int32_t> results;  ///< result of each merge
};

/// Limits that keep a hostile list of merges (each doubling the one before) from taking all memory.
inline constexpr std::size_t kMaxTokenBytes = 1 << 16;
inline constexpr std::size_t kMaxVocabularyBytes = std::size_t{1} << 28;

/// Error bad_input where a merge names a token that no earlier merge made, repeats a pair, or breaks the limits above.
[[nodiscard]] Result<BpeVocabulary> build_bpe_vocabulary(std::span<const TokenPair> merges);

}  // namespace quern
