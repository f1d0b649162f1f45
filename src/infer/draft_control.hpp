// How many proposed tokens a step checks: as many as pay, by what steps cost and how often proposals are right.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "infer/drafter.hpp"
#include "infer/step_cost.hpp"

namespace quern {

/// Chooses the number of proposals that gives the most tokens a second, by expectation: a step that checks proposals for B
/// texts draws B tokens and one more for each proposal that is right, as are those before it; it takes StepCost::seconds(B +
/// proposals), and what making the proposals takes.
///
/// Expectations can be wrong, so there is an account: each step adds 1 % of its time, a step with proposals also what it
/// won or lost against drawing the same tokens without (by the estimates: a step that another process disturbed is no
/// loss of speculation's). Where the account is empty nothing is proposed. So speculation can
/// cost no more than about 1 % of the time, beyond the account's small stock and the last step that empties it.
class DraftControl {
 public:
  /// `most_rows`: tokens of one step at most, proposals included. `first_steps`: what the account has at first, in steps of
  /// one token.
  explicit DraftControl(std::int64_t most_rows, double first_steps = 0.5)
      : most_rows_(most_rows), first_steps_(first_steps) {}

  /// For proposals that cost nothing, one a text: fills `taken` with how many of each to check, from its beginning.
  void choose(std::span<const std::span<const DraftToken>> offers, std::span<std::int64_t> taken) const;

  /// For one text and proposals that take seconds_per_token each: how many to make, going by the usual chance; 0: none.
  /// Now and then, where the account has enough for it and for catching up (`seconds_behind`, see Drafter), proposals that
  /// would not pay are asked for all the same, to learn whether their chance has changed.
  [[nodiscard]] std::int64_t plan(const Drafter& drafter, double seconds_behind, std::int64_t most) const;
  /// Whether to make one more, now that the chances of those so far are known.
  [[nodiscard]] bool go_on(const Drafter& drafter, std::span<const DraftToken> so_far, std::int64_t most) const;

  /// A step drew `drawn` tokens for `sequences` texts. It computed `rows` tokens, `drafted` of them proposals, in
  /// `step_seconds`, after `draft_seconds` for making proposals.
  void observe(std::int64_t sequences, std::int64_t rows, std::int64_t drafted, std::int64_t drawn, double step_seconds,
               double draft_seconds);

  [[nodiscard]] const StepCost& cost() const { return cost_; }
  [[nodiscard]] std::int64_t most_rows() const { return most_rows_; }
  /// Seconds in the account.
  [[nodiscard]] double account() const { return account_; }

 private:
  /// The most tokens of a step now: at most twice as many as were ever tried, since costs above are guesses.
  [[nodiscard]] std::int64_t row_limit() const;

  std::int64_t most_rows_;
  double first_steps_;
  StepCost cost_;
  double account_ = 0.0;
  bool opened_ = false;
};

}  // namespace quern
