#include "model/bpe_trainer.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <queue>
#include <thread>

namespace quern {
namespace {

// Large enough that a thread's start costs nothing, small enough that a few megabytes feed several threads.
constexpr std::size_t kChunkBytes = std::size_t{1} << 18;

std::uint64_t key_of(std::int32_t left, std::int32_t right) {
  return static_cast<std::uint64_t>(static_cast<std::uint32_t>(left)) << 32 | static_cast<std::uint32_t>(right);
}

struct PairState {
  std::int64_t count = 0;
  std::vector<std::int32_t> words;  // words that have (or once had) the pair; may repeat
};

struct HeapEntry {
  std::int64_t count = 0;
  std::uint64_t key = 0;
  // The heap's top is the largest: highest count, then the smallest pair.
  friend bool operator<(const HeapEntry& a, const HeapEntry& b) {
    return a.count != b.count ? a.count < b.count : a.key > b.key;
  }
};

class Trainer {
 public:
  Trainer(const std::vector<WordCount>& words, const BpeTrainingOptions& options) : options_(options) {
    for (int byte = 0; byte < 256; ++byte) {
      tokens_.emplace_back(1, static_cast<char>(byte));
      ids_.emplace(tokens_.back(), byte);
    }
    words_.reserve(words.size());
    for (const WordCount& word : words) {
      if (word.word.size() < 2) continue;
      words_.push_back({std::vector<std::int32_t>(), word.count});
      for (const char c : word.word) words_.back().symbols.push_back(static_cast<unsigned char>(c));
      const auto index = static_cast<std::int32_t>(words_.size() - 1);
      const auto& symbols = words_.back().symbols;
      for (std::size_t i = 0; i + 1 < symbols.size(); ++i) add(key_of(symbols[i], symbols[i + 1]), word.count, index);
    }
    for (const auto& [key, state] : pairs_) push(key, state.count);
  }

  std::vector<TokenPair> run() {
    std::vector<TokenPair> merges;
    const auto wanted = static_cast<std::size_t>(options_.tokens);
    while (tokens_.size() < wanted && !heap_.empty()) {
      const HeapEntry top = heap_.top();
      heap_.pop();
      // Counts in the heap are those of the last push; a pair whose count fell since goes back with the new one.
      const std::int64_t count = pairs_[top.key].count;
      if (count != top.count) {
        push(top.key, count);
        continue;
      }
      const TokenPair pair{static_cast<std::int32_t>(top.key >> 32), static_cast<std::int32_t>(top.key & 0xFFFFFFFFU)};
      std::string bytes = tokens_[pair.left] + tokens_[pair.right];
      if (bytes.size() > kMaxTokenBytes) continue;
      const auto [place, fresh] = ids_.emplace(std::move(bytes), static_cast<std::int32_t>(tokens_.size()));
      if (fresh) tokens_.push_back(place->first);
      merges.push_back(pair);
      merge(top.key, pair, place->second);
      if (options_.progress && (tokens_.size() % 256 == 0 || tokens_.size() == wanted)) {
        options_.progress(static_cast<std::int64_t>(tokens_.size()), options_.tokens);
      }
    }
    return merges;
  }

 private:
  struct Word {
    std::vector<std::int32_t> symbols;
    std::int64_t count = 0;
  };

  void push(std::uint64_t key, std::int64_t count) {
    if (count >= std::max<std::int64_t>(options_.minimum_count, 1)) heap_.push({count, key});
  }

  void add(std::uint64_t key, std::int64_t count, std::int32_t word) {
    PairState& state = pairs_[key];
    state.count += count;
    if (state.words.empty() || state.words.back() != word) state.words.push_back(word);
  }

