// What repeated measurements say: a median, how far samples spread, and between which values the median lies.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace quern {

/// A set of samples in short. All 0 for no samples.
struct Summary {
  std::int64_t count = 0;
  double median = 0.0;
  double minimum = 0.0, maximum = 0.0;
  double quartile_low = 0.0, quartile_high = 0.0;  ///< between which half of the samples lie
  double low = 0.0, high = 0.0;                    ///< interval that holds the true median with probability `coverage`
  double coverage = 0.0;                           ///< 0.95 or more from six samples on; with fewer, of [minimum, maximum]

  /// (quartile_high - quartile_low) / median; 0 where the median is 0.
  [[nodiscard]] double spread() const;
  /// Whether there are samples enough for an interval of 95 %.
  [[nodiscard]] bool has_interval() const { return coverage >= 0.95; }
};

/// The interval is that of order statistics: the samples of rank k from either end, with the largest k for which the
/// binomial distribution gives at least 95 % (Conover, Practical Nonparametric Statistics, 3.2). It assumes nothing about
/// the distribution but that samples are independent: a machine that drifts during a run breaks that, so what is to be
/// compared is measured in turns. Quartiles are linear between samples. Samples that are not finite are left out.
[[nodiscard]] Summary summarize(std::span<const double> samples);

/// summarize() of `amount / x` for every sample x: rates from times. Times of 0 are left out.
[[nodiscard]] Summary summarize_rates(double amount, std::span<const double> seconds);

enum class Difference : std::uint8_t {
  not_told_apart,  ///< the intervals overlap, or one is missing
  higher,          ///< the second is above the first
  lower
};
[[nodiscard]] std::string_view to_word(Difference difference);

/// Two summaries of the same quantity beside each other.
struct Comparison {
  double ratio = 0.0;                        ///< second median over first; 0 where the first is 0
  double ratio_low = 0.0, ratio_high = 0.0;  ///< with both medians anywhere in their intervals
  Difference difference = Difference::not_told_apart;
};

/// Calls two medians different only if both have an interval of 95 % and these do not overlap: a stricter test than one of
/// the difference itself.
[[nodiscard]] Comparison compare(const Summary& first, const Summary& second);

}  // namespace quern
