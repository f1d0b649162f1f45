// Learns byte-pair merges from text: count the pre-tokenizer's pieces, then merge the most frequent pair, again and again.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "model/bpe.hpp"
#include "model/pretokenizer.hpp"

namespace quern {

/// How often a piece occurs.
struct WordCount {
  std::string word;
  std::int64_t count = 0;
};

/// Counts the pieces of a text that comes in parts. Long parts are cut (cut_between_pieces) into chunks of a fixed size and
/// counted on several threads; counts depend on neither the number of threads nor their timing.
class WordCounter {
 public:
  /// `threads` >= 1.
  WordCounter(Pretokenizer pretokenizer, int threads);
  void add(std::string_view text);
  /// All pieces, sorted by their bytes.
  [[nodiscard]] std::vector<WordCount> sorted() const;

 private:
  using Counts = std::unordered_map<std::string, std::int64_t>;
  Pretokenizer pretokenizer_;
  std::vector<Counts> per_thread_;
};

struct BpeTrainingOptions {
  std::int64_t tokens = 8192;      ///< 256 bytes and learnt tokens together, without special ones
  std::int64_t minimum_count = 2;  ///< pairs that occur less often are not merged; training then stops early
  /// Called now and then with the tokens so far.
  std::function<void(std::int64_t done, std::int64_t total)> progress = {};
};

/// The merges, most frequent pair first; among equals the pair with the smaller left, then right token. Deterministic in
/// `words` (whose order does not matter) and `options`. Fewer than asked for where the text runs out of pairs. Error
/// bad_input when `tokens` is below 256 or above 2^24.
[[nodiscard]] Result<std::vector<TokenPair>> train_bpe(const std::vector<WordCount>& words,
                                                       const BpeTrainingOptions& options);

}  // namespace quern
