// Proposes what followed the same words before: n-gram or prompt lookup over prompt and output.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "infer/drafter.hpp"
#include "infer/suffix_automaton.hpp"

namespace quern {

/// Looks the longest possible end of the text up in the text itself (prompt lookup, Saxena 2023, with a suffix automaton in
/// place of a search for n-grams of fixed sizes) and proposes what followed: the token that followed last, or, where that is
/// one of many, the one that followed most often. A proposal that reaches the end of the text goes on with a shorter match,
/// so what repeats with a period is continued with that period.
///
/// Whether a proposal is right depends above all on the length of the match and on whether the same token always followed.
/// So proposals are told apart by those two, and each kind has its own rate of success. Every token of the output counts
/// for the rate of the proposal for its place, whether that was made or not, which costs no pass of the model.
class NgramDrafter final : public Drafter {
 public:
  /// `longest_text`: older tokens are forgotten when the text is twice as long (endless generation); 0: never.
  explicit NgramDrafter(std::int64_t longest_text = 0);

  [[nodiscard]] Result<void> begin(std::span<const std::int32_t> text) override;
  void append(std::int32_t token) override;
  [[nodiscard]] Result<std::span<const DraftToken>> draft(std::span<const std::int32_t> text, std::int64_t most,
                                                          std::uint64_t draws, const GoOn& go_on) override;

  [[nodiscard]] std::size_t bytes() const { return automaton_.bytes(); }

 private:
  static constexpr std::size_t kLengths = 9, kAgreements = 4;

  struct Guess {
    std::int32_t token = 0;
    std::size_t kind = 0;  // index into rates_
    SuffixAutomaton::Match next;
  };
  /// The token to propose after a match, trying shorter ones until one was followed by something; false: none was.
  bool guess(SuffixAutomaton::Match match, Guess& found) const;

  SuffixAutomaton automaton_;
  std::int64_t longest_text_;
  std::vector<std::int32_t> recent_;  // the last tokens, where older ones are to be forgotten
  std::array<HitRate, kLengths * kAgreements> rates_;
  std::vector<DraftToken> draft_;
};

}  // namespace quern