  // Replaces the pair in every word that has it. Beside each place two pairs go and two come; a neighbour that was itself
  // just merged is found as the last symbol written, so runs such as "abab" count right.
  void merge(std::uint64_t key, TokenPair pair, std::int32_t result) {
    const std::vector<std::int32_t> touched = std::move(pairs_[key].words);
    changed_.clear();
    for (const std::int32_t index : touched) {
      Word& word = words_[index];
      auto& symbols = word.symbols;
      std::size_t kept = 0;
      for (std::size_t i = 0; i < symbols.size(); ++i) {
        if (symbols[i] != pair.left || i + 1 >= symbols.size() || symbols[i + 1] != pair.right) {
          symbols[kept++] = symbols[i];
          continue;
        }
        if (kept > 0) {
          pairs_[key_of(symbols[kept - 1], pair.left)].count -= word.count;
          gain(key_of(symbols[kept - 1], result), word.count, index);
        }
        if (i + 2 < symbols.size()) {
          pairs_[key_of(pair.right, symbols[i + 2])].count -= word.count;
          gain(key_of(result, symbols[i + 2]), word.count, index);
        }
        symbols[kept++] = result;
        ++i;
      }
      symbols.resize(kept);
    }
    pairs_.erase(key);
    std::sort(changed_.begin(), changed_.end());
    changed_.erase(std::unique(changed_.begin(), changed_.end()), changed_.end());
    for (const std::uint64_t gained : changed_) {
      const auto found = pairs_.find(gained);
      if (found != pairs_.end()) push(gained, found->second.count);
    }
  }

  void gain(std::uint64_t key, std::int64_t count, std::int32_t word) {
    add(key, count, word);
    changed_.push_back(key);
  }

  const BpeTrainingOptions& options_;
  std::vector<Word> words_;
  std::vector<std::string> tokens_;
  std::unordered_map<std::string, std::int32_t> ids_;
  std::unordered_map<std::uint64_t, PairState> pairs_;
  std::priority_queue<HeapEntry> heap_;
  std::vector<std::uint64_t> changed_;
};

}  // namespace

WordCounter::WordCounter(Pretokenizer pretokenizer, int threads)
    : pretokenizer_(std::move(pretokenizer)), per_thread_(static_cast<std::size_t>(std::max(threads, 1))) {}

void WordCounter::add(std::string_view text) {
  std::vector<std::string_view> chunks;
  while (text.size() > kChunkBytes) {
    const std::size_t cut = cut_between_pieces(text, kChunkBytes);
    chunks.push_back(text.substr(0, cut));
    text.remove_prefix(cut);
  }
  if (!text.empty()) chunks.push_back(text);
  std::atomic<std::size_t> next{0};
  const auto work = [&](Counts& counts) {
    std::vector<std::size_t> ends;
    std::string word;
    for (std::size_t i = next.fetch_add(1); i < chunks.size(); i = next.fetch_add(1)) {
      ends.clear();
      pretokenizer_.split(chunks[i], ends);
      std::size_t begin = 0;
      for (const std::size_t end : ends) {
        word.assign(chunks[i].substr(begin, end - begin));
        ++counts[word];
        begin = end;
      }
    }
  };
  std::vector<std::thread> helpers;
  for (std::size_t t = 1; t < std::min(per_thread_.size(), chunks.size()); ++t) {
    helpers.emplace_back(work, std::ref(per_thread_[t]));
  }
  work(per_thread_[0]);
  for (std::thread& helper : helpers) helper.join();
}

std::vector<WordCount> WordCounter::sorted() const {
  Counts sum;
  for (const Counts& counts : per_thread_) {
    for (const auto& [word, count] : counts) sum[word] += count;
  }
  std::vector<WordCount> words;
  words.reserve(sum.size());
  for (const auto& [word, count] : sum) words.push_back({word, count});
  std::sort(words.begin(), words.end(), [](const WordCount& a, const WordCount& b) { return a.word < b.word; });
  return words;
}

Result<std::vector<TokenPair>> train_bpe(const std::vector<WordCount>& words, const BpeTrainingOptions& options) {
  if (options.tokens < 256 || options.tokens > (1 << 24)) {
    return bad_input(fmt::format("a byte-level vocabulary has 256 to {} tokens, asked for {}", 1 << 24, options.tokens));
  }
  return Trainer(words, options).run();
}

}  // namespace quern
