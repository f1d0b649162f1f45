// What a step of the decoder takes by its number of tokens, learned from the steps that are made.
#pragma once

#include <array>
#include <cstdint>

namespace quern {

/// The most tokens of one step whose rows, over block-quantized weights, have the same bits in any company.
inline constexpr std::int64_t kExactRows = 32;

/// Estimates seconds of a step of 1 to kExactRows tokens: a level, which follows the machine (its speed may change by half
/// from second to second, and texts get longer), times a cost relative to one token, which belongs to model and kernels.
/// Steps without drafts move the level, steps with drafts the relative costs, unless those are well known and no step
/// without drafts was seen for a while.
///
/// Other processes make steps slower, never faster; so estimates follow what is faster than they are more readily, by twice.
///
/// Relative costs that were found high long ago are doubted a little more with each step that avoids them, so that what
/// once looked bad, perhaps because another process disturbed it, is tried again.
class StepCost {
 public:
  /// A step of `rows` tokens took so long; `drafts`: some of them were proposals.
  void observe(std::int64_t rows, double seconds, bool drafts);

  /// Estimate for a step of `rows` tokens; 0 before the first observation.
  [[nodiscard]] double seconds(std::int64_t rows) const { return level_ * relative(rows); }
  /// The most tokens of a step seen so far: estimates above are guesses.
  [[nodiscard]] std::int64_t largest_seen() const { return largest_seen_; }

 private:
  // Where relative costs are kept; between them they are interpolated. Close where kernels change their blocking.
  static constexpr std::array<std::int64_t, 14> kRows = {1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 28, 32};

  [[nodiscard]] double relative(std::int64_t rows) const;
  void correct(std::size_t knot, double ratio, double patient, double share, double old_value);

  struct Knot {
    double relative = 1.0;
    double observations = 0.0;
  };
  std::array<Knot, kRows.size()> knots_{};
  double level_ = 0.0;
  std::int64_t largest_seen_ = 0;
  std::int64_t steps_since_plain_ = 0;
};

}  // namespace quern
