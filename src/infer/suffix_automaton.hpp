// What followed the end of a text where that end occurred before: a suffix automaton, grown token by token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace quern {

/// The suffix automaton of a text (Blumer et al. 1985; online construction): every string of tokens that occurs in it, in at
/// most 2 n states and 3 n edges. Each edge counts how often its token followed, each state knows which token followed last.
///
/// A token that is appended counts for the ends of the text that it follows. Those form a chain, which is as long as the
/// text where that repeats one token; so only the `counted_ends` longest kinds of end (those that were followed by the same
/// tokens at the same places are one kind) are counted, which is exact for what a longest match needs unless a text has
/// more kinds of ends that occurred before.
///
/// Not thread-safe. append() allocates now and then, queries never do.
class SuffixAutomaton {
 public:
  static constexpr std::int64_t kCountedEnds = 32;

  explicit SuffixAutomaton(std::int64_t counted_ends = kCountedEnds) : counted_ends_(counted_ends) { clear(); }

  void clear();
  /// Amortized O(1) table look-ups, and `counted_ends` at most.
  void append(std::int32_t token);
  void append(std::span<const std::int32_t> tokens);

  /// Tokens of the text.
  [[nodiscard]] std::int64_t size() const { return size_; }
  /// Memory in use: at most about 130 bytes a token, up to twice that while vectors grow.
  [[nodiscard]] std::size_t bytes() const;

  /// A string of the text. Valid until the next append().
  struct Match {
    std::int32_t state = 0;
    std::int64_t length = 0;  ///< tokens; 0: the empty string
  };
  /// The longest end of the text that occurs in it at an earlier place too (the two may overlap).
  [[nodiscard]] Match longest_match() const;

  /// What followed a string.
  struct Continuation {
    std::int32_t token = 0;
    std::int64_t times = 0;      ///< that this token followed
    std::int64_t followers = 0;  ///< that any token followed
    Match next;                  ///< the string with the token
  };
  /// The token that followed the string last, the one that followed it most often (of several the first to have done so
  /// as often); none where the string occurs at the text's end alone.
  [[nodiscard]] std::optional<Continuation> last_continuation(const Match& match) const;
  [[nodiscard]] std::optional<Continuation> frequent_continuation(const Match& match) const;
  /// The next shorter end of the text that occurs more often than `match`, which must be an end of it.
  [[nodiscard]] Match shorter(const Match& match) const;

 private:
  static constexpr std::int32_t kNone = -1;

  struct State {
    std::int32_t length = 0;  // of the longest string
    std::int32_t link = kNone;
    std::int32_t first_edge = kNone;
    std::int32_t last_edge_taken = kNone;
    std::int32_t frequent_edge = kNone;
    std::int32_t followers = 0;
  };
  struct Edge {
    std::int32_t source = 0;
    std::int32_t token = 0;
    std::int32_t target = 0;
    std::int32_t next = kNone;  // of the same source
    std::int32_t times = 0;
  };

  [[nodiscard]] State& state(std::int32_t i) { return states_[static_cast<std::size_t>(i)]; }
  [[nodiscard]] const State& state(std::int32_t i) const { return states_[static_cast<std::size_t>(i)]; }
  [[nodiscard]] Edge& edge(std::int32_t i) { return edges_[static_cast<std::size_t>(i)]; }
  [[nodiscard]] std::int32_t find_edge(std::int32_t source, std::int32_t token) const;
  std::int32_t add_edge(std::int32_t source, std::int32_t token, std::int32_t target, std::int32_t times);
  std::int32_t add_state(std::int32_t length);
  std::int32_t clone(std::int32_t original, std::int32_t length);
  void count(std::int32_t source, std::int32_t edge_index);
  void grow_table();
  [[nodiscard]] std::optional<Continuation> continuation(const Match& match, std::int32_t edge_index) const;

  std::int64_t counted_ends_;
  std::int64_t size_ = 0;
  std::int32_t last_ = 0;  // the state of the whole text
  std::vector<State> states_;
  std::vector<Edge> edges_;
  std::vector<std::int32_t> table_;  // open addressing, a power of two: edges by source and token
};

}  // namespace quern
