#include "math/sample_statistics.hpp"

#include <algorithm>
#include <cmath>

namespace quern {
namespace {

/// The sample at a rank between 0 and count - 1, linear between neighbours.
double at_rank(const std::vector<double>& sorted, double rank) {
  const auto below = static_cast<std::size_t>(rank);
  if (below + 1 >= sorted.size()) return sorted.back();
  return std::lerp(sorted[below], sorted[below + 1], rank - static_cast<double>(below));
}

/// Ranks, from 1, of the lower end of an interval with at least 95 %; at least 1. `coverage` receives what it has.
std::int64_t lower_rank(std::int64_t count, double& coverage) {
  // P(Binomial(count, 1/2) < k): the chance that the true median lies below the k-th sample. In logarithms, for 2^-count
  // underflows where there are more than a thousand samples.
  const auto n = static_cast<double>(count);
  double below = 0.0;
  std::int64_t rank = 0;
  coverage = 0.0;
  for (std::int64_t k = 1; 2 * k <= count; ++k) {
    const double i = static_cast<double>(k - 1);
    below += std::exp(std::lgamma(n + 1.0) - std::lgamma(i + 1.0) - std::lgamma(n - i + 1.0) - n * std::log(2.0));
    const double held = 1.0 - 2.0 * below;
    if (k > 1 && held < 0.95) break;
    rank = k;
    coverage = held;
  }
  return std::max<std::int64_t>(rank, 1);
}

}  // namespace

double Summary::spread() const { return median == 0.0 ? 0.0 : (quartile_high - quartile_low) / median; }

Summary summarize(std::span<const double> samples) {
  std::vector<double> sorted;
  for (const double sample : samples) {
    if (std::isfinite(sample)) sorted.push_back(sample);
  }
  Summary summary;
  if (sorted.empty()) return summary;
  std::sort(sorted.begin(), sorted.end());
  const double last = static_cast<double>(sorted.size() - 1);
  summary.count = std::ssize(sorted);
  summary.median = at_rank(sorted, last / 2.0);
  summary.minimum = sorted.front();
  summary.maximum = sorted.back();
  summary.quartile_low = at_rank(sorted, last / 4.0);
  summary.quartile_high = at_rank(sorted, 3.0 * last / 4.0);
  const auto rank = static_cast<std::size_t>(lower_rank(summary.count, summary.coverage));
  summary.low = sorted[rank - 1];
  summary.high = sorted[sorted.size() - rank];
  return summary;
}

Summary summarize_rates(double amount, std::span<const double> seconds) {
  std::vector<double> rates;
  for (const double time : seconds) {
    if (time > 0.0) rates.push_back(amount / time);
  }
  return summarize(rates);
}

std::string_view to_word(Difference difference) {
  switch (difference) {
    case Difference::not_told_apart:
      return "not told apart";
    case Difference::higher:
      return "higher";
    case Difference::lower:
      return "lower";
  }
  return "unknown";
}

Comparison compare(const Summary& first, const Summary& second) {
  Comparison result;
  if (first.median > 0.0 && first.low > 0.0 && first.high > 0.0) {
    result.ratio = second.median / first.median;
    result.ratio_low = second.low / first.high;
    result.ratio_high = second.high / first.low;
  }
  if (!first.has_interval() || !second.has_interval()) return result;
  if (second.low > first.high) result.difference = Difference::higher;
  if (second.high < first.low) result.difference = Difference::lower;
  return result;
}

}  // namespace quern
