#include "infer/step_cost.hpp"

#include <algorithm>
#include <cmath>

namespace quern {

namespace {

// Per token beyond those seen, of a step of one token, before anything is known.
constexpr double kGuessedSlope = 0.2;
// A level or a well-known relative cost moves by this much of what a step differs from the estimate.
constexpr double kLevelStep = 0.25, kRelativeStep = 0.15;
// Steps after which the level is no longer taken as fresh.
constexpr std::int64_t kStale = 16;
// Observations after which a relative cost counts as known.
constexpr double kKnown = 8.0;
// Observations from which on slower steps are met with patience.
constexpr double kPatient = 2.0;
// How fast a high relative cost is doubted: by this much a step, divided by its observations.
constexpr double kDoubt = 0.02;

double guessed(std::int64_t rows) { return 1.0 + kGuessedSlope * static_cast<double>(rows - 1); }

}  // namespace

double StepCost::relative(std::int64_t rows) const {
  std::int64_t below = 1, above = 0;
  double at_below = 1.0, at_above = 0.0, slope = kGuessedSlope;
  for (std::size_t i = 1; i < kRows.size(); ++i) {
    if (knots_[i].observations == 0.0) continue;
    if (kRows[i] > rows) {
      above = kRows[i];
      at_above = knots_[i].relative;
      break;
    }
    slope = std::max(0.0, (knots_[i].relative - 1.0) / static_cast<double>(kRows[i] - 1));
    below = kRows[i];
    at_below = knots_[i].relative;
  }
  if (above == 0) return at_below + slope * static_cast<double>(rows - below);
  return at_below + (at_above - at_below) * static_cast<double>(rows - below) / static_cast<double>(above - below);
}

void StepCost::correct(std::size_t knot, double ratio, double patient, double share, double old_value) {
  Knot& k = knots_[knot];
  if (knot == 0 || share <= 0.0) return;
  if (k.observations == 0.0) k.relative = old_value;
  // The first observations soon outweigh the guess, later ones come more and more slowly.
  const double step = share * std::max(kRelativeStep, 1.0 / (k.observations + 1.5));
  k.relative *= std::pow(k.observations < kPatient ? ratio : patient, step);
  k.observations = std::min(k.observations + share, 10.0);
}

void StepCost::observe(std::int64_t rows, double seconds, bool drafts) {
  if (rows < 1 || rows > kExactRows || !(seconds > 0.0)) return;
  if (level_ == 0.0) level_ = seconds / relative(rows);
  const double ratio = std::clamp(seconds / this->seconds(rows), 0.25, 2.0);
  const double patient = ratio > 1.0 ? std::sqrt(ratio) : ratio;
  largest_seen_ = std::max(largest_seen_, rows);
  if (!drafts) {
    steps_since_plain_ = 0;
    level_ *= std::pow(patient, kLevelStep);
    for (std::size_t i = 1; i < kRows.size(); ++i) {
      Knot& k = knots_[i];
      const double excess = k.relative - guessed(kRows[i]);
      if (k.observations > 0.0 && excess > 0.0) k.relative -= excess * kDoubt / std::max(1.0, k.observations);
    }
    return;
  }
  ++steps_since_plain_;
  const auto after = std::upper_bound(kRows.begin(), kRows.end(), rows);
  const auto low = static_cast<std::size_t>(after - kRows.begin()) - 1;
  const std::size_t high = after == kRows.end() ? low : low + 1;
  const double share =
      high == low ? 0.0 : static_cast<double>(rows - kRows[low]) / static_cast<double>(kRows[high] - kRows[low]);
  const bool known = knots_[low].observations >= kKnown || (high != low && knots_[high].observations >= kKnown);
  if (known && steps_since_plain_ > kStale) {
    level_ *= std::pow(patient, kLevelStep);
    return;
  }
  const double old_low = relative(kRows[low]), old_high = relative(kRows[high]);
  correct(low, ratio, patient, 1.0 - share, old_low);
  if (high != low) correct(high, ratio, patient, share, old_high);
}

}  // namespace quern
